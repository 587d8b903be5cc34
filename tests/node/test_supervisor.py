"""A llama-server's life in memory: time is a Clock, the process and the probe are fakes."""

import signal
from pathlib import Path

from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.node import Run
from rolemesh.core.endings import Reason
from rolemesh.core.model import BackendState as State
from rolemesh.core.vigil import Pulse
from rolemesh.node.means import CannotStart, Facts, Stranger
from rolemesh.node.snapshot import backend_report
from rolemesh.node.supervisor import Server
from tests.node.fakes import FakeGround, FakeProbe, FakeProcess, means

FACTS = Facts(context=2048, slots=2, build="b11434")


class LifeTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.ground, self.probe = Clock(), FakeGround(), FakeProbe()
        self.changes = 0
        run = Run("gpu0", "qwen3", Path("m.gguf"), slots=2, context=2048, roles=("coder",))
        self.server = Server(run, means(self.clock, self.ground, self.probe), self._changed)
        self.server.start()

    def _changed(self) -> None:
        self.changes += 1

    @property
    def process(self) -> FakeProcess:
        return self.ground.processes[-1]

    @property
    def starts(self) -> int:
        return len(self.ground.processes)

    def become_ready(self) -> None:
        self.probe.ready.callback(FACTS)


class StartTests(LifeTestCase):
    def test_a_start_runs_it_and_asks_it(self) -> None:
        """It is started once, and asked at its own door."""
        self.assertEqual((self.starts, self.probe.asked), (1, self.ground.doors))
        self.assertIs(self.server.state, State.STARTING)

    def test_loading_and_ready_follow_its_answers(self) -> None:
        """503 is loading, also twice; a proved 200 is ready, with what it said of itself."""
        self.probe.loading()
        self.probe.loading()
        self.assertIs(self.server.state, State.LOADING)
        self.become_ready()
        self.assertIs(self.server.state, State.READY)
        self.assertEqual(self.server.facts, FACTS)

    def test_each_change_is_announced_once(self) -> None:
        """Whoever reports is told of starting, loading and ready, and of nothing in between."""
        self.assertEqual(self.changes, 1)
        self.probe.loading()
        self.probe.loading()
        self.become_ready()
        self.assertEqual(self.changes, 3)

    def test_A6_loading_has_no_end_of_its_own(self) -> None:
        """Half an hour of loading is neither killed nor doubted."""
        self.probe.loading()
        self.clock.advance(1800)
        self.assertIs(self.server.state, State.LOADING)
        self.assertEqual(self.process.signals, [])

    def test_A1_a_start_that_fails_at_once_is_tried_again(self) -> None:
        """No process at all is a pause with its reason; the next try follows."""
        self.process.exit(1)
        self.ground.refuse = [CannotStart(Reason.EXEC_FAILED, "EAGAIN")]
        self.clock.advance(1)
        self.assertIs(self.server.state, State.BACKOFF)
        self.assertEqual(str(self.server.last_ending), "exec_failed: EAGAIN")
        self.clock.advance(60)
        self.assertEqual((self.starts, self.server.state), (2, State.STARTING))


class ExitTests(LifeTestCase):
    def test_an_exit_is_followed_by_a_start_after_a_second(self) -> None:
        """A killed server runs again one second later, with a fresh key."""
        self.become_ready()
        self.process.exit(None, 9)
        self.assertIs(self.server.state, State.BACKOFF)
        self.clock.advance(0.99)
        self.assertEqual(self.starts, 1)
        self.clock.advance(0.01)
        self.assertEqual((self.starts, self.server.restarts), (2, 1))
        self.assertNotEqual(self.ground.doors[0].key, self.ground.doors[1].key)

    def test_A3_pauses_grow_and_ready_for_a_minute_resets_them(self) -> None:
        """1, 2, 4 seconds; only sixty seconds of ready make the next one short again."""
        for wait in (1, 2, 4):
            self.become_ready()
            self.clock.advance(59)
            self.process.exit(None, 11)
            self.assertAlmostEqual(self.server.retry_in or 0, wait)
            self.clock.advance(wait)
        self.become_ready()
        self.clock.advance(60)
        self.process.exit(None, 11)
        self.assertEqual(self.server.retry_in, 1)

    def test_A2_the_last_lines_tell_the_cause(self) -> None:
        """A wrong argument is found in what the server said last."""
        self.process.say(b"error: invalid argument: --frob")
        self.process.exit(1)
        assert self.server.last_ending is not None
        self.assertEqual(str(self.server.last_ending), "bad_argument: exit code 1")
        self.assertEqual(self.server.last_ending.lines, ("error: invalid argument: --frob",))

    def test_A2_three_equal_quick_exits_go_to_the_longest_pause(self) -> None:
        """What cannot work is tried once a minute."""
        for wait in (1, 2, 60):
            self.process.exit(1)
            self.assertEqual(self.server.retry_in, wait)
            self.clock.advance(wait)

    def test_A10_the_kernels_kill_is_told_and_waits_longer(self) -> None:
        """A SIGKILL with a new kill of the kernel is out of memory, and pauses ten seconds."""
        self.ground.kills = 1
        self.process.exit(None, 9)
        assert self.server.last_ending is not None
        self.assertIs(self.server.last_ending.reason, Reason.HOST_MEMORY)
        self.assertEqual(self.server.retry_in, 10)

    def test_the_questions_end_with_the_process(self) -> None:
        """Nobody asks a process that is gone."""
        self.process.exit(1)
        self.assertEqual(self.probe.cancelled, 1)

    def test_a_late_exit_of_an_earlier_process_is_not_this_ones(self) -> None:
        """An exit that comes twice, or for an older start, changes nothing."""
        first = self.process
        first.exit(1)
        self.clock.advance(1)
        first.exit(1)
        self.assertIs(self.server.state, State.STARTING)
        self.assertEqual(self.starts, 2)

    def test_A4_a_stranger_on_the_port_is_never_ready(self) -> None:
        """When another program answers, ours is ended, and the reason is the port."""
        self.probe.ready.errback(Failure(Stranger("it does not know its key")))
        self.assertEqual(self.process.signals, [signal.SIGKILL])
        self.process.exit(None, 9)
        self.assertIs(self.server.state, State.BACKOFF)
        assert self.server.last_ending is not None
        self.assertIs(self.server.last_ending.reason, Reason.PORT_IN_USE)


class StopTests(LifeTestCase):
    def test_A12_a_stop_is_asked_for_first(self) -> None:
        """SIGTERM, and SIGCONT so that a stopped process hears it; then gone."""
        self.become_ready()
        stopped = self.server.stop()
        self.assertEqual(self.process.signals, [signal.SIGTERM, signal.SIGCONT])
        self.assertNoResult(stopped)
        self.process.exit(0)
        self.successResultOf(stopped)
        self.assertIs(self.server.state, State.STOPPED)

    def test_A12_who_ignores_it_is_killed_after_the_grace(self) -> None:
        """SIGKILL comes with the end of the grace, not before."""
        stopped = self.server.stop()
        self.clock.advance(9.9)
        self.assertNotIn(signal.SIGKILL, self.process.signals)
        self.clock.advance(0.1)
        self.assertIn(signal.SIGKILL, self.process.signals)
        self.process.exit(None, 9)
        self.successResultOf(stopped)

    def test_a_stopped_server_stays_down(self) -> None:
        """After a stop nothing is started again, and no time is waited for."""
        self.server.stop()
        self.process.exit(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_ends_a_pause(self) -> None:
        """Between two starts a stop is done at once."""
        self.process.exit(1)
        self.successResultOf(self.server.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_second_stop_waits_for_the_same_end(self) -> None:
        """Stopping twice is one stop."""
        first, second = self.server.stop(), self.server.stop()
        self.process.exit(0)
        self.successResultOf(first)
        self.successResultOf(second)

    def test_an_answer_that_comes_after_the_stop_is_nothing(self) -> None:
        """A server that becomes ready while it is stopped is not ready."""
        late = self.probe.loading
        self.server.stop()
        late()
        self.assertIs(self.server.state, State.STOPPING)


class ReportTests(LifeTestCase):
    def test_the_report_says_what_the_server_said(self) -> None:
        """Context per slot, slots and build are the server's own words, the key is this start's."""
        self.become_ready()
        self.probe.tell(Pulse(True, 1))
        report = backend_report(self.server)
        assert report is not None
        self.assertEqual((report.id, report.model, report.roles), ("gpu0", "qwen3", ("coder",)))
        self.assertEqual((report.context, report.slots, report.build), (2048, 2, "b11434"))
        self.assertEqual((report.state, report.slots_busy), (State.READY, 1))
        self.assertEqual((report.base_url, report.key), ("http://127.0.0.1:18100", "key-0"))

    def test_the_report_of_a_pause_says_why_and_how_long(self) -> None:
        """The class, the last lines and the seconds to the next start reach the gateway."""
        self.process.say(b"error: invalid argument: --frob")
        self.process.exit(1)
        self.clock.advance(0.25)
        report = backend_report(self.server)
        assert report is not None
        assert report.last_exit is not None
        self.assertEqual(report.last_exit.reason, "bad_argument: exit code 1")
        self.assertEqual(report.last_exit.lines, ("error: invalid argument: --frob",))
        self.assertEqual(report.last_exit.retry_in, 0.75)

    def test_the_lines_do_not_tell_the_key(self) -> None:
        """What a server prints of its key does not leave the agent."""
        self.process.say(b"warning: key-0 is a weak key")
        self.process.exit(1)
        report = backend_report(self.server)
        assert report is not None
        assert report.last_exit is not None
        self.assertEqual(report.last_exit.lines, ("warning: *** is a weak key",))

    def test_a_server_without_a_door_is_not_reported(self) -> None:
        """Before the first start there is nothing that a gateway could use."""
        waiting = Server(self.server.run, means(self.clock, self.ground, self.probe), self._changed)
        self.assertIsNone(backend_report(waiting))
