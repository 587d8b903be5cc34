"""Rows N1 to N11 as a gateway in memory meets them: nodes that flap, lie, repeat and flood."""

from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IListeningPort

from rolemesh.config.gateway import NodeRules
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.core.addresses import read_address
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from rolemesh.core.model import Target
from rolemesh.gateway.fleet import HEARTBEAT
from rolemesh.gateway.listening import is_own
from rolemesh.gateway.registrations import HEARTBEATS, LONGEST_REPORT, PER_MINUTE
from tests.doubles import raw
from tests.gateway.memory import GatewayCase, Server, role, whole

REGISTER = "/v1/nodes/register"


class RowCase(GatewayCase):
    """A gateway whose role `coder` is served by whichever node has the model `qwen`."""

    def setUp(self) -> None:
        super().setUp()
        self.server, self.other = self.net.server(), self.net.server()

    def begin(self, **more: Any) -> None:
        self.start(role(use=(Target(model="qwen"),)), **more)

    def told(self, *servers: Server, **more: Any) -> dict[str, Any]:
        backends = [
            {"id": f"gpu{place}", "base_url": each.url, "model": "qwen"}
            for place, each in enumerate(servers or (self.server,))
        ]
        return {"node": "box2", "instance": "one", "generation": 1, "backends": backends, **more}

    def register(self, **more: Any) -> raw.Answer:
        answer = self.post(REGISTER, {**self.told(), **more})
        self.net.spend(1)
        return answer


class FlappingTests(RowCase):
    """N1: a node whose server is up and down."""

    def setUp(self) -> None:
        super().setUp()
        self.begin()
        self.post(REGISTER, self.told(self.server, self.other))
        self.net.spend(3)
        self.generation = 1

    def minute(self) -> None:
        """It is up for three seconds and down for three, for a minute, with requests."""
        for second in range(0, 60, 3):
            self.server.mood = "refuse" if second % 6 == 0 else "accept"
            self.beat()
            self.net.spend(3)

    def beat(self) -> None:
        """Its agent reports on."""
        self.generation += 1
        told = self.told(self.server, self.other, generation=self.generation)
        self.post("/v1/nodes/box2/heartbeat", told)

    def test_N1_few_lines(self) -> None:
        """At most six lines a minute tell of it."""
        self.minute()
        self.logged.clear()
        self.minute()
        lines = [each for each in self.logged if each.get("backend") == "box2/gpu0"]
        self.assertLessEqual(len(lines), 6, [each.get("condition") for each in lines])

    def test_N1_no_request_is_lost(self) -> None:
        """Each request tries it at most once, and is answered by the other one."""
        for second in range(60):
            self.server.mood = "refuse" if second // 3 % 2 else "accept"
            self.beat()
            client = self.ask()
            for _ in range(4):
                self.answer_all()
                self.net.spend(0.25)
            self.assertEqual(client.answer.status, 200, (second, client.answer.data))
            self.assertLessEqual(int(client.answer.headers["x-rolemesh-attempts"]), 2)

    def answer_all(self) -> None:
        for exchange in (*self.server.work, *self.other.work):
            if not exchange.left:
                exchange.json(200, whole("hi"))


class OwnListenerTests(RowCase):
    """N5: the gateway as its own backend."""

    def test_N5_itself(self) -> None:
        """Where the gateway itself listens, by any address of the machine, no server is registered;
        another port is another server."""
        self.begin()
        for host in ("127.0.0.1", "127.0.0.2", "[::1]", "localhost"):
            answer = self.register(backends=[{"id": "g", "base_url": f"http://{host}:8000"}])
            self.assertEqual(answer.status, 403, host)
            self.assertEqual(answer.json["error"]["code"], "base_url_not_allowed")
        self.assertEqual(self.register().status, 200)

    def test_N5_its_one_address(self) -> None:
        """Who listens at one address is found at that one."""
        (port,) = self.ports(host="10.0.0.1")
        self.assertTrue(self.own("10.0.0.1", port))
        self.assertFalse(self.own("10.0.0.2", port))
        self.assertFalse(self.own("127.0.0.1", port))

    def own(self, address: str, port: IListeningPort) -> bool:
        found = read_address(address)
        assert found is not None
        return is_own(found, 8000, [port])

    def ports(self, host: str) -> list[Any]:
        class Port:
            def getHost(self) -> IPv4Address:
                return IPv4Address("TCP", host, 8000)

        return [Port()]


class RedirectTests(RowCase):
    """N7: a node that answers with a way to somewhere else."""

    def test_N7_a_check_that_is_sent_on(self) -> None:
        """A redirect is no sign of health, and its target is not asked."""
        self.begin()
        self.server.health = (302, {})
        self.server.props = (302, {})
        self.register()
        self.assertEqual(self.ready(), (0, 1))
        self.assertEqual((self.other.checks, self.other.work), ([], []))

    def test_N7_a_request_that_is_sent_on(self) -> None:
        """A redirect is no answer: the client gets an error of ours, without the target."""
        self.begin()
        self.register()
        client = self.ask()
        location = "Location: http://169.254.169.254/latest/meta-data\r\n"
        self.server.work[0].json(302, {}, location)
        self.net.spend(1)
        self.assertEqual(client.answer.status, 502)
        self.assertNotIn(b"169.254", client.answer.data)
        self.assertEqual({host for host, *_ in self.net.tcpClients}, {"127.0.0.1"})


class ReplayTests(RowCase):
    """N9: what was said once is said again by somebody else."""

    def test_N9_an_older_word_changes_nothing(self) -> None:
        """A registration or heartbeat from before is answered and dropped: the node's last word
        stands, and so does its server's place."""
        self.begin()
        first = self.told(labels={"word": "first"})
        self.register(labels={"word": "first"})
        self.register(
            generation=2, labels={"word": "last"}, backends=self.told(self.other)["backends"]
        )
        self.assertEqual(self.post(REGISTER, first).status, 200)
        self.assertEqual(self.post("/v1/nodes/box2/heartbeat", first).status, 200)
        (node,) = self.get("/v1/nodes").json["data"]
        self.assertEqual(node["labels"], {"word": "last"})
        self.net.spend(3)
        client = self.ask()
        self.assertEqual((self.server.work, len(self.other.work)), ([], 1))
        client.leave()

    def test_N9_an_earlier_life_s_word(self) -> None:
        """While the node lives, what its agent said in an earlier life is 409."""
        self.begin()
        self.register(instance="two", generation=5)
        answer = self.post(REGISTER, self.told(instance="one", generation=4))
        self.assert_refused(answer, 409, "node_id_conflict")


class FloodTests(RowCase):
    """N10: too much of everything."""

    def begin_with_token(self) -> dict[str, str]:
        keys, tokens = Path(self.mktemp()), Path(self.mktemp())
        text, record = mint(KeyKind.NODE, b"n" * ENTROPY, 1.0)
        write_private(keys, "keys: []\n")
        write_private(tokens, key_file_text([evolve(record, node="box2", roles="*")]))
        self.begin(keys=keys, nodes=NodeRules(tokens=tokens))
        return {"Authorization": f"Bearer {text}"}

    def test_N10_thirty_a_minute(self) -> None:
        """A token registers thirty times a minute; then it is told when to come again, which is
        soon, while its heartbeats are taken."""
        token = self.begin_with_token()
        for generation in range(PER_MINUTE):
            answer = self.post(REGISTER, self.told(generation=generation), **token)
            self.assertEqual(answer.status, 200)
        refused = self.post(REGISTER, self.told(generation=99), **token)
        self.assert_refused(refused, 429, "rate_limit_exceeded")
        beat = self.post("/v1/nodes/box2/heartbeat", self.told(generation=99), **token)
        self.assertEqual(beat.status, 200)
        self.net.spend(int(refused.headers["retry-after"]))
        self.assertEqual(self.post(REGISTER, self.told(generation=100), **token).status, 200)

    def test_N10_a_flood_of_heartbeats(self) -> None:
        """Of a token that sends them without a pause the first fifty are read, and from then on
        ten a second; the others are told when to come again, before anything of them is read. The
        beat that a gateway asks for is never refused."""
        token = self.begin_with_token()
        beat, told = "/v1/nodes/box2/heartbeat", self.told()
        self.assertEqual(self.post(REGISTER, told, **token).status, 200)
        for _ in range(HEARTBEATS):
            self.assertEqual(self.post(beat, told, **token).status, 200)
        refused = self.post(beat, b"x" * LONGEST_REPORT, **token)
        self.assert_refused(refused, 429, "rate_limit_exceeded")
        self.assertIn(int(refused.headers["retry-after-ms"]), (100, 101))
        self.net.spend(1)
        answers = [self.post(beat, told, **token).status for _ in range(11)]
        self.assertEqual(answers, [200] * 10 + [429])
        for _ in range(20):
            self.net.spend(HEARTBEAT)
            self.assertEqual(self.post(beat, told, **token).status, 200)

    def test_N10_sizes(self) -> None:
        """Seventeen servers, a ninth level, a long text, many labels, a number that is none: each
        is refused by its code, and nothing of it is kept."""
        self.begin()
        deep: Any = "x"
        for _ in range(9):
            deep = [deep]
        for told, status, code in (
            (self.told(*[self.server] * 17), 400, "bad_request"),
            (self.told(later=deep), 400, "invalid_json"),
            (self.told(labels={"site": "x" * 257}), 400, "bad_request"),
            (self.told(labels={f"l{n}": "" for n in range(65)}), 400, "bad_request"),
            (self.told(instance="x" * 257), 400, "bad_request"),
            (self.told(generation=2**63), 400, "bad_request"),
            (b'{"node":"box2","instance":"i","host":{"cpu":NaN}}', 400, "invalid_json"),
            (b'{"node":"box2","instance":"i","host":{"cpu":1e999}}', 400, "bad_request"),
            (self.told(later="x" * LONGEST_REPORT), 413, "request_too_large"),
        ):
            self.assert_refused(self.post(REGISTER, told), status, code)
        self.assertEqual(self.get("/v1/nodes").json["data"], [])

    def test_N10_in_chunks_too(self) -> None:
        """A report without a length is refused where it passes the limit, before its end, and so is
        what anybody sends elsewhere who was let in by no key."""
        self.begin()
        for path, most in ((REGISTER, LONGEST_REPORT), ("/v1/nowhere", 4096), ("/", 4096)):
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            for size, status in ((most, {200, 400, 404, 405}), (most + 1, {413})):
                client = self.client()
                client.line.say(head.encode() + b"%x\r\n" % size + b" " * size)
                self.assertEqual(client.answered, size > most, path)
                client.line.say(b"\r\n0\r\n\r\n")
                self.turn()
                self.assertIn(client.answer.status, status, (path, size))


class LateTests(RowCase):
    """N11: a node too busy to report."""

    def test_N11_streams_go_on_and_new_requests_go_elsewhere(self) -> None:
        """When its lease is over, what it streams streams on to the end, and is no failure of its
        server; new requests are answered by another node."""
        self.begin()
        self.register()
        stream = self.stream()
        self.server.work[0].head()
        self.post(REGISTER, {**self.told(self.other), "node": "box3"})
        for second in range(20):
            self.server.work[0].text(f"{second} ")
            if second % 4 == 0:
                told = {**self.told(self.other), "node": "box3", "generation": second + 2}
                self.post("/v1/nodes/box3/heartbeat", told)
            self.net.spend(1)
        self.ask()
        self.assertEqual((len(self.server.work), len(self.other.work)), (1, 1))
        self.server.work[0].text("end", finish="stop")
        self.server.work[0].done()
        self.turn()
        self.assertTrue(stream.answer.finished)
        self.assertTrue(stream.answer.text.endswith("19 end"))
        self.assertEqual(self.post("/v1/nodes/box2/heartbeat", self.told(generation=2)).status, 200)
        self.assertEqual(self.ready(), (2, 2))
