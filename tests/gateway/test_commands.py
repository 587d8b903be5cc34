"""Operators' verbs through a gateway in memory: commands to an agent, and what it answers."""

from pathlib import Path
from typing import Any

from attrs import evolve

from rolemesh.config.gateway import NodeRules
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from rolemesh.core.model import Target
from rolemesh.core.report import BackendReport, Registration
from rolemesh.gateway.commands import KEPT, MOST_WAITING, SILENCE
from rolemesh.gateway.event_stream import KEEP_ALIVE_EVERY
from rolemesh.gateway.following import PATIENCE
from rolemesh.gateway.store.interface import lasting
from tests.doubles import raw
from tests.gateway.memory import Client, GatewayCase, role

DRAIN, RESUME = "/v1/backends/box2/gpu0/drain", "/v1/backends/box2/gpu0/resume"
RESTART = "/v1/backends/box2/gpu0/restart"
LOGS = "/v1/backends/box2/gpu0/logs"
COMMANDS = "/v1/nodes/box2/commands"


class CommandCase(GatewayCase):
    """A gateway with one node, whose agent the test plays."""

    agent: Client

    def setUp(self) -> None:
        super().setUp()
        self.server = self.net.server()
        self.begin()

    def begin(self, **more: Any) -> None:
        self.start(role(use=(Target(model="qwen"),)), **more)
        self.tell()
        self.net.spend(1)

    def tell(self, generation: int = 1, **more: Any) -> None:
        backend = {"id": "gpu0", "base_url": self.server.url, "model": "qwen", **more}
        told = {"node": "box2", "instance": "one", "generation": generation, "backends": [backend]}
        self.post("/v1/nodes/register", told, **self.node_key())

    def node_key(self) -> dict[str, str]:
        return {}

    def connect(self, instance: str = "one", **headers: str) -> Client:
        path = f"{COMMANDS}?instance={instance}"
        self.agent = self.client().send("GET", path, None, headers or self.node_key(), False)
        return self.agent

    def heard(self, agent: Client | None = None) -> list[Any]:
        """The commands that came over a stream."""
        return (agent or self.agent).answer.events

    def order(self, path: str, body: object = None, **headers: str) -> Client:
        return self.client().send("POST", path, body or {}, headers)

    def answer(self, id: str, **result: Any) -> Any:
        body = {"done": True, **result}
        return self.post(f"{COMMANDS}/{id}", body, **self.node_key()).json


class VerbTests(CommandCase):
    """An order and its answer."""

    def test_round_trip(self) -> None:
        """A verb goes out as a command, and its result is the operator's answer."""
        self.connect()
        order = self.order(DRAIN, {"reason": "fan", "for_s": 60})
        (command,) = self.heard()
        told = {"kind": "drain", "backend": "gpu0", "reason": "fan", "for_s": 60.0}
        self.assertEqual({**command, "id": 0}, {**told, "id": 0})
        self.assertFalse(order.answered)
        self.assertEqual(self.answer(command["id"], message="it is"), {"more": False})
        self.assertEqual(order.answer.status, 200)
        self.assertEqual((order.answer.json["done"], order.answer.json["message"]), (True, "it is"))

    def test_whole_node(self) -> None:
        """A verb for a node names no backend."""
        self.connect()
        self.order("/v1/nodes/box2/drain")
        self.order("/v1/nodes/box2/resume")
        told = [(each["kind"], each.get("backend")) for each in self.heard()]
        self.assertEqual(told, [("drain", None), ("resume", None)])

    def test_drain_counts_at_once(self) -> None:
        """Once the operator is told, nothing new is sent there; the node's report says why."""
        self.connect()
        self.order(DRAIN)
        self.assertEqual(self.ready(), (1, 1))
        self.answer(self.heard()[0]["id"])
        self.assertEqual(self.ready(), (0, 1))
        self.tell(2, draining="fan")
        missing = self.get("/ready").json["roles"]["coder"]["missing"]
        self.assertEqual(missing, ["box2/gpu0 is draining (fan)"])
        self.order(RESUME)
        self.answer(self.heard()[1]["id"])
        self.assertEqual(self.ready(), (1, 1))

    def test_drained_by_report(self) -> None:
        """A node that says that it is drained gets nothing, also from a gateway that was away."""
        self.tell(2, draining="")
        self.assertEqual(self.ready(), (0, 1))
        self.tell(3)
        self.assertEqual(self.ready(), (1, 1))

    def test_kept_over_a_restart(self) -> None:
        """What a gateway keeps of a node tells that it is drained, for its own next start."""
        report = BackendReport("gpu0", "http://10.0.0.1:1", draining="fan")
        told = Registration("box2", instance="one", backends=(report,))
        (kept,) = lasting(told, [report.base_url]).backends
        self.assertEqual(kept.draining, "fan")

    def test_running_ones_go_on(self) -> None:
        """A request that was under way before a drain is answered."""
        client = self.stream()
        self.turn()
        self.tell(2, draining="")
        self.server.work[0].head()
        self.server.work[0].text("hi", finish="stop")
        self.server.work[0].done()
        self.turn()
        self.assertTrue(client.answer.finished)

    def test_the_node_refuses(self) -> None:
        """What a node cannot do is an error, in its words."""
        self.connect()
        order = self.order(RESTART)
        self.answer(self.heard()[0]["id"], done=False, message="it is gpu_lost")
        error = self.assert_refused(order.answer, 400, "bad_request")
        self.assertEqual(error["message"], "it is gpu_lost")

    def test_no_answer_yet(self) -> None:
        """An operator whose node is away is told so, and need not stay for it to be done."""
        order = self.order(DRAIN)
        self.net.spend(PATIENCE + 1)
        self.assertEqual((order.answer.status, order.answer.json["done"]), (202, False))
        self.assertIn("'box2' is not connected", order.answer.json["message"])
        self.connect()
        self.assertEqual(len(self.heard()), 1)

    def test_a_node_that_left(self) -> None:
        """A node whose stream has ended counts as away."""
        self.connect()
        self.agent.leave()
        order = self.order(DRAIN)
        self.net.spend(PATIENCE + 1)
        self.assertIn("'box2' is not connected", order.answer.json["message"])

    def test_not_kept_for_ever(self) -> None:
        """A node that comes back much later is not told what nobody wants any more."""
        self.order(DRAIN)
        self.net.spend(KEPT + 1, 10)
        self.tell(2)
        self.connect()
        self.assertEqual(self.heard(), [])

    def test_wishes(self) -> None:
        """What cannot be meant is refused before it is sent; a command line above all."""
        self.connect()
        for body in ({"argv": ["x"]}, {"for_s": -1}, {"reason": "x" * 200}, {"id": "../x"}):
            answer = self.post(RESTART, body)
            self.assert_refused(answer, 400, "bad_request")
        answer = self.post("/v1/backends/box2/..x/restart", {})
        self.assert_refused(answer, 400, "bad_request")
        self.assertEqual(self.heard(), [])

    def test_nobody_there(self) -> None:
        """An unknown node is 410 and the known ones are named; one without an agent is refused."""
        error = self.assert_refused(self.post("/v1/nodes/box3/drain", {}), 410, "unknown_node")
        self.assertIn("box2", error["message"])
        plain = {"node": "box4", "base_url": self.server.url, "roles": ["writer"]}
        self.post("/v1/nodes/register", plain)
        for node in ("box4", "static"):
            self.assert_refused(self.post(f"/v1/nodes/{node}/drain", {}), 400, "bad_request")

    def test_from_a_page(self) -> None:
        """A page in an operator's browser orders nothing."""
        answer = self.post(DRAIN, {}, Origin="http://evil.example")
        self.assert_refused(answer, 403, "scope_missing")

    def test_bounded(self) -> None:
        """Orders do not pile up for a node that is silent."""
        for _ in range(MOST_WAITING):
            self.order(RESTART)
        self.assert_refused(self.post(RESTART, {}), 429, "rate_limit_exceeded")


class DeliveryTests(CommandCase):
    """However connections break."""

    def test_sent_again(self) -> None:
        """What was sent and not answered comes again on the next connection; then its result
        counts, whichever of the two it is for."""
        self.connect()
        order = self.order(DRAIN)
        self.agent.leave()
        self.connect()
        (command,) = self.heard()
        self.answer(command["id"])
        self.assertEqual(order.answer.status, 200)
        self.agent.leave()
        self.assertEqual(self.heard(self.connect()), [])

    def test_the_same_id(self) -> None:
        """An order that is sent twice under one id is given once, and both get its answer; so does
        a third one that comes later."""
        self.connect()
        orders = [self.order(RESTART, {"id": "mine"}) for _ in range(2)]
        self.assertEqual(len(self.heard()), 1)
        self.answer("mine", message="done")
        orders.append(self.order(RESTART, {"id": "mine"}))
        self.assertEqual([each.answer.json["message"] for each in orders], ["done"] * 3)
        self.assertEqual(len(self.heard()), 1)

    def test_a_result_twice(self) -> None:
        """A result that comes again, or for nothing, is taken and changes nothing."""
        self.connect()
        self.order(DRAIN, {"id": "mine"})
        self.assertEqual([self.answer("mine"), self.answer("mine")], [{"more": False}] * 2)
        self.assertEqual(self.answer("nobody"), {"more": False})

    def test_one_stream(self) -> None:
        """A node that connects again is told by its new stream alone; the old one ends."""
        first = self.connect()
        second = self.connect()
        self.order(DRAIN)
        self.assertTrue(first.answer.finished)
        self.assertEqual((len(self.heard(first)), len(self.heard(second))), (0, 1))

    def test_kept_alive(self) -> None:
        """A silent stream says every so often that it is there."""
        self.connect()
        before = len(self.agent.answer.body)
        self.net.spend(KEEP_ALIVE_EVERY)
        self.assertGreater(len(self.agent.answer.body), before)

    def test_another_agent(self) -> None:
        """Only the agent that registered hears commands; an unknown node must register first."""
        self.assert_refused(self.connect("two").answer, 409, "node_id_conflict")
        answer = self.get("/v1/nodes/box3/commands?instance=x")
        self.assert_refused(answer, 410, "unknown_node")

    def test_huge_result(self) -> None:
        """A result that no node would send is refused."""
        body = {"done": True, "message": "x" * 70_000}
        self.assert_refused(self.post(f"{COMMANDS}/x", body), 413, "request_too_large")
        self.assert_refused(self.post(f"{COMMANDS}/x", {"done": 1}), 400, "bad_request")

    def test_a_gateway_that_stops(self) -> None:
        """Its streams end with it, so that agents go elsewhere at once."""
        self.connect()
        self.life.stopService()
        self.net.spend(5)
        self.assertTrue(self.agent.line.closed)


class LogTests(CommandCase):
    """A server's log."""

    def follow(self) -> tuple[Client, str]:
        self.connect()
        reader = self.client().send("GET", f"{LOGS}?follow=1&lines=3", None, {}, False)
        (command,) = self.heard()
        self.assertEqual((command["lines"], command["follow"]), (3, True))
        return reader, command["id"]

    def shown(self, reader: Client) -> list[str]:
        return [line for each in reader.answer.events for line in each["lines"]]

    def test_once(self) -> None:
        """Without `follow` the lines are an answer of their own."""
        self.connect()
        reader = self.client().send("GET", LOGS)
        self.answer(self.heard()[0]["id"], lines=["a", "b"])
        self.assertEqual(reader.answer.json, {"lines": ["a", "b"]})

    def test_follow(self) -> None:
        """Each part is an event; a part that comes twice is shown once."""
        reader, id = self.follow()
        self.assertFalse(reader.answered)
        for part, line in ((0, "a"), (1, "b"), (1, "b"), (2, "c")):
            self.assertTrue(self.answer(id, part=part, lines=[line], more=True)["more"])
            self.net.spend(SILENCE * 0.4, 4)
        self.assertEqual(self.shown(reader), ["a", "b", "c"])

    def test_reader_leaves(self) -> None:
        """When the reader has gone, the node hears with its next part that it is enough."""
        reader, id = self.follow()
        self.answer(id, lines=["a"], more=True)
        reader.leave()
        self.assertFalse(self.answer(id, part=1, lines=["b"], more=True)["more"])
        self.assertEqual(self.heard(self.connect()), [])

    def test_node_restarts(self) -> None:
        """A follower survives its node's restart: the command comes again, and parts from 0."""
        reader, id = self.follow()
        self.answer(id, lines=["a"], more=True)
        self.answer(id, part=1, lines=["b"], more=True)
        self.agent.leave()
        self.assertEqual([each["id"] for each in self.heard(self.connect())], [id])
        self.assertTrue(self.answer(id, lines=["anew"], more=True)["more"])
        self.assertEqual(self.shown(reader), ["a", "b", "anew"])

    def test_node_goes_on_where_it_was(self) -> None:
        """What it is told again says behind which line; also one of whom one part was heard."""
        reader, id = self.follow()
        self.answer(id, lines=["a"], more=True, at="1:1:x")
        self.answer(id, lines=["a"], more=True, at="1:1:x")
        self.agent.leave()
        (command,) = self.heard(self.connect())
        self.assertEqual((command["id"], command["after"]), (id, "1:1:x"))
        self.answer(id, lines=["anew"], more=True, at="2:1:x")
        self.assertEqual(self.shown(reader), ["a", "anew"])
        self.assertEqual([each["at"] for each in reader.answer.events], ["1:1:x", "2:1:x"])

    def test_reader_comes_back(self) -> None:
        """What it says of where it was goes to the node; a log without news says where it is."""
        self.connect()
        reader = self.client().send("GET", f"{LOGS}?follow=1&after=1:1:x", None, {}, False)
        (command,) = self.heard()
        self.assertEqual(command["after"], "1:1:x")
        self.answer(command["id"], more=True, at="1:1:x")
        self.answer(command["id"], part=1, more=True, at="1:1:x")
        self.assertEqual(reader.answer.events, [{"lines": [], "at": "1:1:x"}])
        long = self.client().send("GET", f"{LOGS}?follow=1&after={'x' * 65}")
        self.assert_refused(long.answer, 400, "bad_request")

    def test_node_falls_silent(self) -> None:
        """A reader is not left waiting for a node that is gone: it is told, and the stream ends."""
        reader, id = self.follow()
        self.answer(id, lines=["a"], more=True)
        self.net.spend(SILENCE + 1)
        self.assertIn("does not answer", reader.answer.events[-1]["error"]["message"])
        self.assertTrue(reader.answer.finished)

    def test_slow_reader(self) -> None:
        """For a reader that does not read, lines are left out and counted, not heaped up."""
        reader, id = self.follow()
        self.answer(id, lines=["a"], more=True)
        reader.stop_reading()
        size = len(reader.answer.data)
        self.answer(id, part=1, lines=["b"] * 100, more=True)
        self.assertEqual(len(reader.answer.data), size)
        reader.read_on()
        self.answer(id, part=2, lines=["c"], more=True)
        wanted = ["a", "… 100 lines left out: they were not read fast enough", "c"]
        self.assertEqual(self.shown(reader), wanted)

    def test_no_such_log(self) -> None:
        """The node's refusal is an error with a status, and so is its silence."""
        self.connect()
        reader = self.client().send("GET", f"{LOGS}?follow=1")
        self.answer(self.heard()[0]["id"], done=False, message="there is no gpu0")
        self.assert_refused(reader.answer, 400, "bad_request")
        reader = self.client().send("GET", f"{LOGS}?follow=1")
        self.net.spend(PATIENCE + 1)
        self.assert_refused(reader.answer, 504, "upstream_timeout")


class KeyTests(CommandCase):
    """Who may."""

    def begin(self, **_: Any) -> None:
        keys, tokens = Path(self.mktemp()), Path(self.mktemp())
        self.client_key, client = self.key(KeyKind.CLIENT, 1)
        self.admin_key, admin = self.key(KeyKind.ADMIN, 2)
        self.token, node = self.key(KeyKind.NODE, 3, node="box2")
        self.stranger, other = self.key(KeyKind.NODE, 4, node="box3")
        write_private(keys, key_file_text([client, admin]))
        write_private(tokens, key_file_text([node, other]))
        self.tokens, self.others = tokens, [other]
        super().begin(keys=keys, nodes=NodeRules(tokens=tokens))

    def key(self, kind: KeyKind, number: int, **more: Any) -> tuple[dict[str, str], Any]:
        text, record = mint(kind, bytes([number]) * ENTROPY, 1.0)
        return {"Authorization": f"Bearer {text}"}, evolve(record, roles="*", **more)

    def node_key(self) -> dict[str, str]:
        return self.token

    def test_only_an_admin_key(self) -> None:
        """Operators' routes take an admin key and no other."""
        self.connect()
        for headers in (raw.NONE, self.client_key, self.token):
            for path in (DRAIN, RESTART, "/v1/nodes/box2/drain"):
                self.assert_refused(self.post(path, {}, **headers), 401, "invalid_api_key")
            self.assert_refused(self.get(LOGS, **headers), 401, "invalid_api_key")
            self.net.spend(1)  # who fails ten times in a second is refused for that
        self.assertEqual(self.heard(), [])
        order = self.order(DRAIN, {}, **self.admin_key)
        self.answer(self.heard()[0]["id"])
        self.assertEqual(order.answer.status, 200)

    def test_an_admin_key_is_no_clients(self) -> None:
        """It opens no role, and registers no node."""
        answer = self.ask(headers=self.admin_key).answer
        self.assert_refused(answer, 401, "invalid_api_key")
        answer = self.get("/v1/nodes/box2", "DELETE", **self.admin_key)
        self.assert_refused(answer, 401, "invalid_api_key")

    def test_a_revoked_token(self) -> None:
        """A stream does not outlive the token that opened it for longer than a sign of life."""
        self.connect()
        write_private(self.tokens, key_file_text(self.others))
        self.net.spend(KEEP_ALIVE_EVERY + 1)
        self.assertTrue(self.agent.answer.finished)

    def test_only_the_nodes_own_token(self) -> None:
        """Commands of a node are heard and answered by its own token alone."""
        for headers, status in ((self.stranger, 403), (self.admin_key, 401)):
            answers = (
                self.get(f"{COMMANDS}?instance=one", **headers),
                self.post(f"{COMMANDS}/x", {"done": True}, **headers),
            )
            self.assertEqual([answer.status for answer in answers], [status] * 2)
