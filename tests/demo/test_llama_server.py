"""Our launcher behaves as llama-server does, where a supervisor can see it."""

import json
import os
import signal
import socket
from pathlib import Path

from tests.real.harness import (
    LLAMA_SERVER,
    Program,
    RealTestCase,
    Server,
    answers,
    ask,
    free_port,
)

QUESTION = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


class Refusals(RealTestCase):
    """Starts that cannot succeed: exit 1, and the last line says why."""

    def refused(self, *argv: str) -> str:
        program = self.workshop.start("llama-server", [*LLAMA_SERVER, *argv])
        self.assertEqual(program.wait(), 1)
        self.assertNotIn("Traceback", program.text())
        return program.text()

    def test_unknown_argument(self) -> None:
        """An argument that llama-server does not know is named."""
        self.assertEqual(
            self.refused("--no-such-flag"), "error: invalid argument: --no-such-flag\n"
        )

    def test_value_missing_or_wrong(self) -> None:
        """A missing or wrong value names its argument."""
        self.assertIn("--port", self.refused("--port"))
        self.assertIn("--port", self.refused("--port", "http"))

    def test_model_missing(self) -> None:
        """No model, and a model that is not there."""
        self.assertIn("--model", self.refused("--port", "1"))
        said = self.refused("--model", "/nowhere/m.gguf", "--port", str(free_port()))
        self.assertIn("exiting due to model loading error", said)

    def test_port_in_use(self) -> None:
        """A port that another listens on."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            said = self.refused("--model", str(self.workshop.model()), "--port", port)
        self.assertIn("exiting due to HTTP server error", said)


class Serving(RealTestCase):
    """What a running server does."""

    server: Server

    @classmethod
    def furnish(cls) -> None:
        key_file = str(cls.workshop.file("key", "from-file\n"))
        model = cls.workshop.model()
        options = ("--api-key-file", key_file, "--metrics", "--slots", "--props", "--jinja")
        cls.server = cls.workshop.llama_server(model, *options)

    def test_key_from_file_is_needed(self) -> None:
        """Without the key of `--api-key-file` 401, with it an answer; `/health` stays public."""
        chat = f"{self.server.url}/v1/chat/completions"
        self.assertEqual(ask(chat, QUESTION).status, 401)
        answer = ask(chat, QUESTION, authorization="Bearer from-file")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json()["usage"]["completion_tokens"], 4)
        self.assertTrue(answers(f"{self.server.url}/health"))

    def test_context_is_shared_by_slots(self) -> None:
        """`-c 8192 --parallel 2` gives each slot half of it, as `/props` tells."""
        props = ask(f"{self.server.url}/props", authorization="Bearer from-file").json()
        self.assertEqual(props["total_slots"], 2)
        self.assertEqual(props["default_generation_settings"]["n_ctx"], 4096)

    def test_key_from_environment(self) -> None:
        """LLAMA_API_KEY is a key too."""
        port = free_port()
        argv = [*LLAMA_SERVER, "--model", str(self.workshop.model()), "--port", str(port)]
        program = self.workshop.start("llama-server", argv, LLAMA_API_KEY="from-env")
        url = f"http://127.0.0.1:{port}"
        program.until("it is ready", lambda: answers(f"{url}/health"))
        chat = f"{url}/v1/chat/completions"
        self.assertEqual(ask(chat, QUESTION, authorization="Bearer wrong").status, 401)
        self.assertEqual(ask(chat, QUESTION, authorization="Bearer from-env").status, 200)

    def test_embeddings(self) -> None:
        """`--embeddings --pooling mean` makes embeddings."""
        server = self.workshop.llama_server(
            self.workshop.model(), "--embeddings", "--pooling", "mean"
        )
        answer = ask(f"{server.url}/v1/embeddings", {"input": "hello"})
        self.assertEqual(len(answer.json()["data"][0]["embedding"]), 64)


class Ending(RealTestCase):
    """SIGTERM, in each phase of a server's life."""

    def serving(self, model: Path) -> Server:
        """One that is ready, and past the moment in which it takes the signals in its hands."""
        server = self.workshop.llama_server(model)
        server.program.until("it heeds SIGTERM", lambda: heeds(server.program, signal.SIGTERM))
        return server

    def test_idle(self) -> None:
        """An idle server, also one with a kept-alive connection, ends with 0."""
        server = self.serving(self.workshop.model())
        with connected(server) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 200"))
            self.assertEqual(server.program.stop(), 0)

    def test_while_loading(self) -> None:
        """A server that still loads ends at once by the signal, as llama-server does."""
        port, model = free_port(), self.workshop.folder / "endless.gguf"
        os.mkfifo(model)  # as on a disk that hangs
        argv = [*LLAMA_SERVER, "--model", str(model), "--port", str(port)]
        program = self.workshop.start("llama-server", argv)
        program.until("it loads", lambda: answers(f"http://127.0.0.1:{port}/health", 503))
        self.assertEqual(program.stop(), -signal.SIGTERM)

    def test_with_a_client_twice(self) -> None:
        """The first SIGTERM closes the listener and waits for the client; the second ends it."""
        server = self.serving(self.workshop.slow_model())
        with connected(server) as client:
            client.sendall(streaming_question())
            self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 200"))
            server.program.signal(signal.SIGTERM)
            server.program.until("the listener closes", lambda: refuses(server))
            self.assertTrue(server.program.running)
            self.assertNotEqual(server.program.stop(20), 0)


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))


def heeds(program: Program, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & 1 << (number - 1))


def refuses(server: Server) -> bool:
    try:
        connected(server).close()
    except ConnectionRefusedError:
        return True
    return False


def streaming_question() -> bytes:
    body = json.dumps({**QUESTION, "max_tokens": 4000, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
