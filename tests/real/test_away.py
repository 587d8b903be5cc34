"""A gateway that goes away under its nodes for longer than their first tries, and forgets all."""

import shutil
import signal
import time
from typing import Any, ClassVar

from tests.real.harness import Program, RealTestCase, Server, answers, ask, eventually

AWAY = 12.0  # seconds; by then the pauses between tries are as long as after a minute
BACK = 10.0  # seconds within which everything is routable again
QUESTION = {"model": "planner", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


class AwayGateway(RealTestCase):
    """Two agents and one gateway."""

    gateway: ClassVar[Server]
    agents: ClassVar[list[Program]]
    config = "roles: {planner: tiny}"

    @classmethod
    def furnish(cls) -> None:
        cls.gateway = cls.workshop.gateway(cls.config)
        model = cls.workshop.model()
        cls.agents = [cls.workshop.mesh_node(cls.gateway, model, f"box{n}") for n in range(2)]
        eventually("both are routable", cls.routable)

    @classmethod
    def routable(cls) -> bool:
        if not answers(f"{cls.gateway.url}/ready"):
            return False
        role = ask(f"{cls.gateway.url}/ready").json()["roles"]["planner"]
        return str(role["ready"]) == "2"

    def servers(self) -> set[int]:
        return {each.pid for agent in self.agents for each in agent.descendants() if _serves(each)}

    def test_A23_A24_all_is_routable_within_ten_seconds(self) -> None:
        """Killed, its state deleted: no server stops meanwhile, and both are back in time."""
        before = self.servers()
        self.gateway.program.signal(signal.SIGKILL)
        self.gateway.program.wait()
        port = int(self.gateway.url.rpartition(":")[2])
        shutil.rmtree(self.workshop.folder / f"gateway-{port}")
        time.sleep(AWAY)
        type(self).gateway = self.workshop.gateway(self.config, port)
        eventually("both are routable again", self.routable, BACK)
        self.assertEqual(ask(f"{self.gateway.url}/v1/chat/completions", QUESTION).status, 200)
        self.assertEqual(self.servers(), before)
        for agent in self.agents:
            told = [event["message"] for event in agent.events() if "not told" in event["message"]]
            self.assertEqual(len(told), 1, told)


def _serves(process: Any) -> bool:
    import psutil

    try:
        return "rolemesh.demo.llama_server" in process.cmdline()
    except psutil.Error:
        return False
