"""A gateway as a process of its own, and what can happen to one: rows L1, L9 to L14, L18, P9.

Its backends are doubles: nothing here depends on a model.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import termios
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.bench.doubles import Double
from tests.real.harness import (
    DEADLINE,
    TWISTD,
    Program,
    Server,
    Workshop,
    answers,
    ask,
    eventually,
    free_port,
)

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]
BODY = json.dumps({"model": "coder", "stream": True, "max_tokens": 100_000, "messages": HELLO})
BAD_FILES = (
    "roles: [",
    "roles: {coder: http://127.0.0.1:1}\nnothing: 1\n",
    "roles: {coder: http://127.0.0.1:1, coder: http://127.0.0.1:2}\n",
    "a: &a [x, x]\nb: &b [*a, *a]\nroles: [*b, *b]\n",
    "roles: " + "[" * 500,
    "roles: !!python/object/apply:os.system ['true']\n",
    "\0",
)


class Gateway(SynchronousTestCase):
    """A double, a workshop for gateways, and streams that never end by themselves."""

    def setUp(self) -> None:
        self.double = Double("--slots", 8, "--speed", 20, "--length", 100_000)
        self.addCleanup(self.double.close)
        self.workshop = Workshop()
        self.addCleanup(self.workshop.close)
        self.open = contextlib.ExitStack()
        self.addCleanup(self.open.close)

    def config(self, drain: str = "1s") -> str:
        return f"roles: {{coder: {self.double.url}}}\ngateway: {{drain: {drain}}}\n"

    def gateway(self, **more: str) -> Server:
        server = self.workshop.gateway(self.config(**more))
        self.until_ready(server)
        return server

    def until_ready(self, server: Server) -> None:
        server.program.until("it is ready", lambda: answers(f"{server.url}/ready"))

    def stream(self, server: Server) -> socket.socket:
        """A stream under way."""
        host, port = server.url.removeprefix("http://").split(":")
        place = (host, int(port))
        client = self.open.enter_context(socket.create_connection(place, timeout=DEADLINE))
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(BODY)}\r\n\r\n{BODY}".encode())
        self.assertIn(b"data:", self.more(client))
        return client

    def more(self, client: socket.socket) -> bytes:
        """What comes next, until there is an event in it."""
        data = b""
        while b"data:" not in data:
            part = client.recv(65536)
            self.assertTrue(part, data)
            data += part
        return data

    def rest(self, client: socket.socket) -> bytes:
        data = b""
        while part := client.recv(65536):
            data += part
        return data

    def assert_serves(self, server: Server) -> None:
        body = {"model": "coder", "max_tokens": 2, "messages": HELLO}
        self.assertEqual(ask(f"{server.url}{CHAT}", body).status, 200)


class StopTests(Gateway):
    """P9: signals."""

    def test_L1_P9_terminated_under_a_stream(self) -> None:
        """The stream gets its error event, and the process ends with 0 within drain + 2 s."""
        gateway = self.gateway()
        client = self.stream(gateway)
        began = time.monotonic()
        gateway.program.signal(signal.SIGTERM)
        rest = self.rest(client)
        self.assertIn(b'"code":"upstream_disconnected"', rest)
        self.assertNotIn(b"[DONE]", rest)
        self.assertFalse(rest.endswith(b"0\r\n\r\n"))
        client.close()
        self.assertEqual(gateway.program.wait(), 0)
        self.assertLess(time.monotonic() - began, 2.0 + 2.0 + 1.0)  # grace, drain, and the exit

    def test_P9_terminated_twice(self) -> None:
        """The second SIGTERM ends it at once, and the stream does not look whole."""
        gateway = self.gateway(drain="5m")
        client = self.stream(gateway)
        gateway.program.signal(signal.SIGTERM)
        heard = "SIGTERM: finishing what is under way"
        gateway.program.until("the first is heard", lambda: heard in gateway.program.text())
        gateway.program.signal(signal.SIGTERM)
        self.assertEqual(gateway.program.wait(30), 0)
        with contextlib.suppress(ConnectionResetError):
            self.assertNotIn(b"[DONE]", self.rest(client))


class ReloadTests(Gateway):
    """L9 to L11: SIGHUP."""

    def test_L9_L10_bad_files_change_nothing(self) -> None:
        """Each is told with its place, streams and roles stay; then a good one is taken."""
        gateway = self.gateway()
        client = self.stream(gateway)
        path = next(self.workshop.folder.glob("models-*.yaml"))
        for number, text in enumerate(BAD_FILES, 1):
            path.write_text(text)
            gateway.program.signal(signal.SIGHUP)
            self.problems(gateway.program, path.name, number)
            self.more(client)
        self.assert_serves(gateway)
        path.write_text(f"roles: {{planner: {self.double.url}}}\n")
        gateway.program.signal(signal.SIGHUP)
        gateway.program.until("it is taken", lambda: self.roles(gateway) == {"planner"})
        self.more(client)  # L11: a stream of a role that is gone goes on
        self.assertNotIn("Traceback", gateway.program.text())

    def problems(self, program: Program, name: str, files: int) -> None:
        """Wait until something was said of so many files, each time with file, line and column."""

        def told() -> bool:
            lines = [
                e["message"] for e in program.events() if "not reloaded" in e.get("message", "")
            ]
            return len(lines) >= files and all(f"{name}:" in line for line in lines)

        program.until(f"file {files} is refused", told)

    def roles(self, gateway: Server) -> set[str]:
        return set(ask(f"{gateway.url}/ready").json()["roles"])


class StartTests(Gateway):
    """L12, L18: what another has already, or nobody can have."""

    def refused(self, *arguments: str) -> tuple[int, list[str]]:
        """The exit code of a gateway that cannot start, and its lines on standard error."""
        path = self.workshop.file("models.yaml", self.config())
        argv = [*TWISTD, "rolemesh-gateway", "--config", str(path), *arguments]
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        self.assertNotIn("Traceback", ended.stderr + ended.stdout)
        return ended.returncode, ended.stderr.splitlines()

    def test_L12_L18_one_state_folder_one_port(self) -> None:
        """A second gateway exits 75 and names the first one's pid; on its port, 1 and the port."""
        gateway = self.gateway()
        port = gateway.url.rpartition(":")[2]
        state = str(self.workshop.folder / f"gateway-{port}")
        code, [line] = self.refused("--state", state, "--listen", "tcp:0:interface=127.0.0.1")
        self.assertEqual(code, 75)
        self.assertIn(f"process {gateway.program.pid}", line)
        other = str(self.workshop.folder / "other")
        listen = f"tcp:{port}:interface=127.0.0.1"
        code, [line] = self.refused("--state", other, "--listen", listen)
        self.assertEqual(code, 1)
        self.assertIn(f"{listen}: Address already in use", line)
        self.assert_serves(gateway)

    def test_L18_no_certificate(self) -> None:
        """A certificate that is not there, or is none, is one line, and no gateway."""
        nothing = self.workshop.file("nothing.pem", "no certificate")
        for path in (self.workshop.folder / "missing.pem", nothing):
            listen = f"ssl:0:interface=127.0.0.1:privateKey={path}:certKey={path}"
            code, lines = self.refused(
                "--state", str(self.workshop.folder / "s"), "--listen", listen
            )
            self.assertEqual((code, len(lines)), (78, 1), lines)
            self.assertIn(path.name, lines[0])


class ScarcityTests(Gateway):
    """L13, L14: no descriptors, and nobody who reads the log."""

    def test_L13_no_descriptors(self) -> None:
        """With every descriptor taken streams go on, nothing spins, and it recovers by itself."""
        port, path = free_port(), self.workshop.file("models.yaml", self.config())
        argv = [*TWISTD, "rolemesh-gateway", "--config", str(path)]
        options = ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        options += ["--state", str(self.workshop.folder / "few")]
        shell = ["sh", "-c", 'ulimit -n 50; exec "$@"', "sh"]
        gateway = Server(
            self.workshop.start("gateway", [*shell, *argv, *options]), f"http://127.0.0.1:{port}"
        )
        self.until_ready(gateway)
        client = self.stream(gateway)
        place = ("127.0.0.1", port)
        crowd = [socket.create_connection(place, timeout=DEADLINE) for _ in range(100)]
        eventually("it does not try again and again", lambda: self.rests(gateway, client))
        for each in crowd:
            each.close()
        eventually("it serves again", lambda: answers(f"{gateway.url}/health"))
        self.more(client)
        self.assertTrue(gateway.program.running)

    def rests(self, gateway: Server, client: socket.socket) -> bool:
        """Whether nothing is said while a stream goes on, but of health and of a busy machine."""
        before = self.told(gateway.program)
        for _ in range(10):
            self.more(client)
        return self.told(gateway.program) == before

    def told(self, program: Program) -> int:
        others = ("rolemesh.gateway.health", "rolemesh.lag")
        return sum(not each["log.logger"].startswith(others) for each in program.events())

    def test_L14_nobody_reads_the_log(self) -> None:
        """A full pipe for standard output, and then a closed one, cost no request anything."""
        port, path = free_port(), self.workshop.file("models.yaml", self.config())
        argv = [*TWISTD, "rolemesh-gateway", "--config", str(path)]
        options = ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        options += ["--state", str(self.workshop.folder / "mute")]
        process = subprocess.Popen([*argv, *options], stdout=subprocess.PIPE)
        self.addCleanup(self.end, process)
        url = f"http://127.0.0.1:{port}"
        eventually("it answers", lambda: answers(f"{url}/health"))
        for _ in range(200):  # of 400 bytes a line and more
            self.assertEqual(ask(f"{url}{CHAT}", {"model": "nobody", "messages": []}).status, 404)
        eventually("the pipe is full", lambda: self.is_full(process))
        assert process.stdout is not None
        process.stdout.close()
        self.assertEqual(ask(f"{url}{CHAT}", {"model": "nobody", "messages": []}).status, 404)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(DEADLINE), 0)

    def is_full(self, process: Any) -> bool:
        """Whether a pipe holds as much as pipes hold."""
        held = fcntl.ioctl(process.stdout, termios.FIONREAD, b"\0" * 4)
        return int.from_bytes(held, "little") > 45_000

    def end(self, process: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
