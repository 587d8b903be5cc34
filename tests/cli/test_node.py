"""`rolemesh node`, against a socket of the test's."""

import io
import socket
import tempfile
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli.main import main
from rolemesh.core.local import SOCKET, GatewayStanding, NodeStatus, ServerStatus
from rolemesh.core.model import BackendState
from rolemesh.core.report import GpuProcess, GpuReport, encode

READY = ServerStatus(
    "gpu0", "qwen", BackendState.READY, pid=17, age=61.0, slots=4, busy=1, draining="fan",
    argv=("llama-server", "--model", "/srv/my models/q.gguf"),
)  # fmt: skip
PAUSING = ServerStatus(
    "gpu1", "gpt", BackendState.BACKOFF, restarts=3, last_exit="gpu_memory: exit code 1",
    lines=("cudaMalloc failed",), retry_in=4.0, argv=("llama-server", "--port", "0"),
)  # fmt: skip
GPU = GpuReport("GPU-1", "RTX", 0, processes=(GpuProcess("ollama", 5, 9_800_000_000),))
GATEWAY = GatewayStanding("http://gw:8000", "registered", "registered", 61.0, next_in=3.2)
AWAY = GatewayStanding(
    "http://gw2:8000", "refused", "…", 12.0, "it refuses us: no valid key", 48.0, learned=True
)
STATUS = NodeStatus(
    "box2",
    "1",
    (GATEWAY, AWAY),
    (READY, PAUSING),
    (GPU,),
    degraded="no record of gpu0: disk full",
    warnings=("CA ca.pem expires in 9 days",),
)


class NodeTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # trial's own paths are too long for a socket
        self.addCleanup(folder.cleanup)
        self.state = folder.name

    def serve(self, told: bytes) -> None:
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(str(Path(self.state) / SOCKET))
        server.listen()

        def tell() -> None:
            reader, _ = server.accept()
            reader.sendall(told)
            reader.close()

        threading.Thread(target=tell, daemon=True).start()

    def call(self, *words: str) -> tuple[int, list[str], str]:
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
            code = main(["node", *words, "--state", self.state])
        return code, output.getvalue().splitlines(), errors.getvalue()

    def test_status(self) -> None:
        """How it stands with gateways, servers and GPUs, and what went wrong last."""
        self.serve(encode(STATUS))
        code, lines, _ = self.call("status")
        self.assertEqual(code, 0)
        self.assertEqual(
            lines,
            [
                "box2: rolemesh 1",
                "  degraded: no record of gpu0: disk full",
                "  warning: CA ca.pem expires in 9 days",
                "  gateway http://gw:8000: registered for 61 s, told next in 3 s",
                "  gateway http://gw2:8000 (told of by another): refused for 12 s, "
                "told next in 48 s",
                "    last trouble: it refuses us: no valid key",
                "  gpu0 (qwen): ready, pid 17 for 61 s, 1/4 busy",
                "    takes no new requests: fan",
                "  gpu1 (gpt): backoff, next start in 4 s",
                "    last exit: gpu_memory: exit code 1, 3 restarts in all",
                "      cudaMalloc failed",
                "  GPU 0 (RTX): ollama 9.8 GB",
            ],
        )

    def test_argv(self) -> None:
        """A server's command line as a shell would take it; one that is not there is exit 1."""
        self.serve(encode(STATUS))
        told = ["llama-server --model '/srv/my models/q.gguf'"]
        self.assertEqual(self.call("argv", "gpu0")[:2], (0, told))

    def test_no_such_backend(self) -> None:
        """Another name shows nothing."""
        self.serve(encode(STATUS))
        code, lines, errors = self.call("argv", "gpu9")
        self.assertEqual((code, lines), (1, []))
        self.assertIn("gpu0, gpu1", errors)

    def test_a_folder_far_down(self) -> None:
        """Where no socket can be, the path's length is told, and not that the node is down."""
        self.state = f"/{'x' * 107}"
        code, _, errors = self.call("status")
        self.assertEqual(code, 1)
        self.assertIn("give the agent a state folder with a shorter path", errors)

    def test_nobody(self) -> None:
        """No node, and something else behind the socket, are one line each."""
        code, _, errors = self.call("status")
        self.assertEqual((code, errors.count("\n")), (1, 1))
        self.serve(b"hello")
        code, _, errors = self.call("status")
        self.assertEqual((code, errors.count("\n")), (1, 1))
