"""Which gateways a node tells: those of its file, and those of which these tell."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.gateways import FORGOTTEN, MOST
from rolemesh.core.report import Accepted, Registration
from rolemesh.node.book import Book
from rolemesh.node.calls import Answer
from rolemesh.node.link import Link
from rolemesh.node.reporter import HOLD, Contact, Reporter
from tests.node.test_link import FakeGateway

A, B, C = "http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8000"


class AtOnce:
    """Does on the spot what is to be done aside."""

    def do(self, job: Callable[..., Any], *arguments: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        done.callback(job(*arguments))
        return done


class Teller(FakeGateway):
    """A gateway that knows others."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word
        self.gateways: list[str] = []

    def answer(self, status: int) -> Answer:
        if status != 200:
            return super().answer(status)
        told = {"node": "box2", "lease_s": 15, "heartbeat_s": 5.0}
        return Answer(
            200, json.dumps({**told, "gateways": self.gateways, "gateway": self.word}).encode()
        )


class FakeOrders:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.listening = False

    def startService(self) -> None:
        self.listening = True

    def stopService(self) -> None:
        self.listening = False


class ReporterTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.file = Path(self.mktemp())
        self.mesh = {url: Teller(url) for url in (A, B, C)}
        self.orders: dict[str, FakeOrders] = {}

    def reporter(self, *configured: str, settled: Callable[[], bool] = lambda: True) -> Reporter:
        aside: Any = AtOnce()
        book = Book(self.file, configured, aside, self.clock)
        made = Reporter("box2", configured, self.contact, self.clock, book, settled)
        self.addCleanup(lambda: Deferred.fromCoroutine(made.stop()))
        return made

    def contact(self, url: str, heard: Callable[[Accepted], None]) -> Contact:
        gateway = self.mesh.setdefault(url, Teller(url))
        self.orders[url] = FakeOrders()
        link = Link(url, "t", gateway, self.clock, self.snapshot, lambda: 0.0, heard)
        return Contact(link, self.orders[url])

    def snapshot(self) -> Registration:
        return Registration(node="box2", instance="i")

    def advance(self, seconds: int) -> None:
        self.clock.pump([0.5] * (2 * seconds))

    def urls(self, reporter: Reporter) -> list[str]:
        return [each.url for each in reporter.standings()]


class TellTests(ReporterTestCase):
    def test_gateways_do_not_wait_for_each_other(self) -> None:
        """One that is silent does not hold up what another one is told."""
        self.mesh[A].wait()
        reporter = self.reporter(A, B)
        reporter.start()
        self.advance(5)
        reporter.changed()
        self.advance(1)
        self.assertEqual((len(self.mesh[A].calls), len(self.mesh[B].calls)), (1, 3))
        self.successResultOf(Deferred.fromCoroutine(reporter.stop()))
        self.assertEqual(self.mesh[A].cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_is_told_before_what_runs_already_is_known(self) -> None:
        """A first report without it would take it away from a gateway that uses it."""
        settled = False
        reporter = self.reporter(A, settled=lambda: settled)
        reporter.start()
        reporter.changed()
        self.assertEqual(self.mesh[A].calls, [])
        settled = True
        reporter.changed()
        self.assertEqual(len(self.mesh[A].calls), 1)

    def test_but_a_gateway_does_not_wait_for_ever(self) -> None:
        """What does not show itself in time is told later."""
        reporter = self.reporter(A, settled=lambda: False)
        reporter.start()
        self.clock.advance(HOLD)
        self.assertEqual(len(self.mesh[A].calls), 1)

    def test_A19_all_are_left_at_once(self) -> None:
        """One that does not answer holds up no other's farewell."""
        reporter = self.reporter(A, B)
        reporter.start()
        for url in (A, B):
            self.mesh[url].wait()
        leaving = Deferred.fromCoroutine(reporter.stop())
        self.assertEqual([self.mesh[url].calls[-1].method for url in (A, B)], ["DELETE"] * 2)
        for url in (A, B):
            hold = self.mesh[url].hold
            assert hold is not None
            hold.callback(None)
        self.successResultOf(leaving)


class LearnTests(ReporterTestCase):
    def test_another_gateway_is_met_without_an_edit(self) -> None:
        """It is registered at, and its orders are heard."""
        self.mesh[A].gateways = [A, B]
        reporter = self.reporter(A)
        reporter.start()
        self.assertEqual(self.urls(reporter), [A, B])
        self.assertEqual([each.learned for each in reporter.standings()], [False, True])
        self.assertEqual(self.mesh[B].urls, [f"{B}/v1/nodes/register"])
        self.assertTrue(self.orders[B].listening)

    def test_what_was_learned_outlives_the_agent(self) -> None:
        """With the configured gateway away, the other one is told all the same."""
        self.mesh[A].gateways = [A, B]
        first = self.reporter(A)
        first.start()
        self.successResultOf(Deferred.fromCoroutine(first.stop()))
        self.mesh[A].away = True
        self.mesh[B].calls.clear()
        self.reporter(A).start()
        self.assertEqual(self.mesh[B].urls, [f"{B}/v1/nodes/register"])

    def test_another_file_is_another_mesh(self) -> None:
        """Whoever names another gateway does not take the old one's friends along."""
        self.mesh[A].gateways = [A, B]
        first = self.reporter(A)
        first.start()
        self.successResultOf(Deferred.fromCoroutine(first.stop()))
        second = self.reporter(C)
        second.start()
        self.assertEqual(self.urls(second), [C])

    def test_one_that_nobody_tells_of_is_forgotten(self) -> None:
        """After an hour in which others spoke; until then it may only be restarted."""
        self.mesh[A].gateways = [A, B]
        reporter = self.reporter(A)
        reporter.start()
        self.mesh[A].gateways = [A]
        self.mesh[B].away = True
        self.advance(int(FORGOTTEN) - 60)
        self.assertEqual(self.urls(reporter), [A, B])
        self.advance(120)
        self.assertEqual(self.urls(reporter), [A])
        self.assertFalse(self.orders[B].listening)
        self.assertEqual(Book(self.file, [A], AtOnce(), self.clock).load(), [])  # type: ignore[arg-type]

    def test_nobody_is_forgotten_while_all_others_are_silent(self) -> None:
        """A learned one may be the last that is left."""
        self.mesh[A].gateways = [A, B]
        reporter = self.reporter(A)
        reporter.start()
        self.mesh[A].away = True
        self.advance(int(FORGOTTEN) * 2)
        self.assertEqual(self.urls(reporter), [A, B])

    def test_two_urls_of_one_gateway_are_one(self) -> None:
        """It says its own word; the second stream of orders would end the first."""
        self.mesh[B].word = self.mesh[A].word
        self.mesh[A].gateways = [B]
        reporter = self.reporter(A)
        reporter.start()
        self.advance(20)
        self.assertEqual(self.urls(reporter), [A])
        self.assertEqual([call.method for call in self.mesh[B].calls], ["POST"])
        self.assertFalse(self.orders[B].listening)

    def test_two_urls_of_one_gateway_also_when_it_takes_its_time(self) -> None:
        """The link is left from within the answer that tells it, and all is quiet after that."""
        self.mesh[B].word = self.mesh[A].word
        self.mesh[A].gateways = [B]
        self.mesh[B].wait()
        reporter = self.reporter(A)
        reporter.start()
        self.assertEqual(self.urls(reporter), [A, B])
        hold, self.mesh[B].hold = self.mesh[B].hold, None
        assert hold is not None
        hold.callback(None)
        self.advance(20)
        self.assertEqual(self.urls(reporter), [A])
        self.assertEqual((len(self.mesh[B].calls), self.mesh[B].cancelled), (1, 0))
        self.successResultOf(Deferred.fromCoroutine(reporter.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_A40_a_gateway_cannot_send_a_node_just_anywhere(self) -> None:
        """Neither to eleven others, nor to what is no gateway's URL."""
        many = [f"http://10.0.1.{number}:8000" for number in range(11)]
        self.mesh[A].gateways = ["ftp://x", "http://127.0.0.1:22", "http://169.254.169.254", *many]
        reporter = self.reporter(A)
        reporter.start()
        self.assertEqual(len(self.urls(reporter)), MOST)
        self.assertTrue(all(url.startswith("http://10.0.") for url in self.urls(reporter)))

    def test_a_sick_disk_costs_the_memory_alone(self) -> None:
        """What cannot be read is not there."""
        self.file.write_text("{")
        reporter = self.reporter(A)
        reporter.start()
        self.assertEqual(self.urls(reporter), [A])
