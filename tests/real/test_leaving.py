"""P6: whoever leaves while a real llama.cpp server reads the prompt frees the slot."""

import contextlib
import json
import socket
import time
from typing import Any

from tests.real.harness import DEADLINE, RealTestCase, Server, ask, eventually

CHAT = "/v1/chat/completions"
LONG = "the " * 9000  # as many tokens, read for more than half a minute
SOON = 6.0  # seconds; left to itself llama-server takes the whole prompt's time


class LeavingTests(RealTestCase):
    server: Server
    gateway: Server

    @classmethod
    def furnish(cls) -> None:
        size = ("-c", "32768", "--parallel", "2", "-b", "64", "-ub", "64")
        cls.server = cls.workshop.llama_server(cls.workshop.slow_model(), *size)
        cls.gateway = cls.workshop.gateway(f"roles: {{writer: {cls.server.url}}}\n")

    def setUp(self) -> None:
        super().setUp()
        self.open = contextlib.ExitStack()
        self.addCleanup(self.open.close)
        self.until_free(DEADLINE)

    def busy(self) -> int:
        slots = ask(f"{self.server.url}/slots").json()
        return sum(slot["is_processing"] for slot in slots)

    def until_free(self, seconds: float, still: int = 0) -> None:
        eventually("the slots are free", lambda: self.busy() <= still, seconds)

    def begin(self, content: str, **more: Any) -> socket.socket:
        """A request whose answer nobody reads yet."""
        body = {"model": "writer", "messages": [{"role": "user", "content": content}], **more}
        text = json.dumps(body)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        host, port = self.gateway.url.removeprefix("http://").split(":")
        client = self.open.enter_context(socket.create_connection((host, int(port)), timeout=30))
        client.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
        return client

    def leaves(self, still: int = 0, **more: Any) -> None:
        """It leaves in the middle of its prompt; the slot is free soon."""
        client = self.begin(f"{time.monotonic()} {LONG}", **more)
        eventually("its prompt is being read", lambda: self.busy() == 1 + still)
        time.sleep(0.5)
        self.assertEqual(self.busy(), 1 + still, "the prompt was too short for this machine")
        client.close()
        self.until_free(SOON, still)

    def test_P6_a_stream_while_its_prompt_is_read(self) -> None:
        """Nothing was written yet, and its leaving is noticed all the same."""
        self.leaves(stream=True)

    def test_P6_a_whole_answer_while_its_prompt_is_read(self) -> None:
        """The same for who asked for the answer in one piece."""
        self.leaves()

    def test_P6_beside_another_stream(self) -> None:
        """While another slot writes, too; what that one writes goes on."""
        other = self.begin("hello", stream=True, max_tokens=4000)
        self.until_it_writes(other)
        self.leaves(still=1, stream=True)
        self.until_it_writes(other)

    def until_it_writes(self, client: socket.socket) -> None:
        """Read as far as an event."""
        data = b""
        while b"data:" not in data:
            part = client.recv(65536)
            self.assertTrue(part, data)
            data += part

    def test_progress_is_kept_from_the_client(self) -> None:
        """Who has not asked how far the prompt is gets the events of the answer alone."""
        told = ask(self.gateway.url + CHAT, self.hello(stream=True)).body
        self.assertNotIn(b"prompt_progress", told)
        self.assertEqual(told.count(b'"role":"assistant"'), 1)
        asked = ask(self.gateway.url + CHAT, self.hello(stream=True, return_progress=True)).body
        self.assertIn(b"prompt_progress", asked)

    def hello(self, **more: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "hello"}]
        return {"model": "writer", "messages": messages, "max_tokens": 3, **more}
