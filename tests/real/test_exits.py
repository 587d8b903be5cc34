"""Why a server does not run reaches whoever asks for its role."""

import json
from typing import Any, ClassVar

from tests.real.harness import RealTestCase, Server, ask, eventually, free_port

QUESTION = {"model": "planner", "messages": [{"role": "user", "content": "hi"}]}
SECONDS = 6.0  # from an exit to the gateway's words
LAST_WORDS = "error: invalid argument: --frob"


class FailingServer(RealTestCase):
    """A server that ends at once, with a line that says why, its key and a path of the machine."""

    gateway: ClassVar[Server]

    @classmethod
    def furnish(cls) -> None:
        cls.gateway = cls.workshop.gateway("roles: {planner: tiny}")
        first = free_port()
        file = cls.workshop.file("m.gguf", "no model")
        says = f"echo /srv/models/q.gguf $LLAMA_API_KEY {LAST_WORDS} >&2; exit 1"
        settings = {
            "gateway": cls.gateway.url,
            "name": "box",
            "llama_server": ["sh", "-c", says],
            "ports": f"{first}-{first + 5}",
            "run": [{"id": "cpu", "model": "tiny", "file": str(file)}],
        }
        node = cls.workshop.node(json.dumps(settings))
        node.until("it has ended", lambda: "cpu: starting -> backoff" in node.text())

    def refusal(self) -> str:
        """The gateway's words, once it has heard of the exit."""
        answer = ask(f"{self.gateway.url}/v1/chat/completions", QUESTION)
        message = str(answer.json()["error"]["message"]) if answer.status == 503 else ""
        return message if "is backoff after an exit" in message else ""

    def test_P12_the_refusal_says_why_and_when_next(self) -> None:
        """Class, exit code, last line and the time of the next try, within six seconds."""
        message = eventually("the reason", self.refusal, SECONDS)
        self.assertIn("box/cpu is backoff after an exit (bad_argument: exit code 1", message)
        self.assertIn(LAST_WORDS, message)
        self.assertRegex(message, r"next try in \d+ s")

    def test_it_tells_neither_key_nor_path(self) -> None:
        """A client does not learn what the machine looks like."""
        message = eventually("the reason", self.refusal)
        self.assertNotIn("/srv", message)
        self.assertIn(f"…/q.gguf *** {LAST_WORDS}", message)
        node: Any = ask(f"{self.gateway.url}/v1/nodes").json()["data"][0]
        self.assertNotIn("/srv", json.dumps(node))

    def test_the_nodes_page_has_the_lines(self) -> None:
        """An operator sees the last lines of the log."""
        eventually("the reason", self.refusal)
        node: Any = ask(f"{self.gateway.url}/v1/nodes").json()["data"][0]
        (backend,) = node["backends"]
        self.assertEqual(backend["last_exit"]["lines"], [f"…/q.gguf *** {LAST_WORDS}"])
        eventually("its restarts are counted", self.restarts)

    def restarts(self) -> Any:
        """How often the server was started again."""
        return ask(f"{self.gateway.url}/v1/nodes").json()["data"][0]["backends"][0]["restarts"]
