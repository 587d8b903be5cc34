"""The promises of `rolemesh.gateway.dispatch`: rows B1 to B4, C1, C2, P2, P3 and P6 among them."""

from collections.abc import Callable

from rolemesh.core.model import Policy, QueueLimits, Timeouts
from tests.doubles import wire
from tests.gateway.memory import Client, Exchange, GatewayCase, Server, role, whole

LOADING = wire.error(503, "unavailable_error", "Loading model")
TOO_LONG = wire.error(
    400, "exceed_context_size_error", "too long", n_prompt_tokens=5000, n_ctx=4096
)

NO_PICTURES = wire.error(500, "server_error", "image input is not supported")


def load(exchange: Exchange) -> None:
    exchange.json(503, LOADING)


def fault(exchange: Exchange) -> None:
    exchange.json(500, wire.error(500, "server_error", "CUDA error at /src/ggml.cu"))


def lock_out(exchange: Exchange) -> None:
    exchange.json(401, wire.error(401, "authentication_error", "Invalid API Key"))


def talk_html(exchange: Exchange) -> None:
    exchange.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<hr>")


def cut_short(exchange: Exchange) -> None:
    """As a body that ends with its connection can be: its last byte is a brace all the same."""
    cut = b'{"choices":[{"index":0}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    exchange.say(head % len(cut) + cut)


def call_it_ok(exchange: Exchange) -> None:
    exchange.json(200, {"error": "Unexpected endpoint or method. Returning 200 anyway"})


def begin_and_die(exchange: Exchange) -> None:
    exchange.head()
    exchange.die()


BEFORE_A_BYTE: tuple[tuple[Callable[[Exchange], None], str], ...] = (
    (Exchange.die, "died"),
    (Exchange.end, "died"),
    (begin_and_die, "died"),
    (load, "loading"),
    (fault, "fault"),
    (lock_out, "locked_out"),
    (talk_html, "garbled"),
    (cut_short, "garbled"),
    (call_it_ok, "fault"),
)


class DispatchCase(GatewayCase):
    """What becomes of requests whose backends the test plays."""

    def serve(self, server: Server, text: str = "hi") -> None:
        """Let the latest request of a server be answered."""
        server.work[-1].json(200, whole(text))
        self.turn()

    def play(self, server: Server, stream: bool) -> None:
        """Let the latest request of a server be answered as it was asked."""
        if stream:
            server.work[-1].head()
            server.work[-1].text("hi", finish="stop")
            server.work[-1].finish()
            self.turn()
        else:
            self.serve(server)

    def outcomes(self, client: Client) -> list[str]:
        return [each["outcome"] for each in self.record(client)["attempts"]]

    def assert_served(self, client: Client, by: str) -> None:
        self.assertEqual(client.answer.status, 200, client.answer.data)
        self.assertEqual(client.answer.headers["x-rolemesh-backend"], by)
        self.assertTrue(client.answer.finished)


class AgainTests(DispatchCase):
    """While nothing was delivered another backend may answer."""

    def test_P2_before_a_byte(self) -> None:
        """Whatever a backend does instead of answering, the next one answers, in both modes."""
        for stream in (False, True):
            for fail, outcome in BEFORE_A_BYTE:
                self.setUp()
                a, b = self.mesh(2)
                client = self.ask(stream=stream)
                fail(a.work[0])
                self.turn()
                self.play(b, stream)
                self.assert_served(client, "coder-2")
                self.assertEqual(self.outcomes(client), [outcome, "served"], fail.__name__)
                self.assertEqual(client.answer.headers["x-rolemesh-attempts"], "2")

    def test_B1_refused(self) -> None:
        """A closed port costs its client nothing, and the next client is not sent there."""
        a, b = self.mesh(2)
        a.mood = "refuse"
        client = self.ask()
        self.net.spend(0.5)
        self.serve(b)
        self.assert_served(client, "coder-2")
        self.assertEqual(self.ready(), (1, 2))

    def test_B1_all_refused(self) -> None:
        """When all refuse, the client is told so, and when to send again."""
        servers = self.mesh(2)
        for server in servers:
            server.mood = "refuse"
        client = self.ask()
        self.net.spend(1)
        error = self.assert_refused(client.answer, 503, "role_unavailable")
        self.assertIn("'coder' is ready 0/2", str(error["message"]))
        self.assertEqual(client.answer.headers["x-should-retry"], "true")
        self.assertEqual(client.answer.headers["retry-after"], "2")
        again = self.ask()
        self.assert_refused(again.answer, 503, "role_unavailable")
        self.assertEqual(again.answer.headers["retry-after"], "2")

    def test_B1_three_at_most(self) -> None:
        """Of five that refuse three are asked, each once, and no time passes between them."""
        servers = self.mesh(5)
        for server in servers:
            server.mood = "refuse"
        began, client = self.net.seconds(), self.ask()
        self.turn()
        self.assert_refused(client.answer, 503, "role_unavailable")
        self.assertEqual(self.outcomes(client), ["refused"] * 3)
        self.assertEqual(self.net.seconds(), began)
        self.assertEqual(self.ready(), (2, 5))

    def test_B2_black_hole(self) -> None:
        """A connect that nobody answers is left at the role's connect timeout."""
        a, b = self.mesh(2, timeouts=Timeouts(connect=1.0))
        a.mood = "silent"
        client = self.ask()
        self.net.spend(0.75)
        self.assertEqual(b.work, [])
        self.net.spend(0.5)
        self.serve(b)
        self.assertEqual(self.outcomes(client), ["connect_timeout", "served"])

    def test_P3_never_after_a_byte(self) -> None:
        """Once a client has an event, no other backend is asked."""
        a, b = self.mesh(2)
        client = self.stream()
        a.work[0].head()
        a.work[0].text("one")
        self.turn()
        a.work[0].die()
        self.turn()
        self.assertEqual(b.work, [])
        self.assert_broken_off(client.answer, "upstream_disconnected")

    def test_P4_three_tries(self) -> None:
        """One request is tried at three backends and no more."""
        servers = self.mesh(4)
        client = self.ask()
        for server in servers[:3]:
            load(server.work[0])
            self.turn()
        self.assertEqual(servers[3].work, [])
        self.assert_refused(client.answer, 503, "model_loading")
        self.assertEqual(self.outcomes(client), ["loading"] * 3)

    def test_P4_retries_take_turns(self) -> None:
        """Of many requests that fail at once few are tried again at a time, and none is lost."""
        a, b = self.mesh(2)
        clients = [self.ask() for _ in range(5)]
        for exchange in a.work:
            load(exchange)
            self.turn()
        self.assertEqual(len(b.work), 3)
        for number in range(5):
            b.work[number].json(200, whole("hi"))
            self.turn()
        for client in clients:
            self.assert_served(client, "coder-2")

    def test_P4_a_leaving_client_gives_its_turn_away(self) -> None:
        """A client that leaves while it is tried again makes room for the next."""
        a, b = self.mesh(2)
        clients = [self.ask() for _ in range(4)]
        for exchange in a.work:
            load(exchange)
            self.turn()
        clients[0].leave()
        self.assertEqual(len(b.work), 4)

    def test_B4_two_deaths(self) -> None:
        """A request that two backends died of is not given to a third, nor to be sent again."""
        servers = self.mesh(3)
        client = self.ask()
        for server in servers[:2]:
            server.work[0].die()
            self.turn()
        self.assertEqual(servers[2].work, [])
        error = self.assert_refused(client.answer, 502, "upstream_disconnected")
        self.assertIn("'coder' is ready 1/3", str(error["message"]))
        self.assertEqual(client.answer.headers["x-should-retry"], "false")

    def test_each_try_elsewhere(self) -> None:
        """A backend that failed a request is not asked again for it, though it is the only one."""
        (a,) = self.mesh(1)
        client = self.ask()
        load(a.work[0])
        self.turn()
        self.assertEqual(len(a.work), 1)
        self.assert_refused(client.answer, 503, "model_loading")

    def test_slots_after_failures(self) -> None:
        """A failed try gives its slot back."""
        a, b = self.net.server(), self.net.server()
        self.start(role(a, b, slots=1))
        for number in range(3):
            client = self.ask()
            fault(a.work[number])
            self.turn()
            self.serve(b)
            self.assert_served(client, "coder-2")

    def test_B3_first_byte(self) -> None:
        """Of backends that say nothing for their time two are asked; then it is 504."""
        silent = self.mesh(3, timeouts=Timeouts(first_byte=30))
        client = self.ask()
        for _ in range(2):
            self.net.spend(29)
            self.assertFalse(client.answered)
            self.net.spend(1.5)
        self.assert_refused(client.answer, 504, "upstream_timeout")
        self.assertEqual(client.answer.headers["x-should-retry"], "false")
        asked = [exchange for each in silent for exchange in each.work]
        self.assertEqual([exchange.left for exchange in asked], [True, True])

    def test_B3_first_byte_elsewhere(self) -> None:
        """What one backend was silent at, another one answers."""
        a, b = self.mesh(2, timeouts=Timeouts(first_byte=30))
        client = self.ask()
        self.net.spend(31)
        (exchange,) = (a.work + b.work)[1:]
        exchange.json(200, whole("hi"))
        self.assertEqual(client.answer.status, 200)

    def test_B3_a_head_is_no_byte(self) -> None:
        """A head, or comments, without an event do not stop that clock, nor set it anew."""
        (a,) = self.mesh(1, timeouts=Timeouts(first_byte=12))
        client = self.stream()
        self.net.spend(5)
        a.work[0].head()
        self.net.spend(5)
        a.work[0].say(wire.chunk(b": ping\n\n"))
        self.net.spend(1.5)
        self.assertFalse(client.answered)
        self.net.spend(1)
        self.assert_refused(client.answer, 504, "upstream_timeout")
        self.assertTrue(a.work[0].left)


class CacheTests(DispatchCase):
    """Conversations go where their cache is."""

    def ask_about(self, question: str) -> Client:
        system = {"role": "system", "content": "You are careful. " * 99}
        return self.ask(messages=[system, {"role": "user", "content": question}])

    def believed(self, client: Client) -> int:
        found: int = self.record(client)["believed_cached"]
        return found

    def test_a_slot_at_work_holds_nothing_for_others(self) -> None:
        """What another request has in its slot counts only once that request is over."""
        (a,) = self.mesh(1, policy=Policy.AFFINITY, slots=2)
        first, second = self.ask_about("one"), self.ask_about("two")
        for exchange in a.work:
            exchange.json(200, whole("hi"))
        self.turn()
        third = self.ask_about("three")
        self.serve(a)
        self.assertEqual((self.believed(first), self.believed(second)), (0, 0))
        self.assertGreater(self.believed(third), 300)

    def test_a_request_that_failed_leaves_its_slot(self) -> None:
        """Also what was read for an answer that never came is there for the next."""
        (a,) = self.mesh(1, policy=Policy.AFFINITY, slots=2)
        self.ask_about("one").leave()
        self.turn()
        second = self.ask_about("two")
        self.serve(a)
        self.assertGreater(self.believed(second), 300)


class ElsewhereTests(DispatchCase):
    """Other roles, and other sizes, that can answer instead."""

    def two_roles(self) -> tuple[Server, Server]:
        a, b = self.net.server(), self.net.server()
        self.start(role(a, fallback=("planner",)), role(b, name="planner"))
        return a, b

    def test_fallback(self) -> None:
        """A role with nobody ready is stood in for by its fallback, and the route says so."""
        a, b = self.two_roles()
        a.mood = "refuse"
        self.net.spend(6)
        client = self.ask()
        self.serve(b)
        self.assert_served(client, "planner")
        self.assertEqual(client.answer.headers["x-rolemesh-role"], "coder")
        self.assertIn("fallback=planner", client.answer.headers["x-rolemesh-route"])

    def test_fallback_after_failures(self) -> None:
        """So is one whose backends all failed the request."""
        a, b = self.two_roles()
        client = self.ask()
        a.work[0].die()
        self.turn()
        self.serve(b)
        self.assert_served(client, "planner")

    def test_no_fallback_while_well(self) -> None:
        """A role that can answer needs nobody to stand in."""
        a, b = self.two_roles()
        client = self.ask()
        self.serve(a)
        self.assert_served(client, "coder")
        self.assertEqual(b.work, [])

    def test_fallback_fails_too(self) -> None:
        """When nobody answers, the role that was asked for is spoken of."""
        servers = self.two_roles()
        for server in servers:
            server.mood = "refuse"
        self.net.spend(6)
        error = self.assert_refused(self.ask().answer, 503, "role_unavailable")
        self.assertIn("'coder'", str(error["message"]))

    def sized(self, *contexts: int) -> list[Server]:
        servers = [self.net.server().llama(context=context) for context in contexts]
        self.start(role(*servers))
        return servers

    def test_too_long_for_one(self) -> None:
        """A prompt that is too long for one backend goes to one with room for it."""
        a, b, c = self.sized(4096, 4500, 65536)
        client = self.ask()
        a.work[0].json(400, TOO_LONG)
        self.turn()
        self.assertEqual(b.work, [])
        c.work[0].head()
        c.work[0].text("hi", finish="stop")
        c.work[0].done()
        self.turn()
        self.assert_served(client, "coder-3")
        self.assertEqual(self.ready(), (3, 3))

    def test_B19_too_long_for_all(self) -> None:
        """When none has more room the client gets the error, with both numbers."""
        a, b = self.sized(4096, 4096)
        client = self.ask()
        a.work[0].json(400, TOO_LONG)
        self.turn()
        error = self.assert_refused(client.answer, 400, "context_length_exceeded")
        self.assertEqual((error["n_ctx"], error["n_prompt_tokens"]), (4096, 5000))
        self.assertEqual(client.answer.headers["x-should-retry"], "false")
        self.assertEqual(b.work, [])

    def test_B19_too_long_for_the_largest(self) -> None:
        """The error names the most that any backend of the role takes, not what the first does."""
        a, b = self.sized(4096, 4500)
        client = self.ask()
        a.work[0].json(400, TOO_LONG)
        self.turn()
        error = self.assert_refused(client.answer, 400, "context_length_exceeded")
        self.assertEqual((error["n_ctx"], error["n_prompt_tokens"]), (4500, 5000))
        self.assertIn("5000 tokens > 4500 maximum", str(error["message"]))
        self.assertEqual(b.work, [])

    def test_B19_what_one_cannot_do_another_perhaps_can(self) -> None:
        """A picture for a model that sees none goes to the role's other backend, and so on to the
        third; none of them has failed."""
        servers = self.mesh(4)
        client = self.ask()
        for server in servers[:2]:
            server.work[0].json(500, NO_PICTURES)
            self.turn()
        self.serve(servers[2])
        self.assert_served(client, "coder-3")
        self.assertEqual(self.outcomes(client), ["served"] * 3)

    def test_B19_what_none_can_do(self) -> None:
        """The client is told why, in the backend's words, however often it asks; nobody is ejected
        or overrun, and the request is no poison."""
        servers = self.mesh(4)
        asked: list[Exchange] = []
        for _ in range(6):
            client = self.ask(stream=True)
            for _ in range(3):
                works = [each for server in servers for each in server.work if each not in asked]
                works[0].json(500, NO_PICTURES)
                self.turn()
                asked += works
            error = self.assert_refused(client.answer, 400, "bad_request")
            self.assertEqual(error["message"], "image input is not supported")
            self.assertEqual(client.answer.headers["x-should-retry"], "false")
        self.assertEqual(len(asked), 18)
        self.assertEqual(self.ready(), (4, 4))

    def test_too_long_gives_the_slot_back(self) -> None:
        """The first backend is free for others while the larger one answers."""
        a, _ = self.sized(4096, 65536)
        self.ask()
        a.work[0].json(400, TOO_LONG)
        self.turn()
        self.ask()
        self.assertEqual(len(a.work), 2)

    def test_pinned(self) -> None:
        """`role@node` goes to that node or nowhere."""
        (a,) = self.mesh(1)
        client = self.ask(model="coder@static")
        self.serve(a)
        self.assert_served(client, "coder")
        error = self.assert_refused(self.ask(model="coder@box9").answer, 503, "role_unavailable")
        self.assertIn("pinned to node 'box9'", str(error["message"]))

    def test_round_robin(self) -> None:
        """Round-robin gives ready backends a turn each."""
        servers = self.mesh(3, policy=Policy.ROUND_ROBIN)
        for _ in range(6):
            self.ask()
        self.assertEqual([len(server.work) for server in servers], [2, 2, 2])


class QueueTests(DispatchCase):
    """Requests beyond the slots wait."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.net.server()
        self.start(role(self.server, slots=1, queue=QueueLimits(max=2, wait=60.0)))
        self.first = self.ask()

    def test_waits(self) -> None:
        """The next one is sent when a slot becomes free, and is told how long it waited."""
        second = self.ask()
        self.assertEqual(len(self.server.work), 1)
        self.net.spend(3)
        self.serve(self.server)
        self.assertEqual(len(self.server.work), 2)
        self.serve(self.server)
        self.assert_served(second, "coder")
        self.assertEqual(second.answer.headers["x-rolemesh-queue-ms"], "3000")

    def test_B17_too_long(self) -> None:
        """Who has waited long enough is told how full the role is."""
        second = self.ask()
        self.net.spend(60.5)
        error = self.assert_refused(second.answer, 429, "role_saturated")
        self.assertIn("1 waiting for 1 slots", str(error["message"]))
        self.assertIn("retry-after", second.answer.headers)

    def test_P5_too_many(self) -> None:
        """One more than may wait is refused at once."""
        self.ask()
        self.ask()
        self.assert_refused(self.ask().answer, 429, "role_saturated")

    def test_wait_of_the_client(self) -> None:
        """A role with no wait of its own waits nearly as long as its client says that it reads: who
        has left would not see the refusal, nor when to come back."""
        for told, waits in (("20", 19), ("1", 0.25)):
            self.setUp_auto()
            second = self.ask(headers={"X-Stainless-Read-Timeout": told})
            self.net.spend(waits)
            self.assertFalse(second.answered)
            self.net.spend(float(told) - waits - 0.125)
            self.assert_refused(second.answer, 429, "role_saturated")

    def setUp_auto(self) -> None:
        GatewayCase.setUp(self)
        self.server = self.net.server()
        self.start(role(self.server, slots=1))
        self.ask()

    def test_C1_leaves(self) -> None:
        """A client that leaves the queue reaches no backend, and is logged with 499."""
        gone, next = self.ask(), self.ask()
        gone.leave()
        self.assertEqual(self.lines()[-1]["http.response.status_code"], 499)
        self.serve(self.server)
        self.assertEqual(len(self.server.work), 2)
        self.serve(self.server)
        self.assert_served(next, "coder")


class LeavingTests(DispatchCase):
    """P6: when the client leaves, the backend is free at once, in every phase."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.net.server()
        self.start(role(self.server, slots=1))

    def assert_freed(self, exchange: Exchange) -> None:
        """The upstream was closed, its slot serves the next, and nobody is blamed."""
        self.assertTrue(exchange.left)
        self.assertRegex(self.lines()[-1]["rolemesh.end"], "the client went away (before|in) ")
        self.assertEqual(self.ready(), (1, 1))
        client = self.ask()
        self.assertIsNot(self.server.work[-1], exchange)
        self.serve(self.server)
        self.assert_served(client, "coder")

    def test_C2_connecting(self) -> None:
        """While the gateway connects."""
        self.server.mood = "silent"
        client = self.ask()
        client.leave()
        connectors = [each for each in self.net.connectors if each.stoppedConnecting]
        self.assertEqual(len(connectors), 1)
        self.server.mood = "accept"
        self.assertEqual(self.ready(), (1, 1))
        again = self.ask()
        self.serve(self.server)
        self.assert_served(again, "coder")

    def test_C2_first_byte(self) -> None:
        """While it waits for an answer."""
        for stream in (False, True):
            client = self.ask(stream=stream)
            client.leave()
            self.assertEqual(self.lines()[-1]["http.response.status_code"], 499)
            self.assert_freed(self.server.work[-1])

    def test_C2_head(self) -> None:
        """Between a stream's head and its first event."""
        client = self.stream()
        exchange = self.server.work[-1]
        exchange.head()
        self.turn()
        client.leave()
        self.assert_freed(exchange)

    def test_C2_stream(self) -> None:
        """In the middle of a stream."""
        client = self.stream()
        exchange = self.server.work[-1]
        exchange.head()
        exchange.text("one")
        self.turn()
        client.leave()
        self.assert_freed(exchange)

    def test_C2_whole(self) -> None:
        """In the middle of an answer that is not streamed."""
        client = self.ask()
        exchange = self.server.work[-1]
        exchange.say(wire.json_answer(200, whole("hi"))[:-5])
        self.turn()
        client.leave()
        self.assert_freed(exchange)

    def test_C2_assembled(self) -> None:
        """While a stream is put together for a client that waits for a whole answer."""
        GatewayCase.setUp(self)
        self.server = self.net.server().llama(slots=1)
        self.start(role(self.server))
        client = self.ask()
        exchange = self.server.work[-1]
        exchange.head()
        exchange.text("one")
        self.turn()
        client.leave()
        self.assertTrue(exchange.left)
        self.ask()
        self.assertEqual(len(self.server.work), 2)
        self.assertEqual(self.ready(), (1, 1))

    def test_C2_nobody_is_ejected(self) -> None:
        """Clients that leave, however many, never take a backend out of its role."""
        for _ in range(10):
            self.ask().leave()
        self.assertEqual(self.ready(), (1, 1))
