"""Two gateways that share nothing, and nodes whose files list both: each gateway is a whole one."""

import signal
import time
from functools import partial
from itertools import count
from typing import Any, ClassVar

from rolemesh.core.chains import Chain
from rolemesh.core.model import BackendId
from rolemesh.core.openai import Api
from rolemesh.core.rendezvous import lot_of, weight
from tests.real.harness import RealTestCase, Server, ask, eventually, free_port

CONFIG = "roles: {planner: tiny}\ngateway: {drain: 1s}"
BOXES = [BackendId("box1", "cpu"), BackendId("box2", "cpu")]
CHAT = "/v1/chat/completions"
BODY = {"model": "planner", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


class SeveralGateways(RealTestCase):
    ports: ClassVar[list[int]]
    gateways: ClassVar[list[Server]]

    @classmethod
    def furnish(cls) -> None:
        cls.ports = [free_port(), free_port()]
        cls.gateways = [cls.workshop.gateway(CONFIG, port) for port in cls.ports]
        model = cls.workshop.model()
        for name in ("box1", "box2"):
            cls.workshop.mesh_node(cls.gateways, model, name)
        cls.all_ready()

    @classmethod
    def all_ready(cls) -> None:
        eventually("both nodes are ready", lambda: list(map(_ready, cls.gateways)) == [2, 2])

    def test_a_session_has_one_backend(self) -> None:
        """Gateways that know nothing of a session send it to the same backend, each by itself, and
        it stays there when it goes on at the other one."""
        for number, box in enumerate(BOXES):
            session = _drawn_to(box)
            told = [{"role": "user", "content": f"I am {session}"}]
            said = [*told, {"role": "assistant", "content": "hi"}, *told]
            one, other = self.gateways[number], self.gateways[1 - number]
            nodes = [self.asked(one, session, told), self.asked(other, session, said)]
            self.assertEqual(nodes, [box.node] * 2)

    def asked(self, gateway: Server, session: str, said: list[Any]) -> str:
        """The node that answers, when nothing is under way anywhere."""
        eventually("nothing is under way", self.rests)
        body = {**BODY, "messages": said}
        found = ask(f"{gateway.url}{CHAT}", body, **{"x-session-id": session})
        return found.headers["x-rolemesh-node"]

    def rests(self) -> bool:
        """Whether nothing is under way, nor told of half a second later by a report of before."""
        if any(map(_busy, self.gateways)):
            return False
        time.sleep(0.5)
        return not any(map(_busy, self.gateways))

    def test_each_has_all_nodes(self) -> None:
        """What the nodes serve is served by both gateways; neither speaks of the other one."""
        for each in self.gateways:
            self.assertEqual(ask(f"{each.url}{CHAT}", BODY).status, 200)
        told = {"node": "box3", "base_url": "http://127.0.0.1:9", "roles": ["writer"]}
        accepted = ask(f"{self.gateways[0].url}/v1/nodes/register", told).json()
        self.assertEqual(accepted["gateways"], [])

    def test_one_goes_and_comes_back(self) -> None:
        """While one gateway is away the other serves; the nodes come to it again by themselves."""
        self.gateways[0].program.signal(signal.SIGKILL)
        self.gateways[0].program.wait()
        self.assertEqual(ask(f"{self.gateways[1].url}{CHAT}", BODY).status, 200)
        self.gateways[0] = self.workshop.gateway(CONFIG, self.ports[0])
        self.all_ready()


def _drawn_to(box: BackendId) -> str:
    """The name of a session whose lot that one is."""
    lots = ((str(n), lot_of(Chain(str(n), ()), Api.CHAT)) for n in count())
    return next(name for name, lot in lots if lot and max(BOXES, key=partial(weight, lot)) == box)


def _busy(gateway: Server) -> int:
    """Requests that are under way at its nodes, or were at their last report."""
    nodes = ask(f"{gateway.url}/v1/nodes").json()["data"]
    backends = [backend for node in nodes for backend in node["backends"]]
    return sum(each["in_flight"] + each["elsewhere"] for each in backends)


def _ready(gateway: Server) -> int:
    try:
        found: int = ask(f"{gateway.url}/ready").json()["roles"]["planner"]["ready"]
    except OSError:
        return 0
    return found
