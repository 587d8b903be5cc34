"""`rolemesh smoke` against a gateway that answers as a test wants it to."""

import io
import json
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli.client import Gateway, base_url
from rolemesh.cli.smoke import smoke

Reply = tuple[int, Any] | Sequence[bytes]  # a status and JSON, or the pieces of a cut-off stream


def stream(*events: Any, end: bytes = b"data: [DONE]\n\n") -> list[bytes]:
    return [*(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events), end]


CHUNK = {"choices": [{"delta": {"content": "hello"}}]}
CODER = {"id": "coder", "rolemesh": {"ready": 1, "total": 1}}
GOOD: dict[str, Reply] = {
    "/health": (200, {"status": "ok"}),
    "/ready": (200, {"status": "ready", "roles": {}}),
    "/v1/models": (200, {"data": [CODER]}),
    "/v1/models/coder": (200, CODER),
    "chat": (200, {"choices": [{"message": {"role": "assistant", "content": "hello"}}]}),
    "streamed": stream(CHUNK),
}


class Handler(BaseHTTPRequestHandler):
    """Answers from the table of its server."""

    def do_GET(self) -> None:
        self.reply(self.path)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.reply("streamed" if body.get("stream") else "chat")

    def reply(self, name: str) -> None:
        self.server.keys.add(self.headers["authorization"])
        if name == self.server.silent:
            self.server.released.wait(10)
            return
        status, pieces = 200, self.server.replies[name]
        if isinstance(pieces, tuple):
            status, pieces = pieces[0], [json.dumps(pieces[1]).encode()]
        self.send_response(status)
        if self.server.short == name:
            self.send_header("content-length", str(sum(map(len, pieces)) + 9))
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    server: "Server"


class Server(ThreadingHTTPServer):
    """A gateway on a port of its own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = dict(GOOD)
        self.silent = self.short = ""
        self.released = threading.Event()
        self.keys: set[str | None] = set()


class SmokeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()
        self.addCleanup(self.server.server_close)
        thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.server.shutdown)
        self.addCleanup(self.server.released.set)

    def smoke(self, key: str | None = None, patience: float = 10.0) -> tuple[bool, list[str]]:
        """Whether it passed, and its lines without the times."""
        output = io.StringIO()
        url = base_url(f"http://127.0.0.1:{self.server.server_port}/v1/")
        with redirect_stdout(output):
            passed = smoke(Gateway(url, key, patience))
        lines = output.getvalue().splitlines()
        self.assertTrue(all(" ms" in line for line in lines[:-1]))
        return passed, lines

    def failed(self, **replies: Reply) -> str:
        """The only line that failed, once these replies stand in the place of good ones."""
        self.server.replies |= replies
        passed, lines = self.smoke()
        self.assertFalse(passed)
        [line] = [line for line in lines if line.startswith("FAILED")]
        self.assertIn(" 1 failed", lines[-1])
        return line

    def test_good(self) -> None:
        """A gateway that does its job passes each step, in order."""
        passed, lines = self.smoke()
        self.assertTrue(passed)
        names = [line.removeprefix("ok ").rpartition(" ms")[0].rpartition(" ")[0] for line in lines]
        expected = ["health", "ready", "models", "coder: retrieve", "coder: chat"]
        self.assertEqual(names[:-1], [*expected, "coder: streamed chat"])
        self.assertEqual(lines[-1], "6 passed, 0 failed")

    def test_key(self) -> None:
        """The key goes with every request, and is never shown."""
        _, lines = self.smoke("rmk_secret")
        self.assertEqual(self.server.keys, {"Bearer rmk_secret"})
        self.assertNotIn("secret", "".join(lines))

    def test_nobody_there(self) -> None:
        """A URL where nobody listens is one failed step, and no others are tried."""
        self.server.shutdown()
        self.server.server_close()
        passed, lines = self.smoke()
        self.assertFalse(passed)
        self.assertIn("Connection refused; is a gateway running there?", lines[0])
        self.assertEqual(lines[1:], ["0 passed, 1 failed"])

    def test_refused(self) -> None:
        """A refusal is told with its status, its code and its message."""
        error = {"error": {"message": "say who you are", "code": "invalid_api_key"}}
        line = self.failed(chat=(401, error))
        self.assertTrue(line.endswith("401 invalid_api_key: say who you are"), line)

    def test_short(self) -> None:
        """An answer shorter than it was said to be is a failed step, though what came is JSON."""
        self.server.short = "chat"
        self.assertTrue(self.failed().endswith("the answer broke off, 9 bytes before its end"))

    def test_unready(self) -> None:
        """A role without a ready backend fails with the gateway's own reason, and is not asked."""
        coder = {"id": "coder", "rolemesh": {"ready": 0, "total": 2}}
        standing = {"ready": 0, "total": 2, "missing": ["box2/gpu0 is loading"]}
        del self.server.replies["chat"]
        line = self.failed(
            **{
                "/v1/models": (200, {"data": [coder]}),
                "/ready": (200, {"roles": {"coder": standing, "other": {"ready": 1}}}),
            }
        )
        self.assertTrue(line.endswith("coder 0/2 box2/gpu0 is loading"), line)

    def test_broken_off(self) -> None:
        """A stream without `[DONE]` failed, whatever came before."""
        self.assertIn("before [DONE]", self.failed(streamed=stream(CHUNK, end=b"")))

    def test_error_event(self) -> None:
        """An error within a stream is the reason of the failure."""
        error = {"error": {"message": "box2 went away", "code": "upstream_disconnected"}}
        line = self.failed(streamed=stream(CHUNK, error))
        self.assertTrue(line.endswith("upstream_disconnected: box2 went away"), line)

    def test_empty_stream(self) -> None:
        """A stream that ends at once is no answer."""
        self.assertIn("without an answer", self.failed(streamed=stream()))

    def test_not_a_gateway(self) -> None:
        """Whatever answers, a step fails in one line."""
        wrong: tuple[Any, ...] = ([], {"data": [1]}, {"data": [{"id": 1}]}, "\x1b[2J")
        for models in wrong:
            self.assertIn("no list of models", self.failed(**{"/v1/models": (200, models)}))
        self.assertIn("no role", self.failed(**{"/v1/models": (200, {"data": []})}))

    def test_silence(self) -> None:
        """A gateway that says nothing fails the step, and nothing hangs."""
        self.server.silent = "streamed"
        _, lines = self.smoke(patience=0.3)
        self.assertIn("no whole answer within 0.3 s", lines[-2])
