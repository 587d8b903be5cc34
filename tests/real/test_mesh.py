"""Two gateways on one PostgreSQL behind HAProxy, with two nodes: as one, also while parts of it go.

HAProxy runs with the very file that the docs show; it sends a request again only when no gateway
has seen it. What it answers for a gateway that died makes the official SDK send again.
"""

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from secrets import token_hex
from typing import Any, ClassVar, TypeVar

import psutil
from attrs import define, field

from tests.doubles.postgres import Postgres
from tests.doubles.raw import NONE
from tests.gateway.store.test_postgres import need_postgres
from tests.real.harness import (
    DEADLINE,
    Answer,
    Program,
    RealTestCase,
    Server,
    ask,
    eventually,
    free_port,
    need_haproxy,
)
from tests.real.test_openai_python import HELLO, need_openai

CONFIG = """
roles: {{planner: tiny}}
gateway:
  drain: 5s
  store: {store}
  keys: {{file: keys.yaml}}
  nodes: {{tokens: {{file: nodes.yaml}}, advertise: "http://127.0.0.1:{port}"}}
"""
T = TypeVar("T")

CHAT = "/v1/chat/completions"


@define
class Crowd:
    """Clients that ask without a pause, every second one for a stream, until they are told to end.

    `broken` counts the streams that broke off after their first word; `failed` are the requests
    that failed before, in the words of the SDK.
    """

    url: str
    key: str
    served: int = 0
    broken: int = 0
    failed: list[str] = field(factory=list)
    _over: threading.Event = field(factory=threading.Event)
    _clients: list[threading.Thread] = field(factory=list)

    def begin(self, count: int) -> None:
        for number in range(count):
            client = threading.Thread(target=self._ask_on, args=(bool(number % 2),))
            self._clients.append(client)
            client.start()

    def end(self) -> None:
        self._over.set()
        for client in self._clients:
            client.join(DEADLINE)

    def _ask_on(self, stream: bool) -> None:
        from openai import OpenAI

        with OpenAI(base_url=f"{self.url}/v1", api_key=self.key, timeout=DEADLINE) as client:
            while not self._over.is_set():
                self._ask(client, stream)

    def _ask(self, client: Any, stream: bool) -> None:
        told = ""
        try:
            for word in _words(client, stream):
                told += word
        except Exception as error:
            if told:
                self.broken += 1
            else:
                self.failed.append(f"{type(error).__name__}: {error}")
        else:
            self.served += 1


def _words(client: Any, stream: bool, tokens: int = 200, **more: Any) -> Iterator[str]:
    asked = client.chat.completions.create(
        model="planner", messages=HELLO, max_tokens=tokens, temperature=0, stream=stream, **more
    )
    if not stream:
        yield asked.choices[0].message.content
        return
    end = None
    for chunk in asked:
        for choice in chunk.choices:
            end = choice.finish_reason or end
            yield choice.delta.content or ""
    if end is None:
        raise AssertionError("the stream ended without a reason")


class Mesh(RealTestCase):
    """What stays the same however the parts come and go."""

    database: ClassVar[Postgres | None] = None
    gateways: ClassVar[list[Server]]
    ports: ClassVar[list[int]]
    balancer: ClassVar[Server]
    nodes: ClassVar[list[Program]]
    key: ClassVar[str]

    @classmethod
    def furnish(cls) -> None:
        need_openai()
        need_postgres()
        need_haproxy()
        cls.database = database = Postgres()
        database.start()
        cls.key = cls.workshop.key()
        tokens = [cls.workshop.token(name) for name in ("box1", "box2")]
        cls.ports = [free_port(), free_port()]
        cls.gateways = [cls.gateway(free_port(), each) for each in cls.ports]
        cls.balancer = cls.workshop.balancer(cls.ports)
        model = cls.workshop.model()
        cls.nodes = [
            cls.workshop.mesh_node(cls.gateways[0], model, name, token)
            for name, token in zip(("box1", "box2"), tokens, strict=True)
        ]
        eventually("both nodes are ready", lambda: cls.all(cls.ready) == [2, 2])
        eventually("HAProxy has seen it", cls.both_are_asked)

    @classmethod
    def _leave(cls) -> None:
        try:
            super()._leave()
        finally:
            if not cls._open and cls.database is not None:
                cls.database.remove()
                cls.database = None

    @classmethod
    def gateway(cls, port: int, balanced: int) -> Server:
        assert cls.database is not None
        config = CONFIG.format(store=cls.database.url, port=port)
        also = f"haproxy:tcp:{balanced}:interface=127.0.0.1"
        return cls.workshop.gateway(config, port, also)

    @classmethod
    def all(cls, ask: Callable[[Server], T]) -> list[T]:
        """What each gateway answers."""
        return [ask(each) for each in cls.gateways]

    @classmethod
    def ready(cls, gateway: Server) -> int:
        """How many backends of the role are ready there."""
        try:
            told = ask(f"{gateway.url}/ready", authorization=f"Bearer {cls.key}").json()
        except OSError:
            return 0
        found: int = told["roles"]["planner"]["ready"]
        return found

    @classmethod
    def both_are_asked(cls) -> bool:
        """Whether each gateway gets some of a few requests to HAProxy."""
        ids = [token_hex(8) for _ in range(4)]
        for each in ids:
            cls.chat(cls.balancer, {"x-request-id": each}, max_tokens=1)
        return all(any(cls.knows(gateway, each) for each in ids) for gateway in cls.gateways)

    @classmethod
    def knows(cls, gateway: Server, request: str) -> bool:
        url = f"{gateway.url}/v1/requests/{request}"
        return ask(url, authorization=f"Bearer {cls.key}").status == 200

    @classmethod
    def chat(cls, server: Server, headers: Mapping[str, str] = NONE, **more: Any) -> Answer:
        body = {"model": "planner", "messages": HELLO, **more}
        return ask(f"{server.url}{CHAT}", body, authorization=f"Bearer {cls.key}", **headers)

    def about(self, gateway: Server) -> dict[str, Any]:
        """What a gateway tells of its nodes, by name."""
        found = ask(f"{gateway.url}/v1/nodes", authorization=f"Bearer {self.key}").json()["data"]
        return {node["node"]: node for node in found}

    def load(self, gateway: Server) -> tuple[int, int, int]:
        """Of box1: requests of that gateway, slots that others have, requests without a slot."""
        [found] = self.about(gateway)["box1"]["backends"]
        return found["in_flight"], found["elsewhere"], found["overshoot"]

    def under_way(self) -> int:
        """Requests at all backends."""
        nodes = [node for each in self.gateways for node in self.about(each).values()]
        return sum(backend["in_flight"] for node in nodes for backend in node["backends"])

    def balanced(self, number: int) -> int:
        """The requests that HAProxy has at a gateway."""
        gateway = psutil.Process(self.gateways[number].program.pid)
        places = [each.laddr.port for each in gateway.net_connections() if each.raddr]
        return places.count(self.ports[number])

    def status(self, gateway: Server) -> str:
        found: str = ask(f"{gateway.url}/ready").json()["status"]
        return found

    def kill(self, number: int) -> None:
        self.addCleanup(self.revive, number)
        self.gateways[number].program.signal(signal.SIGKILL)
        self.gateways[number].program.wait()

    def revive(self, number: int) -> None:
        """Start a gateway where one was; returns when it has the nodes again."""
        if self.gateways[number].program.running:
            return
        port = int(self.gateways[number].url.rpartition(":")[2])
        self.gateways[number] = gateway = self.gateway(port, self.ports[number])
        eventually("it has the nodes", lambda: self.ready(gateway) == 2)
        eventually("HAProxy has seen it", self.both_are_asked)

    def wait_until_heard(self) -> None:
        both = ["box1", "box2"]
        eventually("both are heard", lambda: self.all(self.heard) == [both, both])

    def heard(self, gateway: Server) -> list[str]:
        """The nodes that report to a gateway themselves: no store tells how busy a machine is."""
        return sorted(name for name, node in self.about(gateway).items() if node["host"])

    def crowd(self, count: int = 6) -> Crowd:
        crowd = Crowd(self.balancer.url, self.key)
        crowd.begin(count)
        self.addCleanup(crowd.end)
        return crowd

    def long_streams(self, count: int) -> list[Future[str]]:
        """So many streams that have begun; in the end each is whole or broken."""
        pool = ThreadPoolExecutor(count)
        self.addCleanup(pool.shutdown)
        begun = threading.Semaphore(0)
        found = [pool.submit(self.long_stream, begun.release) for _ in range(count)]
        for _ in range(count):
            self.assertTrue(begun.acquire(timeout=DEADLINE))
        return found

    def long_stream(self, begun: Callable[[], None]) -> str:
        from openai import OpenAI, OpenAIError

        url = f"{self.balancer.url}/v1"
        with OpenAI(base_url=url, api_key=self.key, timeout=DEADLINE) as client:
            words = _words(client, True, tokens=3500, extra_body={"ignore_eos": True})
            next(words)
            begun()
            try:
                for _ in words:
                    pass
            except OpenAIError:
                return "broken"
        return "whole"

    def refused(self) -> set[str]:
        """The addresses that the gateways wrote down as those of wrong keys."""
        events = [event for each in self.gateways for event in each.program.events()]
        return {event["client.address"] for event in events if "client.address" in event}

    def given_up(self) -> int:
        """The requests that ended, by the gateways' logs, because their client had left."""
        events = [event for each in self.gateways for event in each.program.events()]
        ends = [event.get("rolemesh.end", "") for event in events]
        return sum(end.startswith("the client went away") for end in ends)

    def gave_up(self, number: int) -> bool:
        return self.given_up() == number

    def raw_chat(self, stream: bool) -> bytes:
        """A request for something that takes long."""
        body = {"model": "planner", "messages": HELLO, "max_tokens": 3000, "ignore_eos": True}
        data = json.dumps({**body, "stream": stream}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Authorization: Bearer {self.key}\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data

    @property
    def balancer_port(self) -> int:
        return int(self.balancer.url.rpartition(":")[2])

    def served(self, crowd: Crowd, more: int = 10) -> None:
        """Wait until so many more were served."""
        wanted = crowd.served + more
        eventually(f"{more} more are served", lambda: crowd.served >= wanted)


class MeshTests(Mesh):
    def test_agents_learn_of_the_second_gateway(self) -> None:
        """Nodes whose file names one gateway report to both, and stay when that one is away."""
        self.wait_until_heard()

    def test_one_node_of_two_gateways(self) -> None:
        """More requests than a node has slots, through both gateways, are all answered. What
        overshoots is counted; then each gateway leaves the other one its share."""
        self.wait_until_heard()
        over, statuses = threading.Event(), list[int]()

        def keep_busy(gateway: Server) -> None:
            while not over.is_set():
                asked = self.chat(gateway, model="planner@box1", max_tokens=400)
                statuses.append(asked.status)

        busy = [threading.Thread(target=keep_busy, args=(each,)) for each in self.gateways * 4]
        for thread in busy:
            thread.start()
        try:
            eventually("it is counted", lambda: any(over for _, _, over in self.all(self.load)))
            eventually("it passes", lambda: self.all(self.load) == [(1, 1, 0)] * 2)
        finally:
            over.set()
            for thread in busy:
                thread.join()
        self.assertEqual(set(statuses), {200})

    def test_a_gateway_dies(self) -> None:
        """Its streams break off, and say so; those of the other gateway go on. Nobody whose answer
        had not begun hears of it: the SDK sends again what HAProxy could not bring."""
        begun = self.long_streams(4)
        crowd = self.crowd(8)
        eventually("others wait", lambda: self.balanced(0) > 4)
        self.kill(0)
        self.served(crowd, 20)
        crowd.end()
        ends = {each.result(DEADLINE) for each in begun}
        self.assertEqual(ends, {"whole", "broken"})
        self.assertEqual(crowd.failed, [])

    def test_a_gateway_ends(self) -> None:
        """A gateway that gets a SIGTERM finishes its answers, and no client hears of it."""
        crowd = self.crowd()
        self.served(crowd)
        self.assertEqual(self.gateways[1].program.stop(), 0)
        self.served(crowd, 20)
        self.revive(1)
        self.served(crowd, 20)
        crowd.end()
        self.assertEqual((crowd.failed, crowd.broken), ([], 0))

    def test_the_database_goes(self) -> None:
        """Without the database everything is served, also by a gateway that starts meanwhile, to
        which the agents come again; with it back, all gateways know what one was told."""
        assert self.database is not None
        token = self.workshop.token("box3")
        crowd = self.crowd()
        self.served(crowd)
        self.database.stop()
        self.kill(0)
        self.served(crowd)
        self.revive(0)
        told = {"node": "box3", "base_url": "http://127.0.0.1:9", "roles": ["writer"]}
        refused = ask(
            f"{self.gateways[1].url}/v1/nodes/register", told, authorization=f"Bearer {token}"
        )
        self.assertEqual(refused.json()["error"]["code"], "state_unavailable")
        self.served(crowd)
        self.database.start()
        eventually("the other one knows", lambda: "box3" in self.about(self.gateways[0]))
        eventually("all is well", lambda: self.all(self.status) == ["ready", "ready"])
        self.served(crowd)
        crowd.end()
        self.assertEqual(crowd.failed, [])

    def test_a_client_is_known_by_its_address(self) -> None:
        """The balancer is not taken for the client, whose address a wrong key is counted by."""
        place = ("127.0.0.1", self.balancer_port)
        with socket.create_connection(place, source_address=("127.0.0.7", 0)) as client:
            client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            self.assertIn(b" 401 ", client.recv(4096))
        eventually("it is in the log", lambda: "127.0.0.7" in self.refused())

    def test_a_client_leaves(self) -> None:
        """Who leaves HAProxy in the middle of a stream, or before an answer that is not one, leaves
        no work behind."""
        for number, stream in enumerate((True, False), self.given_up() + 1):
            with socket.create_connection(("127.0.0.1", self.balancer_port)) as client:
                client.sendall(self.raw_chat(stream))
                eventually("it works", lambda: self.under_way() == 1)
            eventually("it has ended", lambda: self.under_way() == 0)
            eventually("it was given up", partial(self.gave_up, number))
