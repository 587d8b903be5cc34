"""The promises P1 to P9, held against a whole gateway in memory: rows of scripts and of luck."""

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from attrs import evolve, field, frozen
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rolemesh.core.errors import KINDS
from rolemesh.core.model import Policy, QueueLimits, Target, Timeouts
from tests.doubles import raw, wire
from tests.gateway.memory import Client, Exchange, GatewayCase, Net, Server, piece, role, whole

QUICK = Timeouts(connect=1.0, first_byte=2.0, idle=2.0, total=8.0)
ENOUGH = 20.0  # seconds, in which every one of these has run out
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
ERROR = {"error": {"message": "no", "type": "server_error", "code": 500}}
REPRODUCIBLE = settings(
    max_examples=100,
    phases=(Phase.generate,),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def is_open(exchange: Exchange) -> bool:
    """Whether neither side has closed an exchange's connection."""
    return not (exchange.left or exchange.line._lost)


class PromiseCase(GatewayCase):
    """A gateway over servers, and what is left under way in it."""

    def in_flight(self) -> list[int]:
        """What the gateway believes that each of its backends is busy with."""
        return [entry.in_flight for entry in self.life._clients.catalogue._registry]

    def used(self, *servers: Server) -> list[int]:
        return [len(server.work) for server in servers]

    def assert_nothing_left(self, *servers: Server) -> None:
        """No connection of a request is open, no slot is taken."""
        self.assertEqual(set(self.in_flight()), {0})
        self.assertEqual([each for server in servers for each in server.work if is_open(each)], [])

    def serve(self, server: Server, text: str = "hi") -> None:
        server.work[-1].json(200, whole(text))
        self.turn()


class DeadBackendTests(PromiseCase):
    """P1: who does not work gets no work, soon."""

    def served_by(self, *servers: Server) -> Server:
        """Who is asked by the next request."""
        before = self.used(*servers)
        client = self.ask()
        (asked,) = [s for s, n in zip(servers, before, strict=True) if len(s.work) > n]
        self.serve(asked)
        self.assertEqual(client.answer.status, 200)
        return asked

    def test_P1_refusing_under_traffic(self) -> None:
        """One refused request is enough, and its client does not notice."""
        a, b = self.mesh(2)
        a.mood = "refuse"
        self.assertIs(self.served_by(a, b), b)
        self.assertEqual(self.ready(), (1, 2))

    def test_P1_refusing_while_idle(self) -> None:
        """Within five seconds without any traffic."""
        a, _ = self.mesh(2)
        a.mood = "refuse"
        self.net.spend(5)
        self.assertEqual(self.ready(), (1, 2))

    def test_P1_black_hole(self) -> None:
        """Within twelve seconds where nothing is answered, not even a connect."""
        a, _ = self.mesh(2)
        a.mood = "silent"
        self.net.spend(12)
        self.assertEqual(self.ready(), (1, 2))

    def test_P1_wedged(self) -> None:
        """Within 150 s where `/health` is good and nothing moves, also for the one that waits."""
        a, b = self.net.server().llama(slots=4), self.net.server().llama(slots=4)
        self.start(role(a, b, timeouts=Timeouts(first_byte=1000.0)))
        client = self.stream()
        self.assertEqual(self.used(a, b), [1, 0])
        for _ in range(150):
            self.net.spend(1)
            if b.work:
                break
        self.assertEqual(self.used(a, b), [1, 1])
        self.assertTrue(a.work[0].left)
        self.say_all(b.work[0])
        self.assertEqual(client.answer.data_lines[-1], b"[DONE]")
        self.assertIs(self.served_by_stream(a, b), b)

    def test_P1_wedged_under_traffic(self) -> None:
        """Nor do new requests, of which one comes now and then, put that off."""
        a, b = self.net.server().llama(slots=8), self.net.server().llama(slots=8)
        self.start(role(a, b, timeouts=Timeouts(first_byte=1000.0)))
        for _ in range(6):
            self.ask()
            self.net.spend(25, step=1.0)
        self.assertTrue(b.work)
        self.assertEqual([each for each in a.work if is_open(each)], [])

    def test_P1_wedged_in_its_answer(self) -> None:
        """Nor do the comments by which a llama-server shows, every half minute, that its process
        lives: the stream ends as a broken one, and who waits beside it is moved."""
        a, b = self.net.server().llama(slots=4), self.net.server().llama(slots=4)
        a.slots = lambda: [{"is_processing": True, "id_task": 1, "next_token": {"n_decoded": 9}}]
        self.start(role(a, b, timeouts=Timeouts(first_byte=1000.0)))
        client, waiting = self.stream(), self.stream()
        a.work[0].head()
        a.work[0].text("one")
        for _ in range(4):
            self.assertFalse(a.work[0].left)
            self.net.spend(30, step=1.0)
            a.work[0].say(wire.chunk(wire.PING))
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.net.spend(30, step=1.0)
        self.assertEqual(self.used(a, b), [2, 1])
        self.say_all(b.work[0])
        self.assertEqual(waiting.answer.data_lines[-1], b"[DONE]")

    def test_P1_slow_and_silent_is_not_wedged(self) -> None:
        """Where `/slots` shows that tokens are made, a stream may be silent for as long as it
        takes, as it is while llama-server holds a tool call back; whole answers, too, and beside
        a stream that is not silent."""
        a, b = self.net.server().llama(slots=4), self.net.server().llama(slots=4)
        self.start(role(a, b))
        clients = self.stream(), self.ask(), self.stream()
        for exchange in a.work:
            exchange.head()
            exchange.text("one")
        token = {"is_processing": True, "id_task": 1}
        a.slots = lambda: [{**token, "next_token": {"n_decoded": self.net.seconds()}}]
        for _ in range(30):
            self.net.spend(10, step=1.0)
            a.work[2].text("")
        for exchange in a.work:
            exchange.text("two", finish="stop")
            exchange.done()
        self.turn()
        self.assertEqual(clients[0].answer.text, "onetwo")
        self.assertEqual(clients[1].answer.json["choices"][0]["message"]["content"], "onetwo")
        self.assertEqual(b.work, [])

    def test_P1_who_answers_is_not_wedged(self) -> None:
        """Nor is a backend that answers one request while another one waits, unseen by anybody."""
        a, b = self.net.server().llama(slots=4), self.net.server().llama(slots=4)
        self.start(role(a, b, timeouts=Timeouts(first_byte=1000.0)))
        self.stream()
        for _ in range(3):
            self.net.spend(60, step=1.0)
            self.stream()
            self.say_all(a.work[-1])
        self.assertEqual((self.used(a, b), a.work[0].left), ([4, 0], False))

    def test_P1_who_speaks_is_not_wedged(self) -> None:
        """Nor is one whose stream goes on, though its slots are nobody's to see."""
        a, b = self.net.server().llama(slots=4), self.net.server().llama(slots=4)
        self.start(role(a, b))
        self.stream()
        a.work[0].head()
        for _ in range(30):
            a.work[0].text("on")
            self.net.spend(10, step=1.0)
        self.stream()
        self.assertEqual((self.used(a, b), a.work[0].left), ([2, 0], False))

    def test_P1_a_node_sees_it_work(self) -> None:
        """For eleven minutes of one batch on a slow processor `/slots` answers nothing and no event
        comes; the node's word is enough, for a stream beside it too. Once that says that nothing
        moves any more, it has the time that anybody has."""
        server = self.net.server().llama(slots=4)
        self.start(role(use=(Target(model="qwen"),)))
        node = {"node": "box2", "instance": "one"}
        told = {"id": "cpu", "base_url": server.url, "model": "qwen", "slots": 4}

        def beat(number: int, still: float) -> None:
            told["still"] = still
            self.post("/v1/nodes/register", {**node, "generation": number, "backends": [told]})
            self.net.spend(5, step=1.0)

        beat(0, 0.0)
        begun, waiting = self.stream(), self.stream()
        server.work[0].head()
        server.work[0].text("one")
        for number in range(1, 132):
            beat(number, 2.0)
        self.assertFalse(server.work[0].left or server.work[1].left)
        still = 2.0
        for client, code, most in (
            (begun, "upstream_disconnected", 75.0),
            (waiting, "upstream_timeout", 150.0),
        ):
            while b'"error"' not in client.answer.data and still < most:
                number, still = number + 1, still + 5.0
                beat(number, still)
            self.assert_broken_off(client.answer, code)

    def say_all(self, exchange: Exchange) -> None:
        exchange.head()
        exchange.text("hi", finish="stop")
        exchange.done()
        self.turn()

    def served_by_stream(self, a: Server, b: Server) -> Server:
        before = self.used(a, b)
        self.stream()
        (asked,) = [s for s, n in zip((a, b), before, strict=True) if len(s.work) > n]
        self.say_all(asked.work[-1])
        return asked

    def test_P1_back_with_a_slow_start(self) -> None:
        """Within five seconds of being well it is asked again, for thirty at a higher price."""
        a, _ = self.mesh(2, policy=Policy.LEAST_LOADED)
        a.mood = "refuse"
        self.net.spend(10)
        self.assertEqual(self.ready(), (1, 2))
        a.mood = "accept"
        self.net.spend(5)
        self.assertEqual(self.ready(), (2, 2))
        self.assertGreater(*self.prices())
        self.net.spend(30)
        self.assertEqual(*self.prices())

    def prices(self) -> list[float]:
        told = self.post("/v1/roles/coder/explain", {"messages": [{"content": "word " * 500}]}).json
        by_name = {each["backend"]: each["seconds"] for each in told["candidates"]}
        return [by_name["static/coder-1"], by_name["static/coder-2"]]


Act = Callable[[Exchange], None]


def says(data: bytes) -> Act:
    """Say these bytes."""
    return lambda exchange: exchange.say(data)


def does(*acts: Act) -> Act:
    """Do one thing after another; nothing, if there are none."""

    def act(exchange: Exchange) -> None:
        for each in acts:
            each(exchange)

    return act


def answers(status: int, more: str = "") -> Act:
    """A whole answer with an error in it."""
    return lambda exchange: exchange.json(status, ERROR, more)


LOGIN = wire.head(200, "Content-Type: text/html\r\nContent-Length: 6\r\n") + b"<html>"
HALF_AN_EVENT = wire.chunk(b'data: {"x')
FAULTS: dict[str, Act] = {
    "rst": Exchange.die,
    "eof": Exchange.end,
    "hang": does(),
    "garbage": does(says(b"SSH-2.0-OpenSSH_9.2p1\r\n"), Exchange.end),
    "loading": lambda exchange: exchange.json(503, LOADING),
    "busy": answers(429),
    "fault": answers(500),
    "locked out": answers(401),
    "redirect": answers(307, "Location: http://127.0.0.1:1/\r\n"),
    "html": does(says(LOGIN), Exchange.end),
    "head only": does(Exchange.head, Exchange.die),
    "half an event": does(Exchange.head, says(HALF_AN_EVENT), Exchange.die),
    "half a head": does(says(b"HTTP/1.1 200 OK\r\nContent-"), Exchange.die),
}
MOODS = ("refuse", "silent")


class LostRequestTests(PromiseCase):
    """P2, P4, P7: what fails before an answer costs the client nothing, and the mesh little."""

    def test_P2_one_of_four_fails_in_turn(self) -> None:
        """240 requests over four backends of which one at a time fails in some way: no error."""
        luck = Random(3)
        self.met: list[Exchange] = []
        servers = [self.net.server() for _ in range(4)]
        self.start(role(*servers, policy=Policy.ROUND_ROBIN, timeouts=QUICK))
        for n in range(240):
            if n % 8 == 0:
                bad = luck.choice(servers)
                fault = luck.choice(sorted({*FAULTS, *MOODS}))
                for each in servers:
                    each.mood = fault if each is bad and fault in MOODS else "accept"
            self.net.spend(0.25)
            client = self.ask(stream=n % 2 == 0, messages=[{"content": f"{n}"}])
            self.play(client, servers, bad, FAULTS.get(fault, does()))
            self.assertEqual(client.answer.status, 200, (n, fault, client.answer.data))
            self.assertTrue(client.answer.finished, (n, fault))
        tries = [
            len(line["rolemesh.attempts"]) for line in self.lines() if "rolemesh.attempts" in line
        ]
        self.assertEqual((len(tries), max(tries)), (240, 2))
        self.assert_nothing_left(*servers)

    def play(
        self,
        client: Client,
        servers: list[Server],
        bad: Server,
        fault: Act,
    ) -> None:
        """Let the bad one fail and the others answer, until the client has all it will get."""
        for _ in range(60):
            if client.line.closed:
                return
            fresh = [(s, each) for s in servers for each in s.work if each not in self.met]
            for server, exchange in fresh:
                self.met.append(exchange)
                if server is bad:
                    fault(exchange)
                else:
                    self.answer(exchange)
            self.turn(0.0 if fresh else 0.25)

    def answer(self, exchange: Exchange) -> None:
        if exchange.request.json().get("stream"):
            exchange.head()
            exchange.text("hi", finish="stop")
            exchange.done()
        else:
            exchange.json(200, whole("hi"))

    def test_P4_all_fail(self) -> None:
        """Where every backend fails each request, retries go on in few at a time."""
        servers = self.mesh(4)
        clients = [self.ask(messages=[{"content": f"{n}"}]) for n in range(40)]
        most = 0
        for _ in range(400):
            if all(client.answered for client in clients):
                break
            open_ = [each for s in servers for each in s.work if is_open(each)]
            tried = len([each for s in servers for each in s.work])
            most = max(most, len(open_))
            for exchange in open_:
                exchange.json(500, ERROR)
            self.turn()
            self.assertLessEqual(sum(self.used(*servers)) - tried, max(3, 40 // 5), tried)
        for client in clients:
            self.assert_refused(client.answer, 502, "upstream_error")
        self.assertLessEqual(sum(self.used(*servers)), 2 * 40)
        self.assert_nothing_left(*servers)

    def test_P4_all_fail_for_long(self) -> None:
        """Where every backend fails each of 600 requests, about a fifth of them is tried again."""
        servers = self.mesh(4)
        for n in range(600):
            client = self.ask(messages=[{"content": f"{n}"}])
            for _ in range(20):
                if client.answered:
                    break
                for exchange in [each for s in servers for each in s.work if is_open(each)]:
                    exchange.json(500, ERROR)
                self.turn()
            self.assert_refused(client.answer, 502, "upstream_error")
            self.net.spend(0.1)
        beginning = 10 + 2 * len(servers)  # saved retries, and failures before a backend is doubted
        self.assertLessEqual(sum(self.used(*servers)), 1.2 * 600 + beginning)
        self.assert_nothing_left(*servers)

    def test_P4_a_backend_with_a_hundred_requests_dies(self) -> None:
        """All of its requests are tried again where a healthy backend is, though another one fails
        whatever it is asked, and though that is far more than a fifth."""
        dying, bad, good = servers = [self.net.server() for _ in range(3)]
        self.start(role(*servers, slots=100))
        clients = [self.ask(messages=[{"content": f"{n}"}]) for n in range(100)]
        for exchange in dying.work:
            exchange.die()
        for _ in range(200):
            self.turn()
            for exchange in [each for each in bad.work if is_open(each)]:
                FAULTS["html"](exchange)
            for exchange in [each for each in good.work if is_open(each)]:
                self.answer(exchange)
        for client in clients:
            self.assertEqual(client.answer.status, 200, client.answer.data)
        self.assertEqual(self.used(*servers)[0], 100)
        self.assert_nothing_left(*servers)

    def test_P7_poison(self) -> None:
        """A request takes down two backends, is refused for ten minutes, and others are not."""
        servers = self.mesh(4)
        client = self.ask(messages=[{"content": "poison"}])
        for _ in servers:
            for each in [each for s in servers for each in s.work if is_open(each)]:
                each.die()
            self.turn()
        self.assert_refused(client.answer, 502, "upstream_disconnected")
        self.assertEqual(client.answer.headers["x-should-retry"], "false")
        self.assertEqual(sum(self.used(*servers)), 2)
        again = self.ask(messages=[{"content": "poison"}])
        self.assert_refused(again.answer, 422, "poison_request")
        self.assertEqual(again.answer.headers["x-should-retry"], "false")
        self.assertEqual(sum(self.used(*servers)), 2)
        other = self.ask(messages=[{"content": "another"}])
        (asked,) = [each for s in servers for each in s.work if is_open(each)]
        asked.json(200, whole("hi"))
        self.turn()
        self.assertEqual((other.answer.status, sum(self.used(*servers))), (200, 3))
        self.net.spend(595, step=1.0)
        again = self.ask(messages=[{"content": "poison"}])
        self.assert_refused(again.answer, 422, "poison_request")
        self.net.spend(6, step=1.0)
        self.ask(messages=[{"content": "poison"}])
        self.assertEqual(sum(self.used(*servers)), 4)


class CascadeTests(PromiseCase):
    """P8: the last one is never put out, and one that always fails is."""

    def fail_at(self, server: Server) -> Client:
        client = self.ask(messages=[{"content": f"{len(server.work)}"}])
        server.work[-1].json(500, ERROR)
        self.turn()
        return client

    def test_P8_the_last_one_stays(self) -> None:
        """However often the only backend fails it is asked again, and serves once it is well."""
        (a,) = self.mesh(1)
        for n in range(25):
            self.assert_refused(self.fail_at(a).answer, 502, "upstream_error")
            self.assertEqual(len(a.work), n + 1)
        client = self.ask()
        self.serve(a)
        self.assertEqual(client.answer.status, 200)

    def test_P8_at_little_traffic_too(self) -> None:
        """Five failures in a row put it out, though a minute and good checks lie between them."""
        a, b = self.mesh(2)
        for n in range(5):
            client = self.fail_at(a)
            self.serve(b)
            self.assertEqual((client.answer.status, len(a.work)), (200, n + 1))
            self.net.spend(60, step=1.0)
        # A minute later it is on trial again, and five more failures put it out for longer.
        self.assertEqual(self.put_out_for(a, b, after=5), 20)

    def put_out_for(self, a: Server, b: Server, after: int) -> int:
        """How long `a` is not asked once so many requests have failed at it, about."""
        for _ in range(after):
            self.fail_at(a)
            self.serve(b)
        for second in range(100):
            before = len(a.work)
            self.ask(messages=[{"content": f"s{second}"}])
            if len(a.work) > before:
                return round(second / 10) * 10
            self.serve(b)
            self.net.spend(1)
        raise AssertionError("it never came back")

    def test_P8_never_one_whose_checks_fail(self) -> None:
        """One that was put out is asked before one that is down, which is never asked."""
        a, b = self.mesh(2)
        b.health = (500, ERROR)
        self.net.spend(6)
        for _ in range(8):
            self.fail_at(a)
        self.assertEqual(self.used(a, b), [8, 0])


class OverloadTests(PromiseCase):
    """P5: no more in flight than slots, no more waiting than allowed, the rest told at once."""

    def test_P5_slots_queue_and_excess(self) -> None:
        """Of ten at two slots and a queue of three, five are refused without any time passing."""
        (a,) = self.mesh(1, slots=2, queue=QueueLimits(max=3))
        clients = [self.ask() for _ in range(10)]
        self.assertEqual(self.used(a), [2])
        refused = [client for client in clients if client.answered]
        self.assertEqual(len(refused), 5)
        for client in refused:
            self.assert_refused(client.answer, 429, "role_saturated")
            self.assertIn("retry-after", client.answer.headers)
        for n in range(5):
            self.assertEqual(self.in_flight(), [min(2, 5 - n)])
            a.work[n].json(200, whole("hi"))
            self.turn()
        self.assertEqual(sum(client.answer.status == 200 for client in clients), 5)
        self.assert_nothing_left(a)

    def test_P5_B17_backends_that_are_busy_for_ever(self) -> None:
        """Where one after another says that it is busy, the wait ends all the same."""
        servers = self.mesh(3, queue=QueueLimits(wait=3.0))
        client = self.ask()
        for _ in range(16):
            for exchange in [each for s in servers for each in s.work if is_open(each)]:
                exchange.json(429, ERROR)
            self.turn(0.25)
        self.assert_refused(client.answer, 429, "role_saturated")
        self.assert_nothing_left(*servers)

    @REPRODUCIBLE
    @given(st.integers(0, 10_000))
    def test_P5_at_any_time(self, seed: int) -> None:
        """Whoever comes, leaves, fails and ends: never more in flight than slots, at last none."""
        luck = Random(seed)
        self.net = Net()
        servers = [self.net.server() for _ in range(2)]
        self.start(role(*servers, slots=2, policy=Policy.LEAST_LOADED, timeouts=QUICK))
        clients: list[Client] = []
        for n in range(30):
            open_ = [each for s in servers for each in s.work if is_open(each)]
            act = luck.choice(("ask", "ask", "ask", "leave", "answer", "answer", "fail", "wait"))
            if act == "ask":
                clients.append(self.ask(messages=[{"content": f"{n}"}]))
            elif act == "leave" and clients:
                luck.choice(clients).leave()
            elif act == "answer" and open_:
                luck.choice(open_).json(200, whole("hi"))
            elif act == "fail" and open_:
                FAULTS[luck.choice(list(FAULTS))](luck.choice(open_))
            self.turn(0.5 if act == "wait" else 0.0)
            self.assert_within_slots(servers)
        for client in clients:
            client.leave()
        self.assert_nothing_left(*servers)

    def assert_within_slots(self, servers: list[Server]) -> None:
        for count, server in zip(self.in_flight(), servers, strict=True):
            self.assertIn(count, (0, 1, 2))
            self.assertLessEqual(sum(map(is_open, server.work)), 2)


@frozen
class Script:
    """How a backend answers: how it begins, how many words it says, how it ends.

    `cut` is where its bytes are cut into pieces.
    """

    begins: str
    words: int
    ends: str
    cut: int


@frozen
class Visit:
    """How a client behaves: it may leave once so many pieces have come, or not read for a while."""

    stream: bool
    leaves_after: int | None
    pauses: bool


BEGINS = (*sorted(FAULTS), *MOODS, "refusal", "unstreamed")
ENDS = ("done", "done", "no done", "clean", "fin", "rst", "error", "no json", "bad chunk", "silent")
seeds = st.integers(0, 2**32)


def scripts(luck: Random) -> list[Script]:
    """One to four backends, most of which have something to say."""
    return [
        Script(
            begins="speaks" if luck.random() < 0.7 else luck.choice(BEGINS),
            words=luck.randrange(6),
            ends=luck.choice(ENDS),
            cut=luck.choice((luck.randint(1, 20), luck.randint(20, 200), 10_000)),
        )
        for _ in range(luck.randint(1, 4))
    ]


def visit(luck: Random) -> Visit:
    leaves_after = luck.randrange(12) if luck.random() < 0.2 else None
    return Visit(luck.random() < 0.7, leaves_after, luck.random() < 0.3)


def pieces_of(said: list[dict[str, Any]], script: Script) -> Iterator[bytes]:
    """A stream's bytes as that script has it, in pieces."""
    whole_stream = b"".join(wire.chunk(wire.event(wire.encode(each))) for each in said)
    ending = {
        "done": wire.chunk(wire.event(wire.DONE)) + wire.LAST_CHUNK,
        "no done": wire.LAST_CHUNK,
        "clean": wire.LAST_CHUNK,
        "error": wire.chunk(wire.event(wire.encode(ERROR))) + wire.LAST_CHUNK,
        "no json": wire.chunk(wire.event(b"what is this")),
        "bad chunk": b"zz\r\n",
    }.get(script.ends, b"")
    data = wire.stream_head() + whole_stream + ending
    return (data[at : at + script.cut] for at in range(0, len(data), script.cut))


class TruthTests(PromiseCase):
    """P3, P6: any client at any backends sees one whole answer, one error, or one broken stream."""

    @REPRODUCIBLE
    @given(seeds)
    def test_P3_one_of_three_ends(self, seed: int) -> None:
        """Complete, a JSON error, or words of one backend and an error event: nothing else."""
        luck = Random(seed)
        self.stage(scripts(luck), llama=luck.random() < 0.5)
        client = self.perform(one := visit(luck))
        if not self.gone:
            self.judge(client, one)
        self.settle(client)

    @REPRODUCIBLE
    @given(seeds)
    def test_P3_a_rescue_goes_on_with_the_same_words(self, seed: int) -> None:
        """With a rescue the words are those that one backend would have said, each once."""
        luck = Random(seed)
        self.stage(scripts(luck), llama=True, rescue=True)
        client = self.perform(evolve(visit(luck), stream=True))
        if not self.gone:
            self.judge_rescued(client)
        self.settle(client)

    def test_P3_an_empty_reason_is_none(self) -> None:
        """A cut stream whose every event has an empty `finish_reason` is not taken for whole."""
        (a,) = self.mesh(1)
        client = self.stream()
        a.work[0].head()
        a.work[0].event(piece("one", ""))
        a.work[0].finish()
        self.turn()
        self.assert_broken_off(client.answer, "upstream_disconnected")

    def stage(self, told: list[Script], llama: bool, **more: Any) -> None:
        """A gateway over backends with scripts; the last one says all it has, and ends well."""
        self.net = Net()
        self.servers = [self.net.server() for _ in told]
        if llama:
            for server in self.servers:
                server.llama(slots=2)
        use = tuple(Target(url=server.url, model="m") for server in self.servers)
        self.start(role(use=use, timeouts=QUICK, queue=QueueLimits(wait=3.0), **more))
        self.scripts = dict(zip((server.port for server in self.servers), told, strict=True))
        for server in self.servers:
            begins = self.scripts[server.port].begins
            server.mood = begins if begins in MOODS else "accept"
        self.rescues = bool(more)
        self.gone = False
        self.came = 0

    def perform(self, visit: Visit) -> Client:
        client = self.ask(stream=visit.stream)
        met: set[int] = set()
        self.watch(client, visit)
        for _ in range(round(ENOUGH / 0.25)):
            if self.gone or client.line.closed:
                break
            for server in self.servers:
                for exchange in [each for each in server.work if id(each) not in met]:
                    met.add(id(exchange))
                    self.answer(server, exchange, client, visit)
            self.turn(0.25)
        return client

    def watch(self, client: Client, visit: Visit) -> None:
        if visit.leaves_after is not None and self.came >= visit.leaves_after and not self.gone:
            self.gone = True
            client.leave()

    def answer(self, server: Server, exchange: Exchange, client: Client, visit: Visit) -> None:
        script = self.scripts[server.port]
        if script.begins in FAULTS:
            FAULTS[script.begins](exchange)
        elif script.begins == "refusal":
            exchange.json(400, {"error": {"message": "no", "code": 400, "type": "x"}})
        elif script.begins == "unstreamed" or not exchange.request.json().get("stream"):
            self.answer_whole(server, exchange, script)
        else:
            self.answer_stream(server, exchange, client, visit)

    def answer_whole(self, server: Server, exchange: Exchange, script: Script) -> None:
        data = wire.json_answer(200, whole("".join(self.words(server, script.words))), wire.CLOSE)
        if script.ends in ("done", "no done", "clean"):
            exchange.say(data)
            exchange.end()
        elif script.ends != "silent":
            exchange.say(data[: len(data) - 1 - script.cut])
            exchange.die()

    def answer_stream(
        self, server: Server, exchange: Exchange, client: Client, visit: Visit
    ) -> None:
        script = self.scripts[server.port]
        said = self.said(server, exchange)
        if self.rescues and script.ends == "done" and not said[-1]["choices"][0]["finish_reason"]:
            script = evolve(script, ends="rst")
        for data in pieces_of(said, script):
            if exchange.left or self.gone:
                return
            exchange.say(data)
            self.turn()
            self.came += 1
            self.watch(client, visit)
            if visit.pauses and self.came == 3 and client.line.producer is not None:
                client.stop_reading()
                self.turn(0.5)
                client.read_on()
        if script.ends == "rst":
            exchange.die()
        elif script.ends != "silent":
            exchange.end()

    def said(self, server: Server, exchange: Exchange) -> list[dict[str, Any]]:
        """The events of a stream, from where the request's last message ends."""
        script = self.scripts[server.port]
        last = exchange.request.json()["messages"][-1]
        before = len(last["content"].split()) if last["role"] == "assistant" else 0
        words = self.words(server, 5 if self.rescues else script.words)[before:][: script.words]
        whole_ = not self.rescues or before + len(words) == 5
        finish = [piece(None, "stop")] if script.ends in ("done", "no done") and whole_ else []
        events = [piece(None, None, role="assistant"), *(piece(word) for word in words), *finish]
        return [{**each, "id": f"chatcmpl-{server.port}"} for each in events]

    def words(self, server: Server, count: int) -> list[str]:
        """What a backend says: its own words, or with a rescue everybody's."""
        name = "" if self.rescues else f"s{server.port}"
        return [f" {name}w{n}" for n in range(count)]

    def judge(self, client: Client, visit: Visit) -> None:
        answer = client.answer
        self.assertTrue(client.line.closed, (self.scripts, "the client still waits"))
        if answer.status >= 400:
            self.judge_error(answer)
        elif visit.stream:
            self.judge_stream(answer)
        else:
            content = answer.json["choices"][0]["message"]["content"]
            self.assertIn(content, self.whole_texts())
            self.assertTrue(answer.finished)

    def judge_error(self, answer: raw.Answer) -> None:
        self.assertTrue(answer.finished)
        self.assertIn(
            answer.json["error"]["code"], {*KINDS, "invalid_request_error"} | {None, 400, "x"}
        )
        self.assertNotIn(b"data:", answer.data)
        self.assertNotIn(b"127.0.0.1", answer.data)

    def judge_stream(self, answer: raw.Answer) -> None:
        if answer.chunked and answer.finished:
            self.assertEqual(answer.data_lines[-1], b"[DONE]")
            self.assertEqual(answer.data.count(b"[DONE]"), 1)
            self.assertFalse([event for event in answer.events if "error" in event])
            self.assertIn(answer.text, self.whole_texts())
        elif answer.chunked:
            self.judge_broken(answer)
            self.assertTrue(any(text.startswith(answer.text) for text in self.texts()))
        else:  # a backend's JSON answer to a request for a stream, taken as it is
            self.assertTrue(answer.finished)
            self.assertIn(answer.json["choices"][0]["message"]["content"], self.whole_texts())

    def judge_broken(self, answer: raw.Answer) -> None:
        self.assertFalse(answer.reset)
        self.assertNotIn(b"[DONE]", answer.data)
        self.assertIn(answer.events[-1]["error"]["code"], KINDS)

    def judge_rescued(self, client: Client) -> None:
        answer = client.answer
        self.assertTrue(client.line.closed, (self.scripts, "the client still waits"))
        if answer.status >= 400:
            self.judge_error(answer)
        elif not answer.chunked:
            self.assertTrue(answer.finished)
        else:
            all_words = "".join(self.words(self.servers[0], 5))
            if answer.finished:
                self.assertEqual((answer.text, answer.data_lines[-1]), (all_words, b"[DONE]"))
            else:
                self.judge_broken(answer)
                self.assertTrue(all_words.startswith(answer.text), answer.text)
            ids = {event["id"] for event in answer.events if "id" in event}
            self.assertLessEqual(len(ids), 1)

    def texts(self) -> list[str]:
        """All that each backend would ever say."""
        return ["".join(self.words(s, self.scripts[s.port].words)) for s in self.servers]

    def whole_texts(self) -> set[str]:
        """The texts of those that say the end of theirs."""
        well = ("done", "no done", "clean")
        pairs = zip(self.servers, self.texts(), strict=True)
        return {text for server, text in pairs if self.scripts[server.port].ends in well}

    def settle(self, client: Client) -> None:
        """When the client is served or gone, nothing of its request is left, at that moment."""
        if not self.gone:
            client.leave()
        self.assert_nothing_left(*self.servers)


@frozen
class Leaving:
    """One phase of a request in which a client may leave, and how far its backend has come."""

    name: str
    stream: bool
    far: Act = field(default=does())


TWO_WORDS = does(Exchange.head, lambda exchange: exchange.text("one", "two"))
PHASES = (
    Leaving("first byte", True),
    Leaving("first byte", False),
    Leaving("head", True, Exchange.head),
    Leaving("half an event", True, does(Exchange.head, says(HALF_AN_EVENT))),
    Leaving("stream", True, TWO_WORDS),
    Leaving("assembled", False, TWO_WORDS),
    Leaving("whole", False, says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")),
)


class LeavingTests(PromiseCase):
    """P6: the GPU is free when the client has gone."""

    def test_P6_every_phase(self) -> None:
        """At the very turn of its leaving, in each phase, with and without llama-server."""
        for phase in PHASES:
            for llama in (True, False):
                self.net = Net()
                server = self.net.server()
                if llama:
                    server.llama(slots=1)
                self.start(role(server, slots=1))
                client = self.ask(stream=phase.stream)
                waiting = self.ask(messages=[{"content": "behind"}])
                phase.far(server.work[0])
                self.turn()
                self.assertFalse(server.work[0].left, phase.name)
                client.leave()
                self.assertTrue(server.work[0].left, phase.name)
                self.assertEqual(len(server.work), 2, phase.name)
                waiting.leave()
                self.assert_nothing_left(server)
