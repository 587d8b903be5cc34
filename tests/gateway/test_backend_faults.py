"""What backends can do wrong, and what a client sees of it: the rows B1 to B31, on real sockets."""

import re
import socket
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.tcp import Client

from rolemesh.gateway import progress
from rolemesh.gateway.health import Checks
from tests.doubles import raw
from tests.doubles.behaviours import DRESSES, LOGIN, WHOLE
from tests.doubles.blackhole import BlackHole
from tests.doubles.fakellama import Fakellama
from tests.doubles.mesh import CHAT, HELLO, MeshCase, Stalls, sleep
from tests.doubles.model import says
from tests.doubles.slots import Speed
from tests.doubles.toxic import Cut, Toxic, Toxin

SLOW = Speed(decode=100)
BOTH = ({"stream": True}, {"stream": False})


def _connections_to(fake: Fakellama) -> list[Any]:
    """This process's own ends of connections to a double."""
    ends = [each for each in reactor.getReaders() if isinstance(each, Client)]
    return [each for each in ends if each.getPeer().port == fake.port]


class BeforeTheFirstByte(MeshCase):
    """While a client has been given nothing, another backend answers and nobody notices."""

    async def pair(self, behaviour: str, **limits: float) -> tuple[Fakellama, Fakellama]:
        """A gateway over one backend that behaves like that and a good one, asked in this order."""
        bad, good = self.fake(), self.fake()
        await self.gateway(bad, good, **limits)
        bad.behave(behaviour)
        return bad, good

    async def assert_failover(self, behaviour: str, outcome: str, **limits: float) -> None:
        """In both modes the good backend answers after one try at the bad one."""
        bad, good = await self.pair(behaviour, **limits)
        for mode in BOTH:
            answer = await self.ask(**mode)
            self.assert_served(answer)
            self.assertEqual(await self.outcomes(answer), [outcome, "served"])
        self.assertEqual((len(bad.work), len(good.work)), (2, 2))

    async def alone(self, behaviour: str, **limits: float) -> raw.Answer:
        """What the client of a gateway with one such backend gets."""
        bad = self.fake()
        await self.gateway(bad, **limits)
        bad.behave(behaviour)
        return await self.ask(stream=True)

    async def test_B1_refused_connection_is_invisible(self) -> None:
        """A backend whose port is closed costs the client nothing."""
        bad, good = await self.pair("normal")
        await bad.refuse()
        answer = await self.ask(stream=True)
        self.assert_served(answer)
        self.assertEqual(await self.outcomes(answer), ["refused", "served"])
        self.assertEqual(len(good.work), 1)

    async def test_B1_all_refused_is_role_unavailable(self) -> None:
        """When every backend refuses, the answer is 503 with hints to send again."""
        bad, other = await self.pair("normal")
        await bad.refuse()
        await other.refuse()
        answer = await self.ask()
        self.assert_refused(answer, 503, "role_unavailable", retry=True)
        self.assertLessEqual(int(answer.headers["retry-after"]), 60)

    async def test_B2_black_hole_is_cut_at_the_connect_timeout(self) -> None:
        """A host that does not answer a connect is left after the connect timeout."""
        bad, _ = await self.pair("normal", connect=1.0)
        await bad.stop()
        hole = BlackHole(bad.port)
        self.addCleanup(hole.close)
        answer = await self.ask(stream=True)
        self.assert_served(answer)
        self.assertEqual(await self.outcomes(answer), ["connect_timeout", "served"])

    async def test_B3_silence_is_a_timeout(self) -> None:
        """The only backend accepts and never answers: 504, and its connection is closed."""
        bad = self.fake("hang")
        await self.gateway(bad, first_byte=0.3)
        answer = await self.ask(stream=True)
        self.assert_refused(answer, 504, "upstream_timeout", retry=False)
        await self.until("upstream is closed", lambda: bad.work[0].outcome == "left")

    async def test_B3_silence_is_moved_once_at_most(self) -> None:
        """Of three silent backends two are asked, so that timeouts do not multiply the work."""
        silent = [self.fake("hang") for _ in range(3)]
        await self.gateway(*silent, first_byte=0.3)
        self.assert_refused(await self.ask(), 504, "upstream_timeout", retry=False)
        self.assertLessEqual(sum(len(each.work) for each in silent), 2)

    async def test_B3_a_wedged_backend_s_request_is_moved_once(self) -> None:
        """When a busy slot makes no progress, a request without a first event moves to another."""
        self.hasten()
        bad, good = self.fake("silent-after:0"), self.fake()
        await self.gateway(bad, good)
        for mode in BOTH:
            self.assert_served(await self.ask(**mode))
        await self.until("upstream is closed", lambda: not bad.running)
        self.assertEqual((len(bad.work), len(good.work)), (1, 2))

    async def test_B3_a_prompt_that_is_being_read_is_no_silence(self) -> None:
        """As long as /slots shows progress, `first_byte` does not run out."""
        self.hasten()
        slow = self.fake(context=8000, speed=Speed(prompt=800))
        await self.gateway(slow, first_byte=3.0)
        began = reactor.seconds()
        answer = await self.ask(messages=[{"role": "user", "content": "x " * 3000}])
        self.assertEqual(answer.status, 200, answer.data)
        self.assertGreater(reactor.seconds() - began, 3.0)

    def hasten(self) -> None:
        """Judge progress in tenths of seconds instead of minutes."""
        for name, seconds in (("LOOK_EVERY", 0.05), ("SILENCE", 0.1), ("STUCK_AFTER", 0.8)):
            self.patch(progress, name, seconds)

    async def test_B4_death_before_any_byte_moves_on(self) -> None:
        """EOF or a reset before a byte: the next backend answers."""
        for behaviour in ("eof", "rst"):
            await self.assert_failover(behaviour, "died")

    async def test_B4_two_deaths_are_enough(self) -> None:
        """A request that takes down two backends is not sent to a third."""
        backends = [self.fake() for _ in range(3)]
        await self.gateway(*backends)
        for each in backends:
            each.behave("rst")
        answer = await self.ask(stream=True)
        self.assert_refused(answer, 502, "upstream_disconnected", retry=False)
        self.assertEqual([len(each.work) for each in backends], [1, 1, 0])

    async def test_B5_no_connection_is_used_again(self) -> None:
        """A backend that drops reused connections is no failure, since none is reused."""
        fake = self.fake("fails-reused!")
        await self.gateway(fake)
        for mode in (*BOTH, *BOTH, *BOTH):
            self.assert_served(await self.ask(**mode), by="coder")
        self.assertEqual(len({call.connection for call in fake.work}), len(fake.work))

    async def test_B7_a_body_that_breaks_off_is_asked_for_again(self) -> None:
        """Half a whole answer reaches nobody: another backend gives it."""
        for behaviour in ("half-body", "half-body-rst"):
            bad, _ = await self.pair(behaviour)
            self.assert_served(await self.ask())
            self.assertEqual(len(bad.work), 1)

    async def test_B7_a_stream_that_breaks_off_before_it_is_assembled(self) -> None:
        """A client that waits for a whole answer is served when the stream behind it breaks off."""
        await self.pair("die-fin:3")
        self.assert_served(await self.ask())

    async def test_B7_twice_is_an_error_and_not_half_an_answer(self) -> None:
        """When two backends break off, the client gets 502."""
        bad, other = await self.pair("half-body")
        other.behave("half-body")
        answer = await self.ask()
        self.assert_refused(answer, 502, "upstream_disconnected", retry=False)
        self.assertEqual((len(bad.work), len(other.work)), (1, 1))

    async def test_B9_what_is_no_http_moves_on(self) -> None:
        """Garbage, an SSH banner and HTTP/0.9 are no answers."""
        for behaviour in ("garbage", "ssh-banner", "http-09"):
            await self.assert_failover(behaviour, "garbled")
        self.assertFalse([line for line in self.logged if "OpenSSH" in line])

    async def test_B10_a_head_without_end_is_cut(self) -> None:
        """A 20 kB line, 200 000 headers, 20 000 interim answers: bounded, and another answers."""
        for behaviour in ("long-header-line", "many-headers", "many-1xx"):
            bad, _ = await self.pair(behaviour)
            self.assert_served(await self.ask())
            self.assertEqual(len(bad.work), 1, behaviour)

    async def test_B11_impossible_statuses_move_on(self) -> None:
        """99999 and 600 are no statuses."""
        for status in ("99999", "600"):
            await self.assert_failover(f"status:{status}", "garbled")

    async def test_B11_no_reason_phrase_is_fine(self) -> None:
        """A status line without words is an answer."""
        bad, good = await self.pair("no-reason")
        answer = await self.ask()
        self.assertEqual((answer.status, answer.body), (200, WHOLE))
        self.assertEqual((len(bad.work), len(good.work)), (1, 0))

    async def test_B12_two_lengths_move_on(self) -> None:
        """An answer with two lengths may be a desync: not trusted."""
        bad, _ = await self.pair("two-cl")
        self.assert_served(await self.ask())
        self.assertEqual(len(bad.work), 1)

    async def test_B12_surplus_bytes_are_dropped_with_their_connection(self) -> None:
        """What follows the promised length reaches no client, of this request or the next."""
        bad, _ = await self.pair("surplus-body")
        for _ in range(2):
            answer = await self.ask()
            self.assertEqual((answer.status, answer.body), (200, WHOLE))
        self.assertNotEqual(bad.work[0].connection, bad.work[1].connection)

    async def test_B13_bad_chunks_before_an_event_move_on(self) -> None:
        """Chunking that breaks before the first event costs the client nothing."""
        for behaviour in ("bad-chunk:0", "truncated-chunk:0"):
            bad, _ = await self.pair(behaviour)
            self.assert_served(await self.ask(stream=True))
            self.assertEqual(len(bad.work), 1)

    async def test_B14_a_body_that_drips_ends_at_the_total_limit(self) -> None:
        """A whole answer at a byte now and then is given up when the role's time is over."""
        answer = await self.alone_whole("drip-body", total=0.5)
        self.assert_refused(answer, 504, "upstream_timeout")

    async def alone_whole(self, behaviour: str, **limits: float) -> raw.Answer:
        bad = self.fake()
        await self.gateway(bad, **limits)
        bad.behave(behaviour)
        return await self.ask()

    async def test_B16_loading_moves_on(self) -> None:
        """A backend that loads its model is passed over."""
        await self.pair("loading!")
        answer = await self.ask(stream=True)
        self.assert_served(answer)
        self.assertEqual(await self.outcomes(answer), ["loading", "served"])

    async def test_B16_all_loading_says_so(self) -> None:
        """When all are loading: 503 model_loading, and when to come back."""
        for answer in (await self.alone("loading!"), await self.ask()):
            self.assert_refused(answer, 503, "model_loading", retry=True)
            self.assertEqual(answer.headers["retry-after"], "5")

    async def test_B16_loading_is_no_reason_for_ejection(self) -> None:
        """A backend that was loading takes requests as soon as a check is answered."""
        bad, _ = await self.pair("loading!")
        await self.ask()
        await self.until_ready(1)
        bad.behave("normal")
        await self.until_ready(2)
        self.assert_served(await self.ask(), by="coder-1")

    async def test_B17_busy_moves_on(self) -> None:
        """A backend without a free slot is passed over."""
        for behaviour in ("busy-429", "busy-503"):
            await self.pair(behaviour)
            answer = await self.ask()
            self.assert_served(answer, by="coder-2")
            self.assertEqual(await self.outcomes(answer), ["busy", "served"])

    async def test_B17_busy_is_no_reason_for_ejection(self) -> None:
        """However often it is busy, a backend stays in the role."""
        await self.pair("busy-429")
        for _ in range(6):
            self.assert_served(await self.ask())
        self.assertEqual(await self.ready_count(), 2)

    async def test_B18_a_cuda_error_moves_on_once(self) -> None:
        """A backend that fails at a request is passed over."""
        await self.assert_failover("cuda-error", "fault")

    async def test_B18_twice_is_upstream_error_without_their_words(self) -> None:
        """When two fail, the client is told so in our words."""
        bad, other = await self.pair("cuda-error")
        other.behave("cuda-error")
        answer = await self.ask(stream=True)
        self.assert_refused(answer, 502, "upstream_error", retry=False)
        self.assertNotIn(b"CUDA", answer.data)
        self.assertEqual((len(bad.work), len(other.work)), (1, 1))

    async def test_B19_a_bad_request_is_passed_on_and_never_retried(self) -> None:
        """400 and 422 are the client's own, with the backend's words."""
        for behaviour, status, words in (
            ("bad-request", 400, "Expected 'messages' to be an array"),
            ("unprocessable", 422, "grammar is too deep"),
        ):
            _, good = await self.pair(behaviour)
            answer = await self.ask(stream=True)
            self.assertEqual((answer.status, answer.json["error"]["message"]), (status, words))
            self.assertEqual(answer.headers["x-should-retry"], "false")
            self.assertEqual(good.work, [])

    async def test_B19_no_path_of_a_model_file(self) -> None:
        """A path in a backend's words is taken out."""
        answer = await self.alone("bad-request-path")
        self.assertEqual(answer.status, 400)
        self.assertNotIn(b"secret-model", answer.data)
        self.assertNotIn(b"/srv", answer.data)

    async def test_B19_too_long_has_both_numbers(self) -> None:
        """A prompt over the context: our code, with n_ctx and n_prompt_tokens."""
        error = (await self.alone("too-long")).json["error"]
        self.assertEqual(error["code"], "context_length_exceeded")
        self.assertEqual((error["n_ctx"], error["n_prompt_tokens"]), (2048, 3019))

    async def test_B20_a_backend_that_locks_us_out_moves_on(self) -> None:
        """401 and 403 of a backend are our trouble, not the client's."""
        for behaviour in ("unauthorized", "forbidden"):
            await self.assert_failover(behaviour, "locked_out")

    async def test_B20_alone_it_is_upstream_error_without_a_key(self) -> None:
        """With nobody else: 502, and nothing of what the backend said."""
        answer = await self.alone("forbidden")
        self.assert_refused(answer, 502, "upstream_error")
        self.assertNotIn(b"sk-backend-key", answer.data)
        self.assertFalse([line for line in self.logged if "sk-backend-key" in line])

    async def test_B21_redirects_are_not_followed(self) -> None:
        """A redirect is no answer, and its target never hears of the request."""
        target = self.fake()
        await self.assert_failover(f"redirect:{target.url}{CHAT}", "garbled")
        self.assertEqual(target.calls, [])

    async def test_B22_a_bomb_moves_on(self) -> None:
        """20 MiB in 20 kB are not held and not passed on."""
        bad, _ = await self.pair("gzip-bomb")
        self.assert_served(await self.ask())
        self.assertEqual(len(bad.work), 1)

    async def test_B25_no_json_before_the_first_event_moves_on(self) -> None:
        """A stream that does not begin with an event of JSON is no answer."""
        await self.assert_stream_failover("non-json:0")

    async def assert_stream_failover(self, behaviour: str) -> None:
        bad, _ = await self.pair(behaviour)
        self.assert_served(await self.ask(stream=True))
        self.assertEqual(len(bad.work), 1)

    async def test_B24_an_endless_line_before_the_first_event_moves_on(self) -> None:
        """A stream that begins with two megabytes of one line is given up."""
        await self.assert_stream_failover("giant-line:0")

    async def test_B27_an_error_as_first_event_is_that_error(self) -> None:
        """200 with an error in the first event counts as the error: another backend is asked."""
        await self.assert_stream_failover("error-event:0")
        self.assert_refused(await self.alone("error-event:0"), 502, "upstream_error")

    async def test_B27_an_error_of_the_client_keeps_its_status(self) -> None:
        """A 400 in the first event is passed on as a 400."""
        answer = await self.alone("error-event-400:0")
        self.assertEqual(answer.status, 400)
        self.assertEqual(answer.json["error"]["code"], "context_length_exceeded")

    async def test_B28_html_moves_on(self) -> None:
        """A login page is no answer, streamed or whole."""
        for behaviour in ("html", "html-stream"):
            bad, _ = await self.pair(behaviour)
            for mode in BOTH:
                self.assert_served(await self.ask(**mode))
            self.assertEqual(len(bad.work), 2)

    async def test_B28_json_where_a_stream_was_to_be_assembled_is_taken(self) -> None:
        """A backend that does not stream when asked to has answered all the same."""
        bad, good = await self.pair("unstreamed")
        answer = await self.ask()
        self.assert_served(answer, by="coder-1")
        self.assertEqual((len(bad.work), good.work), (1, []))

    async def test_B28_json_to_who_waits_for_events_is_no_answer(self) -> None:
        """An SDK would take it for an empty stream that ended well."""
        await self.assert_stream_failover("unstreamed")
        answer = await self.alone("unstreamed")
        self.assert_refused(answer, 502, "upstream_error")

    async def test_B28_html_reaches_no_client(self) -> None:
        """With nobody else: 502, without the page."""
        for behaviour in ("html", "html-stream"):
            answer = await self.alone(behaviour)
            self.assert_refused(answer, 502, "upstream_error")
            self.assertNotIn(LOGIN, answer.data)

    async def test_B3_requests_of_a_backend_that_checks_find_dead_are_moved_once(self) -> None:
        """When its checks fail, a request without a first byte moves to another backend."""
        for name, seconds in (("interval", 0.1), ("fast", 0.1), ("timeout", 0.2)):
            self.patch(Checks, name, seconds)
        bad, good = self.fake(), self.fake()
        await self.gateway(bad, good)
        bad.behave("hang!")
        answer = await self.ask(stream=True)
        self.assert_served(answer)
        self.assertEqual(await self.outcomes(answer), ["wedged", "served"])
        self.assertEqual((len(bad.work), len(good.work)), (1, 1))

    async def test_B4_the_same_request_is_then_poison(self) -> None:
        """What killed two backends is refused when it is sent again; another request is not."""
        backends = [self.fake() for _ in range(3)]
        await self.gateway(*backends)
        for each in backends:
            each.behave("1*rst")
        await self.ask()
        self.assert_refused(await self.ask(), 422, "poison_request", retry=False)
        other = await self.ask(messages=[{"role": "user", "content": "something else"}])
        self.assertEqual(other.status, 200)

    async def test_B10_alone_it_is_upstream_error(self) -> None:
        """With nobody else to ask, a head out of bounds is 502."""
        for behaviour in ("many-headers", "many-1xx"):
            self.assert_refused(await self.alone(behaviour), 502, "upstream_error")

    async def test_B11_a_status_below_100_moves_on(self) -> None:
        """099 is no status."""
        await self.assert_failover("status:099", "garbled")

    async def test_B12_a_length_beside_chunks_moves_on(self) -> None:
        """An answer with both framings may be a desync: not trusted."""
        bad, _ = await self.pair("cl-and-te")
        self.assert_served(await self.ask())
        self.assertEqual(len(bad.work), 1)

    async def test_B17_all_busy_waits_for_a_slot(self) -> None:
        """When the only backend is busy, the request waits and is answered."""
        answer = await self.alone("2*busy-503")
        self.assert_served(answer, by="coder")

    async def test_B22_compressed_answers_move_on(self) -> None:
        """gzip, which was not asked for, is neither inflated nor passed on."""
        bad, _ = await self.pair("gzip")
        self.assert_served(await self.ask())
        self.assertEqual(bad.work[0].request.header("accept-encoding"), "identity")


class AfterTheFirstByte(MeshCase):
    """Once a client was given a part, nobody is asked again, and nothing broken looks whole."""

    async def stream(self, behaviour: str, **limits: float) -> raw.Answer:
        """A stream of a gateway with such a backend and a good one, which must not be asked."""
        bad, self.good = self.fake(), self.fake()
        await self.gateway(bad, self.good, **limits)
        bad.behave(behaviour)
        self.bad = bad
        return await self.ask(stream=True)

    async def test_B6_dies_mid_stream_is_an_error_event_and_an_unfinished_body(self) -> None:
        """However it dies after 3 events: those, the error event, no [DONE], no second backend."""
        for behaviour in ("die-fin:3", "die-rst:3", "die-clean:3"):
            answer = await self.stream(behaviour)
            self.assert_broken_off(answer, "upstream_disconnected", after=3)
            self.assertEqual(self.good.work, [])

    async def test_B8_a_missing_done_is_added(self) -> None:
        """All was said but [DONE]: the gateway says it, and the end is a good one."""
        self.assert_served(await self.stream("no-done"), by="coder-1")

    async def test_B13_bad_chunks_after_an_event_break_off(self) -> None:
        """Chunking that breaks later is the same as a death."""
        for behaviour in ("bad-chunk:2", "truncated-chunk:2"):
            answer = await self.stream(behaviour)
            self.assert_broken_off(answer, "upstream_disconnected", after=2)

    async def test_B15_silence_in_a_stream_ends_at_idle(self) -> None:
        """Behind a cut cable nothing comes, no end either: the stream ends as a broken one."""
        fake = self.fake()
        cable = Toxic(reactor, fake.port)
        self.addCleanup(cable.stop)
        await self.gateway(f"http://127.0.0.1:{cable.port}", idle=0.3)
        cable.toxin = Toxin(after=1600, cut=Cut.SILENCE)
        self.assert_broken_off(await self.ask(stream=True), "upstream_disconnected")
        await self.until("upstream is closed", lambda: not cable.pairs)

    async def test_B23_an_endless_stream_ends_at_the_total_limit(self) -> None:
        """A stream without end is broken off when the role's time is over."""
        answer = await self.stream("endless", total=1.0)
        self.assert_broken_off(answer, "upstream_disconnected")
        await self.until("upstream is closed", lambda: self.bad.work[0].outcome == "left")

    async def test_B24_a_line_without_end_is_broken_off(self) -> None:
        """Two megabytes of one line are not kept, and the stream ends as a broken one."""
        answer = await self.stream("giant-line:2", idle=5.0)
        self.assert_broken_off(answer, "upstream_error")

    async def test_B25_any_dress_of_a_stream_passes_byte_for_byte(self) -> None:
        """Line ends, comments, names, a byte order mark, any split: the client gets those bytes."""
        for behaviour in (*DRESSES, "bom"):
            if behaviour == "accents":
                continue
            answer = await self.stream(behaviour)
            self.assertTrue(answer.finished, behaviour)
            direct = await raw.post(reactor, self.bad.port, CHAT, self.body(stream=True))
            self.assertEqual(_shape(answer.body), _shape(direct.body), behaviour)
            self.assertEqual(self.good.work, [])

    async def test_B26_characters_split_over_chunks_are_whole(self) -> None:
        """A character that came in two chunks is the same character."""
        answer = await self.stream("accents")
        self.assertEqual(answer.text.count("é"), 5)
        self.assertTrue(answer.finished)

    async def test_B26_invalid_utf8_passes_as_it_came(self) -> None:
        """Bytes are the backend's: what is no UTF-8 is neither repaired nor refused."""
        answer = await self.stream("invalid-utf8:2")
        self.assertIn(b"\xff\xfe\xc3(", answer.body)
        self.assertTrue(answer.finished)

    async def test_B30_no_answer_reaches_another_request(self) -> None:
        """While others leave in all phases, each client gets the answer to its own question."""
        fake = self.fake(slots=8, speed=SLOW)
        await self.gateway(fake)
        questions = [[{"role": "user", "content": f"nonce {n}"}] for n in range(24)]
        leaving = [await self.begin(stream=n % 2 == 0, messages=HELLO) for n in range(12)]
        waiting = gatherResults([self.ask(stream=True, messages=each) for each in questions])
        for client in leaving:
            await sleep(0.01)
            client.leave()
        for question, answer in zip(questions, await waiting, strict=True):
            self.assertEqual(answer.text, says(question, 5))

    async def test_B30_a_late_answer_is_dropped_with_its_connection(self) -> None:
        """When the client leaves, its backend's connection is closed and no other is asked."""
        fake, other = self.fake("hang"), self.fake()
        await self.gateway(fake, other)
        for mode in BOTH:
            client = await self.begin(**mode)
            await self.until("it is asked", lambda: bool(fake.running))
            with Stalls() as stalls:
                left = reactor.seconds()
                client.leave()
                await self.until("upstream is closed", lambda: not fake.running)
            self.assertLess(reactor.seconds() - left - stalls.seconds, 0.25)
        await sleep(0.1)
        self.assertEqual(other.work, [])

    async def test_B8_a_missing_done_is_added_also_without_a_last_chunk(self) -> None:
        """The reason for the end was told; that the connection just closed then loses nothing."""
        self.assert_served(await self.stream("no-done-fin"), by="coder-1")

    async def test_B14_a_stream_that_drips_is_idle(self) -> None:
        """Bytes that complete no event are no progress: idle ends it."""
        answer = await self.stream("drip:2", idle=0.5, total=20.0)
        self.assert_broken_off(answer, "upstream_disconnected", after=2)
        self.assertLess((self.bad.work[0].ended_at or 0) - self.bad.work[0].at, 10.0)

    async def test_B14_a_stream_of_comments_is_idle(self) -> None:
        """Neither are the comments by which a server shows that its process lives."""
        answer = await self.stream("pings:2", idle=0.5, total=20.0)
        self.assert_broken_off(answer, "upstream_disconnected", after=2)
        self.assertLess((self.bad.work[0].ended_at or 0) - self.bad.work[0].at, 10.0)

    async def test_B15_upstream_sockets_notice_a_dead_peer(self) -> None:
        """Connections to backends have keep-alive probes: a lost host is noticed in half a minute,
        and in twenty seconds where something was sent to it."""
        fake = self.fake("silent-after:1")
        await self.gateway(fake)
        client = await self.begin(stream=True)
        await client.seen(b"data: ")
        for connection in _connections_to(fake):
            self.assertTrue(connection.getTcpKeepAlive())
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            tcp = partial(connection.socket.getsockopt, socket.IPPROTO_TCP)
            self.assertEqual([tcp(each) for each in options], [15, 5, 3])
            self.assertEqual(tcp(socket.TCP_USER_TIMEOUT), 20_000)
        client.leave()

    async def test_B25_no_json_later_breaks_off(self) -> None:
        """An event that is no JSON in the middle of a stream ends it as a broken one."""
        answer = await self.stream("non-json:2")
        self.assert_broken_off(answer, "upstream_error")

    async def test_B29_another_model_is_counted_and_passed_as_it_is(self) -> None:
        """An answer under another name is not rewritten, but counted."""
        bad = self.fake("wrong-model")
        life = await self.gateway(bad)
        answer = await self.ask(stream=True)
        self.assert_served(answer, by="coder")
        self.assertEqual(answer.events[0]["model"], "another-model.gguf")
        catalogue = life._clients.catalogue
        entries = catalogue._registry.members(catalogue.roles.find("coder").role)
        self.assertEqual([entry.mismatches for _, entry in entries], [1])


class Names(MeshCase):
    """Backends that are given by a name."""

    async def test_B31_a_name_that_stops_resolving_moves_on_and_streams_stay(self) -> None:
        """A running stream does not care for its name; a new request goes to another backend."""
        bad, good = self.fake(speed=SLOW, length=60), self.fake()
        url = f"http://localhost:{bad.port}"
        await self.gateway(url, good)
        running = self.ask(stream=True, max_tokens=60)
        await self.until("it is asked", lambda: bool(bad.running))
        self._stop_resolving()
        self.assert_served(await self.ask(stream=True))
        self.assertEqual((await running).text, says(HELLO, 60))

    def _stop_resolving(self) -> None:
        names: Any = reactor
        names.installNameResolver(_NoNames(before := names.nameResolver))
        self.addCleanup(names.installNameResolver, before)

    async def test_B31_a_name_that_stops_resolving_is_no_death(self) -> None:
        """What was never sent can have killed nobody: the try counts as refused."""
        bad, good = self.fake(), self.fake()
        await self.gateway(f"http://localhost:{bad.port}", good)
        self._stop_resolving()
        self.assertEqual(await self.outcomes(await self.ask()), ["refused", "served"])


class _NoNames:
    """A resolver that finds no names; addresses are what they are."""

    def __init__(self, numbers: Any) -> None:
        self._numbers = numbers

    def resolveHostName(self, receiver: Any, name: str, *more: Any, **options: Any) -> Any:
        if name[:1].isdigit():
            return self._numbers.resolveHostName(receiver, name, *more, **options)
        receiver.resolutionBegan(None)
        receiver.resolutionComplete()
        return None


def _shape(body: bytes) -> bytes:
    """A stream's bytes without what differs from request to request."""
    return re.sub(rb'"id":"[^"]*"|"timings":\{[^}]*\}', b"", body)
