"""What clients can do wrong, and what it costs nobody else: the rows C1 to C28, on real sockets."""

import json
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.tcp import Client, Connection

from rolemesh.core.model import QueueLimits
from rolemesh.core.openai import Api
from rolemesh.gateway import attempt, relay
from rolemesh.gateway.life import GatewayLife
from tests.doubles import raw
from tests.doubles.blackhole import BlackHole
from tests.doubles.fakellama import Fakellama
from tests.doubles.mesh import CHAT, Stalls, sleep
from tests.doubles.slots import Speed
from tests.gateway.http_corpus import BAD
from tests.gateway.row_case import FREE_WITHIN, RowCase, role

SLOW = Speed(decode=20)
LONG = [{"role": "user", "content": "word " * 400}]
JSON = "Host: localhost\r\nContent-Type: application/json\r\n"
KIB = 1024


def _connecting() -> list[Any]:
    """This process's connections that are not established yet."""
    ends = [each for each in reactor.getWriters() if isinstance(each, Client)]
    return [each for each in ends if not each.connected]


class LeavingTests(RowCase):
    """C1, C2: a client that leaves frees its backend at once, in every phase, however it leaves."""

    async def leave_both_ways(
        self, fake: Fakellama, far_enough: Callable[[], bool], **more: Any
    ) -> None:
        """A client leaves in that phase with a reset, another one with a close."""
        for reset in (True, False):
            client = await self.send(**more)
            await self.until("it is that far", lambda: len(fake.running) == 1 and far_enough())
            await self.assert_freed(client, fake, reset=reset)
            behaviour = fake.calls[-1].behaviour
            fake.behave("normal")
            fake.slots.speed, speed = Speed(), fake.slots.speed
            await self.until("its slot is free", lambda: fake.slots.busy == 0)
            await self.assert_slot_free("coder")
            fake.slots.speed = speed
            fake.behave(behaviour)

    async def test_C1_while_queued(self) -> None:
        """Who leaves the queue is never sent to a backend, and the one behind moves up."""
        fake = self.fake(slots=1, speed=SLOW, length=1000)
        await self.mesh(role(fake))
        first = await self.send(stream=True, max_tokens=1000)
        await first.seen(b"data:")
        leaver = await self.send({"X-Request-Id": "leaver"}, stream=True)
        behind = self.ask()
        await self.until("it waits", partial(self.waits, "leaver"))
        leaver.leave()
        await self.until("it has left", partial(self.left, "leaver"))
        record = await self.record("leaver")
        self.assertEqual((record["status"], record["attempts"]), (499, []))
        fake.slots.speed = Speed()
        first.leave()
        self.assert_served(await behind, "coder")
        self.assertEqual(len(fake.work), 2)

    async def left(self, id: str) -> bool:
        return (await self.record(id))["end"] != "under way"

    async def test_C2_while_connecting(self) -> None:
        """A connect that nobody waits for any more is given up."""
        fake = self.fake()
        await self.mesh(role(fake))
        await fake.stop()
        hole = BlackHole(fake.port)
        self.addCleanup(hole.close)
        before = set(_connecting())
        for reset in (True, False):
            client = await self.send({"X-Request-Id": f"c{reset}"})
            await self.until("it connects", lambda: bool(set(_connecting()) - before))
            mine = set(_connecting()) - before
            with Stalls() as stalls:
                left = reactor.seconds()
                client.leave(reset=reset)
                await self.until("it is given up", lambda mine=mine: not mine & set(_connecting()))
            self.assertLess(reactor.seconds() - left - stalls.seconds, FREE_WITHIN)
            self.assertEqual((await self.record(f"c{reset}"))["status"], 499)

    async def test_C2_while_the_prompt_is_read(self) -> None:
        """In the prefill, streamed and not."""
        fake = self.fake(slots=1, speed=Speed(prompt=100))
        await self.mesh(role(fake))
        for stream in (True, False):
            await self.leave_both_ways(
                fake, lambda: fake.slots.busy == 1, stream=stream, messages=LONG
            )

    async def test_C2_before_the_first_event(self) -> None:
        """After the head, before anything in it."""
        fake = self.fake("silent-after:0", slots=1)
        await self.mesh(role(fake))
        fake.behave("silent-after")
        await self.leave_both_ways(fake, lambda: self.said(fake, 0), stream=True)

    def said(self, fake: Fakellama, events: int) -> bool:
        return any(call.first_byte_at and call.events >= events for call in fake.running)

    async def test_C2_in_the_stream(self) -> None:
        """In the middle of a stream, and of one that is put together for the client."""
        fake = self.fake(slots=1, speed=SLOW, length=1000)
        await self.mesh(role(fake))
        for stream in (True, False):
            more = {"stream": stream, "max_tokens": 1000}
            await self.leave_both_ways(fake, lambda: self.said(fake, 3), **more)

    async def test_C2_while_a_whole_answer_is_made(self) -> None:
        """Also where the backend is asked for a whole answer."""
        fake = self.fake(slots=1, speed=SLOW, length=1000)
        await self.mesh(role(fake, assemble=False))
        await self.leave_both_ways(fake, lambda: fake.slots.busy == 1, max_tokens=1000)

    async def test_C2_half_close_counts_as_gone(self) -> None:
        """A client that closes its own half only is gone."""
        fake = self.fake(slots=1, speed=SLOW, length=1000)
        await self.mesh(role(fake))
        client = await self.send(stream=True, max_tokens=1000)
        await client.seen(b"data:")
        (call,) = fake.running
        with Stalls() as stalls:
            left = reactor.seconds()
            client.transport.loseWriteConnection()
            await self.until("the upstream is closed", lambda: not fake.running)
        assert call.ended_at is not None
        self.assertLess(call.ended_at - left - stalls.seconds, FREE_WITHIN)

    async def test_C2_many_leave_and_nothing_is_left(self) -> None:
        """Forty clients that leave at any moment leave no call, no slot and no wait behind."""
        fake = self.fake(slots=4, speed=Speed(prompt=2000, decode=100), length=1000)
        await self.mesh(role(fake))
        clients = [
            await self.send(stream=bool(n % 2), max_tokens=1000, messages=LONG) for n in range(40)
        ]
        for n, client in enumerate(clients):
            await sleep(0.03 if n % 5 == 0 else 0.0)
            client.leave()
        await self.until("all are gone", lambda: not fake.running)
        await self.until("every slot is free", lambda: fake.slots.busy == 0)
        fake.slots.speed = Speed()
        await self.assert_slot_free("coder")


class SlowReaderTests(RowCase):
    """C3: a client that does not read holds little, for a while, and slows nobody."""

    def deafen(self, *clients: raw.RawClient) -> None:
        """Let clients read nothing, and the kernel hold little of any connection in here."""
        for client in clients:
            client.transport.pauseProducing()
        for each in [*reactor.getReaders(), *(client.transport for client in clients)]:
            if isinstance(each, Connection):
                for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    each.getHandle().setsockopt(socket.SOL_SOCKET, buffer, 4 * KIB)

    def held(self, life: GatewayLife) -> int:
        """The most bytes that wait in this process for one client."""
        lines = [channel.transport for channel in life._site.channels]
        return max((len(each.dataBuffer) + each._tempDataLen for each in lines), default=0)

    async def test_C3_little_is_held_and_the_backend_waits(self) -> None:
        """At most 256 KiB wait for a client that reads nothing, however long."""
        fake = self.fake("endless")
        life = await self.mesh(role(fake))
        client = await self.send(stream=True)
        await client.seen(b"data:")
        self.deafen(client)
        most = 0
        await self.until("the backend is held up", lambda: any(call.pauses for call in fake.work))
        for _ in range(20):
            await sleep(0.02)
            most = max(most, self.held(life))
        self.assertGreater(most, 0)
        self.assertLessEqual(most, 256 * KIB)
        client.leave()

    async def test_C3_who_reads_nothing_is_given_up(self) -> None:
        """After its patience both ends are closed, the record says so, the slot is free."""
        self.patch(attempt, "Patience", partial(relay.Patience, reader=0.3))
        fake = self.fake("endless", slots=1)
        await self.mesh(role(fake))
        client = await self.send({"X-Request-Id": "slow"}, stream=True)
        await client.seen(b"data:")
        self.deafen(client)
        await self.until("the upstream is closed", lambda: bool(fake.work) and not fake.running)
        self.assertEqual(fake.work[0].outcome, "left")
        self.assertEqual((await self.record("slow"))["end"], "the client did not read")
        client.transport.resumeProducing()
        answer = await client.closed
        self.assertFalse(answer.finished)
        self.assertNotIn(b"[DONE]", answer.data[-100:])
        fake.behave("normal")
        await self.assert_slot_free("coder")

    async def test_C3_others_go_on(self) -> None:
        """Streams beside four that nobody reads come whole, from the same backend."""
        fake = self.fake("4*endless", slots=16)
        await self.mesh(role(fake))
        slow = [await self.send(stream=True) for _ in range(4)]
        await gatherResults([client.seen(b"data:") for client in slow])
        self.deafen(*slow)
        await self.until("all are held up", lambda: sum(call.pauses > 0 for call in fake.work) == 4)
        for answer in await gatherResults([self.ask(stream=True) for _ in range(5)]):
            self.assert_served(answer, "coder")


class EdgeTests(RowCase):
    """C4 to C8, C16 to C21: what comes in before it is a request."""

    async def gateway_with(self, **limits: Any) -> Fakellama:
        fake = self.fake()
        life = await self.mesh(role(fake))
        life._site.limits = evolve(life._site.limits, **limits)
        return fake

    async def drip(self, begin: bytes, drop: bytes) -> raw.Answer:
        """What a client gets that sends a byte now and then, for ever."""
        client = await self.connect()
        client.transport.write(begin)
        while not client.closed.called:
            client.transport.write(drop)
            await sleep(0.05)
        return await client.closed

    async def test_C4_a_slow_head_is_late_while_others_are_served(self) -> None:
        """A head that drips is 408 at its deadline, and cost nobody else anything."""
        await self.gateway_with(head_seconds=3.0)
        dripping = self.drip(f"POST {CHAT} HTTP/1.1\r\nX-Drip: ".encode(), b"a")
        answers = await gatherResults([Deferred.fromCoroutine(dripping), self.ask()])
        self.assert_refused(answers[0], 408, "request_timeout", retry=False)
        self.assert_served(answers[1], "coder")

    async def test_C5_a_slow_body_is_late(self) -> None:
        """So is a body that drips; nothing of it reaches a backend."""
        fake = await self.gateway_with(body_seconds=1.0)
        head = f"POST {CHAT} HTTP/1.1\r\n{JSON}Content-Length: 1000\r\n\r\n{{".encode()
        self.assert_refused(await self.drip(head, b" "), 408, "request_timeout", retry=False)
        self.assertEqual(fake.work, [])

    async def test_C6_too_many_connections_of_one_address(self) -> None:
        """Those beyond the limit are closed at once, and room is made again by those that leave."""
        await self.gateway_with(address_connections=10, head_seconds=60.0)
        idle = [await self.connect() for _ in range(10)]
        refused = await (await self.connect()).closed
        self.assertEqual(refused.data, b"")
        for client in idle:
            client.leave()
        await self.until("there is room", self.is_served)

    async def is_served(self) -> bool:
        return bool((await raw.get(reactor, self.port, "/health")).data)

    async def test_C6_idle_connections_are_closed(self) -> None:
        """A kept connection on which nothing comes is closed after its time."""
        await self.gateway_with(idle_seconds=1.0)
        client = await self.connect()
        client.get("/health", close=False)
        answer = await client.closed
        self.assertEqual((answer.status, answer.reset), (200, False))

    async def test_C7_a_body_over_the_limit(self) -> None:
        """413 for a length over the limit before a byte of it, and at the chunk that passes it."""
        fake = await self.gateway_with(body_bytes=1000)
        head = f"POST {CHAT} HTTP/1.1\r\n{JSON}"
        for body in ("Content-Length: 1001\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n3e9\r\n"):
            answer = await self.say((head + body).encode())
            self.assert_refused(answer, 413, "request_too_large", retry=False)
            self.assertEqual(answer.headers["connection"], "close")
        self.assertEqual(fake.work, [])

    async def test_C7_the_default_limit(self) -> None:
        """Without being told otherwise the gateway takes 32 MiB."""
        await self.mesh(role(self.fake()))
        length = f"Content-Length: {32 * 2**20 + 1}\r\n\r\n"
        answer = await self.say(f"POST {CHAT} HTTP/1.1\r\n{JSON}{length}".encode())
        self.assert_refused(answer, 413, "request_too_large")

    async def test_C8_no_continue_without_a_key(self) -> None:
        """Who has no key is told so before the body, with no 100 Continue and nothing read."""
        fake = self.fake()
        _, path = self.key()
        await self.mesh(role(fake), keys=path)
        for api in (Api.CHAT, Api.MESSAGES, Api.TOKENIZE):
            answer = await self.say(self.expecting(api.value, 5))
            self.assertTrue(answer.data.startswith(b"HTTP/1.1 401 "), answer.data)
            self.assertEqual(answer.json["error"]["code"], "invalid_api_key")
            self.assertEqual(answer.headers["www-authenticate"], "Bearer")
        self.assertEqual(fake.work, [])

    async def test_C8_no_continue_for_a_body_too_large(self) -> None:
        """Neither is one asked for that could not be taken."""
        good, path = self.key()
        await self.mesh(role(self.fake()), keys=path)
        answer = await self.say(self.expecting(CHAT, 2**30, **good))
        self.assertTrue(answer.data.startswith(b"HTTP/1.1 413 "), answer.data)

    async def test_C8_continue_with_a_key(self) -> None:
        """With a good key the body is asked for, and answered."""
        good, path = self.key()
        await self.mesh(role(self.fake()), keys=path)
        body = json.dumps(self.body()).encode()
        client = await self.connect()
        client.transport.write(self.expecting(CHAT, len(body), Connection="close", **good))
        await client.seen(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.transport.write(body)
        answer = await client.closed
        self.assertIn(b"HTTP/1.1 200 ", answer.data)

    def expecting(self, path: str, length: int, **more: str) -> bytes:
        fields = {"Expect": "100-continue", "Content-Length": str(length), **more}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {path} HTTP/1.1\r\n{JSON}{lines}\r\n".encode()

    async def test_C16_C17_C20_C21_bad_requests_reach_no_backend(self) -> None:
        """Each is refused in JSON by a whole gateway, and what it smuggles is asked of nobody."""
        fake = self.fake()
        await self.mesh(role(fake), allowed_hosts=("gw",))
        before = len(fake.work)
        for name, (code, data) in BAD.items():
            if name.startswith("C7"):  # what is too large here is told by C7's own tests
                continue
            answer = await self.say(data)
            self.assertEqual(answer.json["error"]["code"], code, name)
            self.assertEqual(answer.headers["connection"], "close", name)
            self.assertEqual(answer.data.count(b"HTTP/1.1 "), 1, name)
            self.assertTrue(answer.finished, name)
        self.assertEqual(len(fake.work), before)

    async def test_C20_who_says_nothing_is_let_go(self) -> None:
        """A connection on which nothing ever comes is closed without a word."""
        await self.gateway_with(head_seconds=0.3)
        answer = await (await self.connect()).closed
        self.assertEqual((answer.data, answer.reset), (b"", False))


class BodyTests(RowCase):
    """C9 to C14: what is no request of ours is told so, and no backend hears of it."""

    async def assert_refusals(self, code: str, *bodies: bytes, param: str | None = None) -> None:
        fake = self.fake()
        await self.mesh(role(fake))
        for body in bodies:
            for api in (Api.CHAT, Api.EMBEDDINGS, Api.TOKENIZE):
                answer = await raw.post(reactor, self.port, api.value, body)
                self.assert_refused(answer, 400, code, retry=False)
                self.assertEqual(answer.json["error"]["param"], param)
                self.assertNotIn(b"secret", answer.data)
        self.assertEqual(fake.work, [])
        self.assertNotIn("secret", repr(self.logged))

    async def test_C9_no_object(self) -> None:
        """Bad JSON, nothing, a list, a text."""
        bad = (b"", b"[1]", b'"secret"', b"null", b'{"model": secret}', b'{"model":"coder"')
        await self.assert_refusals("invalid_json", *bad)

    async def test_C10_too_deep(self) -> None:
        """A hundred thousand brackets, and sixty-five."""
        deep = [b'{"model":"coder","messages":' + b"[" * n for n in (65, 100_000)]
        closed = b'{"model":"coder","messages":' + b"[" * 65 + b"]" * 65 + b"}"
        await self.assert_refusals("invalid_json", *deep, closed)

    async def test_C11_no_numbers(self) -> None:
        """NaN, Infinity, and numbers that no float holds."""
        bad = [b'{"model":"coder","x":%b}' % n for n in (b"NaN", b"Infinity", b"-Infinity", b"01")]
        await self.assert_refusals("invalid_json", *bad, b'{"model":"coder","x":1e999}')

    async def test_C11_a_number_of_5000_digits_is_no_bug(self) -> None:
        """It is refused, or goes on as it came; it is never a 500, and never another number."""
        fake = self.fake()
        await self.mesh(role(fake))
        digits = b"7" * 5000
        body = b'{"model":"coder","messages":[{"role":"user","content":"hi"}],"seed":%b}' % digits
        answer = await raw.post(reactor, self.port, CHAT, body)
        self.assertLess(answer.status, 500, answer.data)
        for call in fake.work:
            self.assertIn(digits, call.request.body)

    async def test_C12_other_encodings(self) -> None:
        """Bytes that are no UTF-8, UTF-16, half a surrogate pair."""
        text = '{"model":"coder","x":"secret"}'
        bad = (b'{"model":"\xff"}', text.encode("utf-16"), text.encode("utf-32"))
        await self.assert_refusals("invalid_encoding", *bad, b'{"model":"coder","x":"\\ud800"}')

    async def test_C13_gateway_and_backend_read_the_same(self) -> None:
        """Of a key that is there twice the backend gets one, the one that was judged."""
        fake = self.fake()
        await self.mesh(role(fake), role(self.fake(), name="planner"))
        body = (
            b'{"model":"planner","max_tokens":1,"messages":[{"role":"user","content":"x"}],'
            b'"model":"coder","max_tokens":5,"n_discard":null}'
        )
        answer = await raw.post(reactor, self.port, CHAT, body)
        self.assertEqual((answer.status, answer.headers["x-rolemesh-role"]), (200, "coder"))
        (call,) = fake.work
        self.assertEqual(call.request.body.count(b'"max_tokens"'), 1)
        self.assertEqual(call.request.json()["max_tokens"], 5)

    async def test_C13_a_forbidden_field_cannot_hide_behind_another(self) -> None:
        """Neither the first nor the last of two passes for the other."""
        fake = self.fake()
        await self.mesh(role(fake))
        for pair in (b'"n_discard":-1,"n_discard":null', b'"n_discard":null,"n_discard":-1'):
            body = b'{"model":"coder","messages":[{"role":"user","content":"x"}],%b}' % pair
            answer = await raw.post(reactor, self.port, CHAT, body)
            if answer.status == 200:
                self.assertIsNone(fake.work[-1].request.json().get("n_discard"))
            else:
                self.assert_refused(answer, 400, "unsupported_parameter")

    async def test_C14_what_reaches_into_a_server(self) -> None:
        """Fields of the servers' own are refused by name, also where they are escaped."""
        for name, value in (("n_discard", b"-1"), ("lora", b"[]"), ("id_slot", b"0")):
            escaped = "".join(f"\\u{ord(char):04x}" for char in name)
            bodies = [b'{"model":"coder","%b":%b}' % (n.encode(), value) for n in (name, escaped)]
            await self.assert_refusals("unsupported_parameter", *bodies, param=name)

    async def test_C14_a_body_s_url_and_key_are_nobody_s(self) -> None:
        """`api_base` and its like route nothing, and get no key of ours."""
        trap, fake = self.fake(), self.fake()
        await self.mesh(role(fake))
        names = ("api_base", "base_url", "api_key", "custom_llm_provider")
        answer = await self.ask(**dict.fromkeys(names, trap.url))
        self.assertEqual(answer.status, 200)
        self.assertEqual((trap.calls, len(fake.work)), ([], 1))


class HeaderTests(RowCase):
    """C15, C18: what headers can do."""

    async def test_C15_nothing_is_injected(self) -> None:
        """Line ends and NUL in header values are refused; in a role's name they stay in JSON."""
        fake = self.fake()
        await self.mesh(role(fake))
        for value in (b"a\rX-Evil: 1", b"a\nX-Evil: 1", b"a\0b"):
            answer = await self.say(
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %b\r\n\r\n" % value
            )
            self.assert_refused(answer, 400, "bad_request", retry=False)
        answer = await self.ask(model="coder\r\nX-Evil: 1")
        self.assert_refused(answer, 404, "model_not_found", retry=False)
        self.assertNotIn("x-evil", answer.headers)
        self.assertEqual(fake.work, [])

    async def test_C15_only_sane_ids_are_taken_over(self) -> None:
        """An id of the client's is answered, logged and passed on, if it is one; else a new one."""
        fake = self.fake()
        await self.mesh(role(fake))
        for id, sane in (("a.B-9_z", True), ("x" * 64, True), ("x" * 65, False), ("a b", False)):
            answer = await (await self.send({"X-Request-Id": id})).closed
            used = answer.headers["x-request-id"]
            self.assertEqual(used == id, sane)
            self.assertRegex(used, r"\A[A-Za-z0-9._-]{1,64}\Z")
            self.assertEqual(fake.work[-1].request.header("x-request-id"), used)

    async def test_C18_what_goes_upstream_is_a_short_list(self) -> None:
        """Of what a client says a backend gets the body and what is known to be good."""
        fake = self.fake()
        await self.mesh(role(fake))
        secrets = {
            "Authorization": "Bearer sk-mine",
            "Cookie": "a=b",
            "X-Api-Key": "sk-mine",
            "X-Conversation-Id": "c1",
            "X-Forwarded-For": "10.0.0.1",
            "X-Forwarded_For": "10.0.0.1",
            "Content_Length": "7",
            "Forwarded": "for=10.0.0.1",
            "X-Anything": "1",
            "TE": "trailers",
            "Accept-Encoding": "gzip",
        }
        passed = {"traceparent": "00-1-2-01", "anthropic-version": "2023-06-01"}
        answer = await (await self.send({**secrets, **passed})).closed
        self.assertEqual(answer.status, 200)
        (call,) = fake.work
        names = [name for name, _ in call.request.headers]
        ours = {"host", "connection", "content-type", "content-length", "accept-encoding"}
        self.assertLessEqual(set(names), {*ours, "x-request-id", *passed}, names)
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(call.request.header("accept-encoding"), "identity")
        self.assertNotIn("mine", repr(call.request.headers))


class ConnectionTests(RowCase):
    """C19, C28: many requests on one connection."""

    def pipelined(self, *ids: str, stream: bool = False) -> bytes:
        body = json.dumps(self.body(stream=stream))
        length = f"Content-Length: {len(body)}\r\n\r\n{body}"
        return "".join(
            f"POST {CHAT} HTTP/1.1\r\n{JSON}X-Request-Id: {id}\r\n{length}" for id in ids
        ).encode()

    def answered(self, client: raw.RawClient) -> list[str]:
        """The ids of the answers that have begun, in their order."""
        return re.findall(r"x-request-id: (\S+)", client.data.decode(), re.IGNORECASE)

    async def test_C19_in_order_and_one_at_a_time(self) -> None:
        """Requests sent at once are asked of the backend one after another, and answered so."""
        fake = self.fake(slots=4, speed=Speed(decode=200))
        await self.mesh(role(fake))
        client = await self.connect()
        ids = [f"r{n}" for n in range(5)]
        client.transport.write(self.pipelined(*ids))
        await self.until("all are answered", lambda: client.data.count(b"HTTP/1.1 200 ") == 5)
        self.assertEqual(self.answered(client), ids)
        self.assertEqual((len(fake.work), fake.most_open), (5, max(1, fake.most_open)))
        overlaps = [
            b.at < (a.ended_at or 0) for a, b in zip(fake.work, fake.work[1:], strict=False)
        ]
        self.assertNotIn(True, overlaps)
        client.leave()

    async def test_C19_the_hundredth_is_the_last(self) -> None:
        """A connection ends with its hundredth answer, and says so in it."""
        await self.mesh(role(self.fake()))
        client = await self.connect()
        for n in range(100):
            client.get("/health", close=False)
            await self.until(
                "it is answered", lambda n=n: client.data.count(b"HTTP/1.1 200") == n + 1
            )
        answer = await client.closed
        self.assertEqual(answer.data.lower().count(b"connection: close"), 1)

    async def test_C28_behind_a_stream(self) -> None:
        """A request on a connection whose stream still runs waits for its end, and is answered."""
        fake = self.fake(slots=4, speed=Speed(decode=1))
        await self.mesh(role(fake))
        client = await self.connect()
        client.transport.write(self.pipelined("one", stream=True))
        await client.seen(b"data:")
        client.transport.write(self.pipelined("two"))
        await sleep(0.05)
        self.assertEqual(len(fake.work), 1)
        fake.slots.speed = Speed()
        await self.until("both are answered", lambda: client.data.count(b"HTTP/1.1 200 ") == 2)
        self.assertEqual(self.answered(client), ["one", "two"])
        self.assertLess(client.data.index(b"[DONE]"), client.data.index(b"HTTP/1.1 200 ", 1))
        client.leave()


class NameTests(RowCase):
    """C22 to C24: paths, methods and names that are not there."""

    async def test_C22_paths_methods_and_types(self) -> None:
        """404, 405 with `Allow`, 415: in JSON, by the whole gateway."""
        fake = self.fake()
        await self.mesh(role(fake))
        self.assert_refused(await raw.get(reactor, self.port, "/nothing"), 404, "unknown_url")
        answer = await raw.get(reactor, self.port, CHAT)
        self.assert_refused(answer, 405, "method_not_allowed", retry=False)
        self.assertEqual(answer.headers["allow"], "POST")
        for given in ("text/plain", "application/xml", "multipart/form-data"):
            answer = await (await self.send({"Content-Type": given})).closed
            self.assert_refused(answer, 415, "unsupported_media_type", retry=False)
        self.assertEqual(fake.work, [])

    async def test_C22_types_that_are_json(self) -> None:
        """JSON passes with its parameters, in any case, and under the name that curl gives it."""
        await self.mesh(role(self.fake()))
        kinds = ("application/json; charset=utf-8", "Application/JSON", "application/x+json")
        for given in (*kinds, "application/x-www-form-urlencoded"):
            answer = await (await self.send({"Content-Type": given})).closed
            self.assertEqual(answer.status, 200, given)

    async def test_C23_a_forbidden_role_is_no_role(self) -> None:
        """For a key that may not use it, a role looks as one that does not exist."""
        headers, path = self.key(roles=("coder",))
        await self.mesh(role(self.fake()), role(self.fake(), name="planner"), keys=path)
        answers = []
        for name in ("planner", "plannex"):
            answer = await (await self.send({**headers, "X-Request-Id": "x"}, model=name)).closed
            self.assert_refused(answer, 404, "model_not_found", retry=False)
            answers.append(answer)
        forbidden, unknown = (each.body.replace(b"planne", b"-") for each in answers)
        self.assertEqual(forbidden.replace(b"-r", b"-x"), unknown)
        self.assertEqual(*(sorted(each.headers) for each in answers))

    async def test_C24_odd_names(self) -> None:
        """Names that are none are 404 whatever they are made of, in a body and in a path."""
        fake = self.fake()
        await self.mesh(role(fake))
        odd = ("é", "e\u0301", "\u202ecoder", "../coder", "%2e%2e/coder", " coder", "x" * 4_000_000)
        for name in odd:
            answer = await self.ask(model=name)
            self.assert_refused(answer, 404, "model_not_found", retry=False)
            self.assertLess(len(answer.data), 2000)
            self.assertNotIn("\u202e".encode(), answer.data)
        for path in ("..%2fcoder", "%2e%2e", "%E2%80%AEcoder", "coder%0d%0aX-Evil:%201"):
            answer = await raw.get(reactor, self.port, f"/v1/models/{path}")
            self.assertEqual(answer.status, 404, path)
            self.assertNotIn("x-evil", answer.headers)
        answer = await self.ask(model="")
        self.assert_refused(answer, 400, "missing_required_parameter", retry=False)
        self.assertEqual(fake.work, [])


class KeyTests(RowCase):
    """C25 to C27: who may ask, how often, and from which page."""

    async def test_C25_wrong_keys_are_one_and_the_same_401(self) -> None:
        """None, malformed, unknown, wrong, of another kind: one answer, and no word of the key."""
        good, path = self.key()
        fake = self.fake()
        await self.mesh(role(fake), keys=path)
        text = good["Authorization"]
        wrong = (
            "",
            "Bearer",
            "Bearer rmk_x",
            text[:-1] + "A",
            text.replace("rmk", "rmn"),
            "Basic YQ==",
        )
        bodies = set()
        for value in wrong:
            answer = await (await self.send({"Authorization": value})).closed
            self.assert_refused(answer, 401, "invalid_api_key", retry=False)
            self.assertEqual(answer.headers["www-authenticate"], "Bearer")
            bodies.add(answer.body)
        self.assertEqual(len(bodies), 1)
        self.assertEqual(fake.work, [])
        self.assertNotIn(text[12:-1], repr(self.logged))

    async def test_C25_two_keys_are_400(self) -> None:
        """Two Authorization headers that differ are told so; a good key beside one is no way in."""
        good, path = self.key()
        fake = self.fake()
        await self.mesh(role(fake), keys=path)
        text = good["Authorization"]
        body = json.dumps(self.body())
        head = f"POST {CHAT} HTTP/1.1\r\n{JSON}Connection: close\r\nContent-Length: {len(body)}\r\n"
        two = f"Authorization: {text}\r\nAuthorization: Bearer other\r\n"
        self.assert_refused(await self.say(f"{head}{two}\r\n{body}".encode()), 400, "bad_request")
        self.assertEqual(fake.work, [])
        one = f"Authorization: {text}\r\n"
        self.assert_served(await self.say(f"{head}{one}\r\n{body}".encode()), "coder")

    async def test_C26_many_failures_are_429_with_hints(self) -> None:
        """Who guesses is told to wait in headers that clients obey; a good key still passes."""
        good, path = self.key()
        await self.mesh(role(self.fake()), keys=path)
        answers = await gatherResults([self.ask() for _ in range(50)])
        limited = [each for each in answers if each.status == 429]
        self.assertEqual({each.status for each in answers}, {401, 429})
        self.assert_refused(limited[0], 429, "rate_limit_exceeded", retry=True)
        self.assertGreaterEqual(int(limited[0].headers["retry-after"]), 1)
        self.assertGreaterEqual(int(limited[0].headers["retry-after-ms"]), 1)
        self.assert_served(await (await self.send(good)).closed, "coder")

    async def test_C26_a_full_queue_is_429_with_hints(self) -> None:
        """What exceeds a role's queue is told at once, with numbers, and how long to wait."""
        fake = self.fake(slots=1, speed=SLOW, length=1000)
        await self.mesh(role(fake, queue=QueueLimits(max=1)))
        first = await self.send(stream=True, max_tokens=1000)
        await first.seen(b"data:")
        second = await self.send({"X-Request-Id": "second"})
        await self.until("it waits", partial(self.waits, "second"))
        answer = await self.ask()
        self.assert_refused(answer, 429, "role_saturated", retry=True)
        self.assertLessEqual(1, int(answer.headers["retry-after"]))
        self.assertIn("1 waiting for 1 slots", answer.json["error"]["message"])
        for client in (first, second):
            client.leave()

    async def test_C27_no_page_of_another_origin(self) -> None:
        """No answer allows a browser's page to read it, and no preflight succeeds."""
        fake = self.fake()
        await self.mesh(role(fake))
        origin = {"Origin": "http://evil.example"}
        asks = {"Access-Control-Request-Method": "POST", **origin}
        lines = "".join(f"{name}: {value}\r\n" for name, value in asks.items())
        ours = "Host: localhost\r\nConnection: close\r\n"
        preflight = f"OPTIONS {CHAT} HTTP/1.1\r\n{ours}{lines}\r\n"
        answers = [await self.say(preflight.encode()), await (await self.send(origin)).closed]
        answers.append(await raw.get(reactor, self.port, "/v1/models", origin))
        for answer in answers:
            self.assertFalse([name for name in answer.headers if name.startswith("access-control")])
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
        self.assertEqual(answers[0].status, 405)

    async def test_C27_what_a_page_may_send_unasked_is_refused(self) -> None:
        """The types that a browser sends to anyone without a preflight cost no GPU anything."""
        fake = self.fake()
        await self.mesh(role(fake))
        for given in ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded"):
            answer = await (await self.send({"Content-Type": given, "Origin": "null"})).closed
            self.assert_refused(answer, 415, "unsupported_media_type", retry=False)
        self.assertEqual(fake.work, [])
