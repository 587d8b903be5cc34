"""An operator's orders on a node in memory: real servers' lives, on fakes and a Clock."""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.node import Run
from rolemesh.core.commands import Command, Kind, Result
from rolemesh.core.model import BackendState as State
from rolemesh.node.commands import Operator, Tail
from rolemesh.node.drains import DISK, Drains
from rolemesh.node.means import Facts
from rolemesh.node.snapshot import backend_report
from rolemesh.node.supervisor import Server
from tests.node.fakes import FakeGround, FakeProbe, FakeProcess, means

NOW = 1_800_000_000.0


class AtOnce:
    """Does jobs where it stands, or never while it is `stuck`."""

    stuck = False

    def do(self, job: Any, *arguments: Any) -> Deferred[Any]:
        if self.stuck:
            return Deferred()
        try:
            return succeed(job(*arguments))
        except OSError:
            done: Deferred[Any] = Deferred()
            done.errback(Failure())
            return done


class NodeCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.ground, self.probe = Clock(), FakeGround(), FakeProbe()
        self.changes, self.now = 0, NOW
        self.server = self.new_server("gpu0")
        self.running: tuple[Server, ...] = (self.server,)
        self.file = Path(self.mktemp())
        self.aside: Any = AtOnce()
        self.begin()
        self.server.start()

    def begin(self) -> None:
        """An agent starts, with the state folder of the one before."""
        self.drains = Drains(self.file, self.aside, self.clock, lambda: self.now)
        self.drains.load()
        self.operator = Operator("box2", self, self.drains, self._changed)

    def new_server(self, id: str) -> Server:
        run = Run(id, "qwen3", Path("m.gguf"))
        return Server(run, means(self.clock, self.ground, self.probe), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def process(self) -> FakeProcess:
        return self.ground.processes[-1]

    def do(self, kind: str, backend: str | None = "gpu0", **more: Any) -> Result:
        command = Command("c1", Kind(kind), backend, **more)
        return self.successResultOf(Deferred.fromCoroutine(self.operator.do(command)))


class DrainTests(NodeCase):
    """What takes no new requests."""

    def test_reported(self) -> None:
        """A drained backend is reported as such, at once, with the reason; its process goes on."""
        before = self.changes
        result = self.do("drain", reason="fan", for_s=3600.0)
        told = "box2/gpu0 takes no new requests (fan, until 2027-01-15 09:00 UTC)"
        self.assertEqual((result.done, result.message), (True, f"{told}; running ones go on"))
        self.assertEqual(self.changes, before + 1)
        report = backend_report(self.server, self.drains.of("gpu0"))
        assert report is not None
        self.assertEqual(report.draining, "fan, until 2027-01-15 09:00 UTC")
        self.assertEqual(self.process.signals, [])

    def test_its_time_is_over(self) -> None:
        """After `for_s` it takes requests again, by itself, even when the machine was off."""
        self.do("drain", for_s=60.0)
        self.now += 59
        self.begin()
        self.assertIsNotNone(self.drains.of("gpu0"))
        self.now += 1
        self.assertIsNone(self.drains.of("gpu0"))

    def test_outlives_the_agent(self) -> None:
        """Drains of node and backend are there when the next agent starts, and resumed for good."""
        self.do("drain", None, reason="moving")
        self.do("drain")
        self.begin()
        self.assertEqual(self.drains.of("gpu0"), "moving")
        self.do("resume", None)
        self.begin()
        self.assertIsNone(self.drains.of("gpu0"))

    def test_resumed(self) -> None:
        """One backend takes requests again, at once and after a restart; its neighbour does not."""
        self.running += (self.new_server("gpu1"),)
        self.do("drain")
        self.do("drain", "gpu1")
        result = self.do("resume")
        self.assertEqual((result.done, result.message), (True, "box2/gpu0 takes requests"))
        for _ in range(2):
            self.assertEqual((self.drains.of("gpu0"), self.drains.of("gpu1")), (None, ""))
            self.begin()

    def test_private(self) -> None:
        """The file is its owner's alone."""
        self.do("drain")
        self.assertEqual(os.stat(self.file).st_mode & 0o777, 0o600)

    def test_resume_part_of_a_drained_node(self) -> None:
        """One backend of a drained node does not take requests, and that is said."""
        self.do("drain", None, reason="moving")
        result = self.do("resume")
        self.assertEqual(result.done, False)
        self.assertIn("'box2' as a whole is drained (moving)", result.message)
        self.assertEqual(self.do("resume", None).message, "box2 takes requests")

    def test_A30_a_disk_that_is_full(self) -> None:
        """A drain holds without a disk, and whoever ordered it hears that it is not kept."""
        full = OSError(28, "No space left on device")
        with patch("rolemesh.node.drains.write_private", side_effect=full):
            result = self.do("drain")
        self.assertTrue(result.done)
        self.assertIn("cannot keep it over a restart", result.message)
        self.assertIn("No space left", result.message)
        self.assertIsNotNone(self.drains.of("gpu0"))

    def test_A30_a_disk_that_hangs(self) -> None:
        """A disk that hangs holds nobody up for longer than two seconds."""
        self.aside.stuck = True
        doing = Deferred.fromCoroutine(self.operator.do(Command("c1", Kind.DRAIN, "gpu0")))
        self.assertNoResult(doing)
        self.clock.advance(DISK)
        self.assertIn("cannot keep it", self.successResultOf(doing).message)

    def test_a_broken_file(self) -> None:
        """A file that cannot be read drains nothing, is told of, and stops no agent."""
        for text in ("{", "[]", '{"backends": 3}'):
            self.file.write_text(text)
            self.begin()
            self.assertIsNone(self.drains.of("gpu0"))


class RestartTests(NodeCase):
    """A server that is started again."""

    def become_ready(self) -> None:
        self.probe.ready.callback(Facts(context=2048, slots=2))

    def test_ready(self) -> None:
        """A running one is asked to end, and starts again within 1.2 s, as no failure."""
        self.become_ready()
        result = self.do("restart")
        self.assertEqual((result.done, result.message), (True, "box2/gpu0 was ready, and restarts"))
        self.assertIs(self.server.state, State.REPLACING)
        self.assertEqual(self.process.signals[0], 15)
        self.process.exit()
        self.clock.advance(1.2)
        self.assertEqual(len(self.ground.processes), 2)
        self.assertEqual(
            str(self.server.last_ending), "ordered: an operator wanted it started again"
        )

    def test_often(self) -> None:
        """Restarts are no crash loop, however many there are."""
        for _ in range(8):
            self.become_ready()
            self.do("restart")
            self.process.exit(143)
            self.clock.advance(1.2)
            self.assertIs(self.server.state, State.STARTING)

    def test_no_sign_of_a_crash_loop(self) -> None:
        """An ordered end is not one of the five that make the next a crash loop."""
        self.become_ready()
        self.do("restart")
        self.process.exit()
        for _ in range(5):
            self.clock.pump([1] * 40)
            self.process.exit(1)
        self.assertIs(self.server.state, State.BACKOFF)

    def test_in_a_pause(self) -> None:
        """One that waits for its next start is started now, and its failures are forgiven."""
        for _ in range(4):
            self.process.exit(1)
            self.clock.advance(120)
        self.process.exit(1)
        self.assertIn(self.server.state, (State.BACKOFF, State.CRASH_LOOP))
        starts = len(self.ground.processes)
        self.assertTrue(self.do("restart").done)
        self.assertEqual(len(self.ground.processes), starts + 1)
        self.process.exit(1)
        self.clock.advance(1.2)
        self.assertEqual(len(self.ground.processes), starts + 2)

    def test_ignores_sigterm(self) -> None:
        """One that does not end by itself is killed, and comes back."""
        self.become_ready()
        self.do("restart")
        self.clock.advance(10)
        self.assertIn(9, self.process.signals)
        self.process.exit(signal=9)
        self.clock.advance(1.2)
        self.assertEqual(len(self.ground.processes), 2)

    def test_where_it_changes_nothing(self) -> None:
        """A server that ends for good, or is on its way already, is not restarted."""
        self.become_ready()
        self.do("restart")
        again = self.do("restart")
        self.assertEqual(
            (again.done, again.message),
            (False, "box2/gpu0 is replacing, which a restart does not change"),
        )
        self.server.stop()
        self.assertFalse(self.do("restart").done)


class NamesTests(NodeCase):
    """What an order may name."""

    def test_A40_only_the_file(self) -> None:
        """A name that the node's file does not have comes to nothing; the nearest one is told."""
        for kind in ("drain", "resume", "restart", "logs"):
            result = self.do(kind, "gpu1")
            self.assertFalse(result.done)
            self.assertEqual(result.message, "'box2' has no backend 'gpu1' - did you mean 'gpu0'?")
        self.assertIsNone(self.drains.of("gpu1"))

    def test_a_whole_node_is_not_restarted(self) -> None:
        """A restart without a name is none."""
        self.assertEqual(self.do("restart", None).message, "restart is for one backend")


class TailTests(NodeCase):
    """A server's log, as it grows."""

    def test_last_and_news(self) -> None:
        """First the last lines, then each one once, as they come."""
        self.process.say(b"one", b"two", b"three")
        tail = self.operator.tail("gpu0")
        assert tail is not None
        self.assertEqual(tail.last(2), ("two", "three"))
        self.assertEqual(tail.news(), ())
        self.process.say(b"four")
        self.assertEqual((tail.news(), tail.news()), (("four",), ()))

    def test_flood(self) -> None:
        """Of a flood the latest are told, and how many are not."""
        tail = self.operator.tail("gpu0")
        assert tail is not None
        tail.last(0)
        self.process.say(*(b"%d" % number for number in range(1000)))
        news = tail.news()
        self.assertEqual((len(news), news[0], news[-1]), (201, "… 800 lines left out", "999"))

    def test_secrets(self) -> None:
        """The server's key is not in what is told."""
        self.process.say(b"key-0 is my key")
        tail = self.operator.tail("gpu0")
        assert tail is not None
        self.assertEqual(tail.last(1), ("*** is my key",))

    def test_behind_a_mark(self) -> None:
        """Who comes again is told what came since, and how many of those lines are gone."""
        self.process.say(b"one", b"two")
        tail = self.operator.tail("gpu0")
        assert tail is not None
        tail.last(1)
        mark = tail.mark
        self.assertEqual(self.tail().last(200, mark), ())
        self.process.say(b"three", b"four")
        self.assertEqual(self.tail().last(1, mark), ("three", "four"))
        self.process.say(*(b"%d" % number for number in range(299)))
        told = self.tail().last(1, mark)
        self.assertEqual((len(told), told[0], told[-1]), (201, "… 101 lines left out", "298"))

    def tail(self) -> Tail:
        found = self.operator.tail("gpu0")
        assert found is not None
        return found

    def test_behind_another_agents_mark(self) -> None:
        """All lines of a new process are told, as nobody has seen any."""
        self.process.say(b"one", b"two")
        for mark in ("1700000000.000001:2:00000000", "1:2", ":", "x:y:z", "0:99999999999999999:0"):
            self.assertEqual(self.tail().last(1, mark), ("one", "two"))

    def test_its_entry_changes(self) -> None:
        """A reload that makes another server of the same name is followed on."""
        tail = self.operator.tail("gpu0")
        assert tail is not None
        tail.last(5)
        self.running = (self.new_server("gpu0"),)
        self.running[0].start()
        self.process.say(b"anew")
        self.assertEqual(tail.news(), ("anew",))
