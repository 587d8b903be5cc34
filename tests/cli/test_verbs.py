"""Operators' commands against a gateway that answers as a test wants it to."""

import io
import json
import os
import threading
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli import logs
from rolemesh.cli.main import main

DONE = {"done": True, "message": "box2/gpu0 takes no new requests"}
BACKEND = {
    "id": "gpu0", "model": "qwen", "ready": False, "state": "draining (fan)", "in_flight": 1,
    "slots": 4, "context": 65536, "restarts": 2, "build": "b1",
}  # fmt: skip
GPU = {"index": 0, "name": "RTX", "memory_used": 2e9, "memory_total": 24e9, "temperature": 50.0}
NODE = {"node": "box2", "backends": [BACKEND], "gpus": [GPU]}
ROLE = {"ready": 0, "total": 1, "missing": ["box2/gpu0 is draining (fan)"]}
MODEL = {
    "id": "coder", "context_length": 65536,
    "rolemesh": {"ready": 1, "total": 2, "aliases": ["gpt-4o"]},
}  # fmt: skip
ASKING = (["status"], ["nodes"], ["models"], ["usage"], ["explain", "coder"], ["why"])


class Handler(BaseHTTPRequestHandler):
    """Notes what is asked, and answers what its server says."""

    server: "Server"

    def do_GET(self) -> None:
        self.reply(None)

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def reply(self, body: Any) -> None:
        self.server.asked.append((self.path, body, self.headers["authorization"]))
        status, answer = self.server.script.pop(0) if self.server.script else self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A gateway on a port of its own."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: tuple[int, Any] = (200, DONE)
        self.script: list[tuple[int, Any]] = []  # of answers before that one
        self.asked: list[tuple[str, Any, str | None]] = []


def part(lines: list[str], at: str) -> bytes:
    """A part of a log that is followed."""
    return b"data: " + json.dumps({"lines": lines, "at": at}).encode() + b"\n\n"


class CliCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = Server()
        self.addCleanup(self.server.server_close)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.shutdown)
        self.enterContext(patch.dict(os.environ, {}, clear=True))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def call(self, *words: str) -> tuple[int, str]:
        """Run a command that asks the gateway; what it complained of is in `complaint`."""
        return self.run_command(*words, "--url", self.url)

    def run_command(self, *words: str) -> tuple[int, str]:
        with (
            redirect_stdout(io.StringIO()) as output,
            redirect_stderr(io.StringIO()) as complaint,
        ):
            code = main(words)
        self.complaint = complaint.getvalue()
        return code, output.getvalue()

    def answer(self, status: int, answer: Any) -> None:
        self.server.answer = (status, answer)


class VerbTests(CliCase):
    """`drain`, `resume` and `restart`."""

    def test_paths(self) -> None:
        """Each verb goes to the route of its target."""
        for words, path in (
            (("drain", "box2"), "/v1/nodes/box2/drain"),
            (("resume", "box2"), "/v1/nodes/box2/resume"),
            (("drain", "box2/gpu0"), "/v1/backends/box2/gpu0/drain"),
            (("resume", "box2/gpu0"), "/v1/backends/box2/gpu0/resume"),
            (("restart", "box2/gpu0"), "/v1/backends/box2/gpu0/restart"),
        ):
            self.assertEqual(self.call(*words), (0, f"{DONE['message']}\n"))
            self.assertEqual(self.server.asked[-1][0], path)

    def test_wish(self) -> None:
        """A drain carries its reason and its seconds, and each order an id of its own."""
        for _ in range(2):
            self.call("drain", "box2", "--for", "1h30m", "--reason", "new fan")
        (_, first, _), (_, second, _) = self.server.asked
        self.assertEqual((first["for_s"], first["reason"]), (5400.0, "new fan"))
        self.assertNotEqual(first["id"], second["id"])

    def test_keys(self) -> None:
        """--key goes before an operator's variable, and that before a client's."""
        for variables, words, key in (
            ({}, (), None),
            ({"ROLEMESH_KEY": "a"}, (), "Bearer a"),
            ({"ROLEMESH_KEY": "a", "ROLEMESH_ADMIN_KEY": "b"}, (), "Bearer b"),
            ({"ROLEMESH_ADMIN_KEY": "b"}, ("--key", "c"), "Bearer c"),
        ):
            with patch.dict(os.environ, variables):
                self.call("restart", "box2/gpu0", *words)
            self.assertEqual(self.server.asked[-1][2], key)

    def test_not_done(self) -> None:
        """What is not done, not done yet, or refused is told in a line, with exit code 1; on stdout
        is the gateway's answer alone."""
        error = {"error": {"code": "bad_request", "message": "it is gpu_lost"}}
        self.answer(400, error)
        told = "rolemesh restart: 400 bad_request: it is gpu_lost\n"
        for words in ((), ("--json",)):
            self.assertEqual(self.call("restart", "box2/gpu0", *words), (1, ""))
            self.assertEqual(self.complaint, told)
        self.answer(202, {"done": False, "message": "'box2' is not connected"})
        self.assertEqual(self.call("drain", "box2"), (1, "'box2' is not connected\n"))

    def test_mistyped(self) -> None:
        """A target that is none is refused with one that is, before anything is asked."""
        for words in (("restart", "box2"), ("drain", "a/b/c"), ("drain", "box2", "--for", "soon")):
            url = ("--url", "http://127.0.0.1:1")
            with redirect_stderr(io.StringIO()) as errors:
                self.assertRaises(SystemExit, main, [*words, *url])
            self.assertIn("such as", errors.getvalue())
        self.assertEqual(self.server.asked, [])


class LogTests(CliCase):
    """`logs`."""

    def test_once(self) -> None:
        """The last lines, as many as wanted, harmless on a terminal."""
        self.answer(200, {"lines": ["one", "two \x1b[31m"]})
        self.assertEqual(self.call("logs", "box2/gpu0", "-n", "2"), (0, "one\ntwo \ufffd[31m\n"))
        self.assertEqual(self.server.asked[0][0], "/v1/backends/box2/gpu0/logs?lines=2")

    def follow(self, *answers: tuple[int, Any]) -> tuple[int, str]:
        """What `-f` shows of a gateway that answers so, one after the other, and then refuses."""
        refusal = {"error": {"code": "invalid_api_key", "message": "it was revoked"}}
        self.server.script = [*answers, (401, refusal)]
        self.pauses: list[float] = []
        with patch.object(logs, "sleep", self.pauses.append):
            return self.call("logs", "box2/gpu0", "-f")

    def test_follow(self) -> None:
        """With -f each part is shown as it comes, until it is refused."""
        parts = b'data: {"lines": ["a"]}\n\n: keep-alive\n\ndata: {"lines": ["b", "c"]}\n\n'
        self.assertEqual(self.follow((200, parts)), (1, "a\nb\nc\n"))
        self.assertEqual(self.server.asked[0][0], "/v1/backends/box2/gpu0/logs?lines=200&follow=1")
        self.assertIn("rolemesh logs: 401 invalid_api_key: it was revoked\n", self.complaint)

    def test_goes_on(self) -> None:
        """When the gateway or the node was away it goes on behind the last part that was shown,
        says both once on standard error, and asks after pauses that grow."""
        silent = b'data: {"error": {"message": "\'box2\' does not answer"}}\n\n'
        unknown = {"error": {"code": "unknown_node", "message": "There is no node 'box2' here."}}
        code, output = self.follow(
            (200, part(["a"], "1:2:3") + part(["b"], "1:3:4") + silent),
            (503, b"<h1>no server is available</h1>"),
            (410, unknown),
            (200, part(["c"], "5:6:7")),
        )
        self.assertEqual((code, output), (1, "a\nb\nc\n"))
        afters = [path.partition("&after=")[2] for path, _, _ in self.server.asked]
        behind = "1%3A3%3A4"
        self.assertEqual(afters, ["", behind, behind, behind, "5%3A6%3A7"])
        soon = "; it goes on once that is over (Ctrl-C ends it)"
        self.assertEqual(self.complaint.splitlines(), [
            f"rolemesh logs: 'box2' does not answer{soon}",
            "rolemesh logs: here it goes on",
            f"rolemesh logs: the log ended{soon}",
            "rolemesh logs: 401 invalid_api_key: it was revoked",
        ])  # fmt: skip
        first, second, third, anew = self.pauses
        self.assertTrue(0.5 <= first < 1 <= second < 2 <= third < 3, self.pauses)
        self.assertLess(anew, 1)

    def test_never_begun(self) -> None:
        """A log that cannot begin is refused at once, whatever the reason."""
        unknown = {"error": {"code": "unknown_node", "message": "There is no node 'box3' here."}}
        silent = b'data: {"error": {"message": "\'box2\' does not answer"}}\n\n'
        for answer in ((410, unknown), (503, b""), (200, silent)):
            self.server.asked.clear()
            self.assertEqual(self.follow(answer), (1, ""))
            self.assertEqual((len(self.server.asked), self.pauses), (1, []))
            self.assertEqual(self.complaint.count("\n"), 1)


class LookTests(CliCase):
    """`status`, `nodes`, `models`, `explain` and `why`."""

    def test_status(self) -> None:
        """Each role with how many backends are ready, and what the others lack; exit 1 for none."""
        self.answer(503, {"status": "unavailable", "roles": {"coder": ROLE}})
        told = "gateway: unavailable\n  coder: ready 0/1\n    box2/gpu0 is draining (fan)\n"
        self.assertEqual(self.call("status"), (1, told))
        self.answer(200, {"status": "ready", "roles": {}})
        self.assertEqual(self.call("status")[0], 0)

    def test_status_warns(self) -> None:
        """What its operator should see to soon is told before the roles."""
        roles = {"coder": {"ready": 1, "total": 1, "missing": []}}
        warnings = ["certificate gw.pem expires in 6 days"]
        self.answer(200, {"status": "ready", "roles": roles, "warnings": warnings})
        told = ["gateway: ready", f"  warning: {warnings[0]}", "  coder: ready 1/1"]
        code, output = self.call("status")
        self.assertEqual((code, output.splitlines()), (0, told))

    def test_nodes(self) -> None:
        """Each backend is a line, and each GPU."""
        self.answer(200, {"data": [NODE]})
        code, output = self.call("nodes")
        head, backend, gpu = output.splitlines()
        self.assertEqual((code, head.split()[:3]), (0, ["BACKEND", "MODEL", "STATE"]))
        self.assertEqual(
            backend.split(), ["box2/gpu0", "qwen", "draining", "(fan)", "1/4", "65536", "2", "b1"]
        )
        self.assertEqual(gpu, "box2 GPU 0 (RTX): 2.0 of 24.0 GB, 50 °C")

    def test_no_nodes(self) -> None:
        """An empty mesh is said to be one."""
        self.answer(200, {"data": []})
        self.assertEqual(self.call("nodes"), (0, "no node is registered here\n"))

    def test_models(self) -> None:
        """Each role with its readiness, context and aliases."""
        self.answer(200, {"data": [MODEL]})
        _, output = self.call("models")
        self.assertEqual(output.splitlines()[1].split(), ["coder", "1/2", "65536", "gpt-4o"])

    def test_explain(self) -> None:
        """Where a request would go, what the others would cost, and what they lack."""
        about = {"role": "coder", "policy": "affinity", "tokens": 12}
        candidates = [
            {"backend": "box1/gpu0", "seconds": 0.25},
            {"backend": "box2/gpu0", "refused": "it is draining"},
        ]
        choice = {"choice": "box1/gpu0", "route": "affinity; new", "candidates": candidates}
        self.answer(200, {**about, **choice})
        code, text = self.call("explain", "coder", "hello")
        told = "coder (affinity, about 12 tokens): box1/gpu0: affinity; new\n"
        told += "  box1/gpu0: 0.250 s to the first token\n  box2/gpu0: no, it is draining\n"
        self.assertEqual((code, text), (0, told))
        messages = [{"role": "user", "content": "hello"}]
        self.assertEqual(
            self.server.asked[0][:2], ("/v1/roles/coder/explain", {"messages": messages})
        )
        none: dict[str, Any] = {"choice": None, "refusal": "no backend serves it", "candidates": []}
        self.answer(200, {**about, **none})
        self.assertEqual(self.call("explain", "coder")[0], 1)

    def test_why(self) -> None:
        """What a request waited for: the queue, the prompt with what was read again, the answer."""
        tried = [{"backend": "box1/gpu0", "outcome": "served", "ms": 1200.0}]
        usage = {"prompt": 1000, "cached": 100, "completion": 50, "predicted_ms": 500.0}
        record = {
            "id": "r1", "path": "/v1/chat/completions", "role": "coder", "end": "complete",
            "node": "box1", "backend": "gpu0", "model": "qwen", "route": "affinity",
            "attempts": tried, "queue_ms": 30.0, "usage": usage, "believed_cached": 900,
            "normal_rate": 50.0, "duration_ms": 1300.0, "bytes": 99,
        }  # fmt: skip
        self.answer(200, record)
        code, text = self.call("why", "r/1")
        self.assertEqual((code, self.server.asked[0][0]), (0, "/v1/requests/r%2F1"))
        self.assertIn("  queue:   30 ms\n", text)
        believed = "about 900 were believed to be cached there, and were not"
        self.assertIn(f"900 of 1000 tokens read, 100 from the cache; {believed}\n", text)
        self.assertIn("50 tokens in 500 ms: 100.0 tokens/s, 200% of what is normal there\n", text)

    def test_json(self) -> None:
        """With --json the answer is what came."""
        for word, answer in (("models", {"data": [MODEL]}), ("nodes", {"data": [NODE]})):
            self.answer(200, answer)
            self.assertEqual(json.loads(self.call(word, "--json")[1]), answer)

    def test_refused(self) -> None:
        """A refusal is one line on standard error, and exit 1: no pipe gets it, with --json or
        without."""
        error = {"error": {"code": "invalid_api_key", "message": "no such key"}}
        self.answer(401, error)
        for words in ASKING:
            for form in ([], ["--json"]):
                self.assertEqual(self.call(*words, *form), (1, ""))
                told = f"rolemesh {words[0]}: 401 invalid_api_key: no such key\n"
                self.assertEqual(self.complaint, told)

    def test_away(self) -> None:
        """A gateway that is not there is one line on standard error, and exit 1."""
        self.server.shutdown()
        self.server.server_close()
        for words in ASKING:
            self.assertEqual(self.call(*words), (1, ""))
            self.assertEqual(self.complaint.count("\n"), 1)
            self.assertIn("is a gateway running there?", self.complaint)

    def test_bad_pin(self) -> None:
        """An environment by which no gateway can be known is a refusal too, and no traceback."""
        with patch.dict(os.environ, {"ROLEMESH_PIN": "sha256:short"}):
            for words in (*ASKING, ["logs", "box2/gpu0"], ["restart", "box2/gpu0"]):
                self.assertEqual(self.call(*words), (1, ""))
                self.assertIn(f"rolemesh {words[0]}: $ROLEMESH_PIN: ", self.complaint)
        self.assertEqual(self.server.asked, [])
