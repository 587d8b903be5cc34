"""What clients and roles live through when a part of the mesh goes away and comes back."""

import signal
import sys
from typing import Any, ClassVar

from tests.real.harness import (
    Program,
    RealTestCase,
    Server,
    answers,
    ask,
    eventually,
    free_port,
    lives,
)
from tests.real.test_openai_python import client, need_openai

QUESTION = {"model": "planner", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
SECONDS = 15.0  # within which a role is ready again


class Mesh(RealTestCase):
    """A gateway and an agent with one slow server."""

    gateway: ClassVar[Server]
    agent: ClassVar[Program]
    config = "roles: {planner: tiny}"

    @classmethod
    def furnish(cls) -> None:
        need_openai()
        cls.gateway = cls.workshop.gateway(cls.config)
        cls.agent = cls.workshop.mesh_node(cls.gateway, cls.workshop.slow_model())
        cls.agent.until("the mesh is ready", cls.ready)

    @classmethod
    def ready(cls) -> bool:
        return answers(f"{cls.gateway.url}/ready")

    def chat(self) -> int:
        return ask(f"{self.gateway.url}/v1/chat/completions", QUESTION).status

    def llama(self) -> Any:
        """The one llama-server that the agent runs now."""
        found = [each for each in self.agent.descendants() if _is_llama(each)]
        return found[0] if len(found) == 1 else None


class KilledServer(Mesh):
    """SIGKILL to the llama-server under the agent."""

    def kill(self) -> int:
        server = eventually("one llama-server", self.llama)
        server.kill()
        pid: int = server.pid
        return pid

    def test_role_is_ready_again(self) -> None:
        """The agent starts another one, and the role answers again."""
        old = self.kill()
        eventually("another llama-server", lambda: (s := self.llama()) and s.pid != old, SECONDS)
        eventually("planner answers again", lambda: self.chat() == 200, SECONDS)

    def test_stream_never_looks_whole(self) -> None:
        """The client of a stream that was cut gets an exception from the SDK, after the pieces."""
        from openai import APIError

        eventually("planner answers", lambda: self.chat() == 200, SECONDS)
        stream = client(self.gateway).chat.completions.create(
            model="planner", messages=QUESTION["messages"], max_tokens=3000, stream=True
        )
        pieces = iter(stream)
        for _ in range(5):
            next(pieces)
        self.kill()
        with self.assertRaises(APIError) as caught:
            for _ in pieces:
                pass
        self.assertIn("box", str(caught.exception))

    def test_whole_answer_or_error(self) -> None:
        """The client of an answer that is not streamed gets an error, not a part of it."""
        eventually("planner answers", lambda: self.chat() == 200, SECONDS)
        asking = self.workshop.start("client", _asking(self.gateway))
        backend = f"{self.gateway.url}/v1/nodes"
        eventually("the request is under way", lambda: _in_flight(ask(backend).json()))
        self.kill()
        self.assertEqual(asking.wait(150), 0, asking.text())
        self.assertIn(asking.text().strip(), ("502 upstream_disconnected", "200 whole"))


class RestartedGateway(Mesh):
    """The gateway goes away under a running agent."""

    def test_comes_back(self) -> None:
        """A new gateway on the same port learns of the agent's server and routes to it."""
        server = eventually("one llama-server", self.llama)
        port = int(self.gateway.url.rpartition(":")[2])
        self.assertEqual(self.gateway.program.stop(), 0)
        type(self).gateway = self.workshop.gateway(self.config, port)
        eventually("planner answers again", lambda: self.chat() == 200, SECONDS)
        self.assertEqual(self.llama().pid, server.pid)

    def test_killed_and_comes_back(self) -> None:
        """The same after SIGKILL."""
        port = int(self.gateway.url.rpartition(":")[2])
        self.gateway.program.signal(signal.SIGKILL)
        self.gateway.program.wait()
        type(self).gateway = self.workshop.gateway(self.config, port)
        eventually("planner answers again", lambda: self.chat() == 200, SECONDS)


class StoppedAgent(Mesh):
    """The agent ends, one way or the other."""

    def test_nothing_is_left(self) -> None:
        """SIGTERM: exit 0, no llama-server, and the role is refused at once."""
        servers = self.agent.descendants()
        self.assertTrue(any(map(_is_llama, servers)))
        self.assertEqual(self.agent.stop(), 0)
        self.assertEqual([each for each in servers if _is_llama(each) and lives(each)], [])
        self.assertEqual(self.chat(), 503)
        eventually("its helpers are gone", lambda: not any(map(lives, servers)))

    def test_nothing_survives_sigkill(self) -> None:
        """An agent that is killed takes its servers with it."""
        agent = self.workshop.mesh_node(self.gateway, self.workshop.model(), f"b{free_port()}")
        servers = eventually("a server", lambda: [s for s in agent.descendants() if _is_llama(s)])
        agent.signal(signal.SIGKILL)
        agent.wait()
        eventually("all are gone", lambda: not any(map(lives, servers)), 5)


def _is_llama(process: Any) -> bool:
    import psutil

    try:
        return "rolemesh.demo.llama_server" in process.cmdline()
    except psutil.Error:
        return False


def _in_flight(nodes: Any) -> bool:
    return any(backend["in_flight"] for node in nodes["data"] for backend in node["backends"])


_CLIENT = """
import sys
from openai import APIStatusError, OpenAI
client = OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=120)
messages = [{"role": "user", "content": "hi"}]
try:
    answer = client.chat.completions.create(model="planner", messages=messages, max_tokens=3000)
    print(200, "whole" if answer.choices[0].finish_reason == "length" else "half")
except APIStatusError as error:
    print(error.status_code, error.code)
"""


def _asking(gateway: Server) -> list[str]:
    return [sys.executable, "-c", _CLIENT, gateway.url]
