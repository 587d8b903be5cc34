"""A llama-server's life in memory: time is a Clock, the process and the probe are fakes."""

import os
import signal
import subprocess
from pathlib import Path

from attrs import evolve
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.node import Restart, Run
from rolemesh.core.endings import Reason
from rolemesh.core.model import BackendState as State
from rolemesh.core.report import GpuProcess, GpuReport, encode
from rolemesh.core.vigil import Pulse, Signs
from rolemesh.node.hostmeter import HostMeter
from rolemesh.node.means import CannotStart, Door, Facts, Stranger, Taken
from rolemesh.node.snapshot import LONGEST_BATCH, Snapshots, backend_report
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

    def serve(self, seconds: int) -> None:
        """Be ready and idle, and say so when asked."""
        self.become_ready()
        for _ in range(seconds):
            self.probe.tell(Pulse(True, 0))
            self.clock.advance(1)


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
        self.assertEqual(self.server.talk.facts, FACTS)

    def test_each_change_is_announced_once(self) -> None:
        """Whoever reports is told of starting, loading and ready, and of nothing in between."""
        self.assertEqual(self.changes, 1)
        self.probe.loading()
        self.probe.loading()
        self.become_ready()
        self.assertEqual(self.changes, 3)

    def test_A6_loading_has_no_end_of_its_own(self) -> None:
        """Half an hour of loading is neither killed nor doubted while a byte a look is read."""
        self.probe.loading()
        for read in range(900):
            self.ground.shown = Signs(read=read)
            self.clock.advance(2)
        self.assertIs(self.server.state, State.LOADING)
        self.assertEqual(self.process.signals, [])

    def test_A6_the_report_tells_the_progress_of_a_load(self) -> None:
        """A gateway can say how far it is."""
        self.probe.loading()
        self.ground.shown = Signs(read=3_400_000_000)
        self.clock.advance(2)
        report = backend_report(self.server)
        assert report is not None
        self.assertEqual(report.progress, "loading for 2 s, 3.4 GB read")

    def test_A6_a_line_of_the_log_is_progress(self) -> None:
        """Also where /proc tells nothing."""
        self.probe.loading()
        for _ in range(100):
            self.process.say(b"load_tensors: ...")
            self.clock.pump([2, 2])
        self.assertIs(self.server.state, State.LOADING)

    def test_A7_a_load_that_hangs_is_killed_and_tried_again(self) -> None:
        """Five minutes in which nothing moves are a hang, whether or not it answers."""
        self.probe.loading()
        self.clock.pump([2] * 150)
        self.assertIs(self.server.state, State.LOADING)
        self.clock.pump([2] * 2)
        self.assertEqual(self.process.signals, [signal.SIGKILL])
        self.process.exit(None, 9)
        self.assertIs(self.server.state, State.BACKOFF)
        self.assertEqual(str(self.server.last_ending), "hung: no progress for 300 s, loading")

    def test_A14_A21_its_record_is_there_before_it_is_asked(self) -> None:
        """No traffic comes to a process that a next agent would not know; its end is noted."""
        self.assertEqual(self.ground.recorded, [1])
        self.process.exit(1)
        self.assertEqual(self.ground.cleaned, ["gpu0"])

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
            self.serve(59)
            self.process.exit(None, 11)
            self.assertAlmostEqual(self.server.retry_in or 0, wait)
            self.clock.advance(wait)
        self.serve(60)
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
            self.clock.advance(1.9)
            self.process.exit(1)
            self.assertEqual(self.server.retry_in, wait)
            self.clock.advance(wait)

    def test_A2_what_runs_for_two_seconds_has_begun(self) -> None:
        """Its pauses grow as those of any other."""
        for wait in (1, 2, 4):
            self.clock.advance(2)
            self.process.exit(1)
            self.assertEqual(self.server.retry_in, wait)
            self.clock.advance(wait)

    def test_A10_the_kernels_kill_is_told_and_waits_longer(self) -> None:
        """A SIGKILL with a new kill of the kernel is out of memory, and pauses ten seconds; a kill
        before the start explains nothing."""
        self.ground.kills = 1
        self.process.exit(None, 9)
        told = "host_memory: killed:9 by the kernel, out of memory"
        self.assertEqual(str(self.server.last_ending), told)
        self.assertEqual(self.server.retry_in, 10)
        self.clock.advance(10)
        self.process.exit(None, 9)
        self.assertEqual(str(self.server.last_ending), "signal: killed:9 SIGKILL")

    def test_A11_a_crash_is_told_by_its_signal(self) -> None:
        """SIGSEGV and SIGABRT pause as any exit, with the lines before them, and are told at once:
        a gateway then knows that what it had under way there died."""
        for number, name in ((signal.SIGSEGV, "SIGSEGV"), (signal.SIGABRT, "SIGABRT")):
            self.become_ready()
            self.process.say(b"GGML_ASSERT(x) failed")
            told = self.changes
            self.process.exit(None, number)
            self.assertEqual(self.changes, told + 1)
            report = backend_report(self.server)
            assert report is not None
            assert report.last_exit is not None
            self.assertEqual(report.state, State.BACKOFF)
            self.assertEqual(report.last_exit.reason, f"signal: killed:{int(number)} {name}")
            self.assertEqual(report.last_exit.lines, ("GGML_ASSERT(x) failed",))
            self.clock.advance(5)

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

    def test_A3_P12_a_crash_loop_is_told_and_rests_for_a_minute(self) -> None:
        """The sixth end in five minutes; then a start a minute, for ever."""
        for _ in range(5):
            self.clock.advance(3)
            self.become_ready()
            self.process.exit(None, 11)
            self.assertIs(self.server.state, State.BACKOFF)
            self.clock.advance(16)
        for starts in (7, 8):
            self.process.exit(None, 11)
            self.assertIs(self.server.state, State.CRASH_LOOP)
            self.assertEqual(self.server.retry_in, 60)
            self.clock.advance(60)
            self.assertEqual((self.starts, self.server.state), (starts, State.STARTING))

    def test_P12_at_most_twelve_starts_in_five_minutes(self) -> None:
        """Also where the file wants pauses of a millisecond, and each start was steady by then."""
        hasty = Restart(first=0.001, longest=0.001, reset_after=0.02)
        quick = evolve(means(self.clock, self.ground, self.probe), restart=hasty)
        Server(self.server.run, quick, self._changed).start()
        began = self.starts
        for _ in range(3000):
            if not self.probe.ready.called:
                self.become_ready()
            self.clock.advance(0.05)
            self.process.exit(1)
            self.clock.advance(0.05)
        self.assertLessEqual(self.starts - began + 1, 12)
        self.assertGreater(self.starts - began, 5)

    def test_A39_a_fault_of_ours_in_a_start_is_a_pause(self) -> None:
        """Whatever a start fails with, there is another one."""
        self.process.exit(1)
        self.ground.doors = None  # type: ignore[assignment]
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertIs(self.server.state, State.BACKOFF)


class ProgressTests(LifeTestCase):
    """A server that is ready and then makes no progress."""

    def setUp(self) -> None:
        super().setUp()
        self.become_ready()
        self.working = Pulse(True, 1, ("7:40",))

    def look(self, seconds: int, pulse: Pulse) -> None:
        self.probe.tell(pulse)
        self.clock.pump([2] * (seconds // 2))

    def test_A9_a_wedged_server_is_replaced_within_150_s(self) -> None:
        """It answers, its slots are busy, and they produce nothing: suspect, then ended."""
        self.look(34, self.working)
        self.assertIs(self.server.state, State.SUSPECT)
        self.assertEqual(self.process.signals, [])
        self.look(90, self.working)
        self.assertEqual(self.process.signals, [signal.SIGTERM, signal.SIGCONT])
        self.assertIs(self.server.state, State.REPLACING)
        self.clock.advance(10)
        self.assertIn(signal.SIGKILL, self.process.signals)
        self.process.exit(None, 9)
        self.assertEqual(str(self.server.last_ending), "wedged: no progress for 120 s, suspect")
        self.clock.advance(1)
        self.assertEqual((self.starts, self.server.state), (2, State.STARTING))

    def test_A8_a_silent_server_is_replaced_too(self) -> None:
        """Nothing is answered and nothing works."""
        self.look(124, Pulse())
        self.assertIs(self.server.state, State.REPLACING)

    def test_A8_who_works_in_silence_is_suspect_and_goes_on(self) -> None:
        """Ten minutes of a batch that answers nothing: no new requests, no end; then it is back."""
        for second in range(0, 600, 2):
            self.ground.shown = Signs(cpu=2.0 * second)
            self.look(2, Pulse())
        self.assertIs(self.server.state, State.SUSPECT)
        self.assertEqual(self.process.signals, [])
        self.look(2, Pulse(True, 0))
        self.assertIs(self.server.state, State.READY)

    def test_A34_after_a_sleep_of_the_machine_it_is_asked_first(self) -> None:
        """What was ready an hour ago is suspect until it answers."""
        self.look(2, Pulse(True, 0))
        self.clock.advance(3600)
        self.assertIs(self.server.state, State.SUSPECT)
        self.look(2, Pulse(True, 0))
        self.assertIs(self.server.state, State.READY)

    def test_A34_a_sleep_that_no_clock_counts(self) -> None:
        """Suspended for an hour: nothing is told to be ready before it has answered again."""
        self.look(2, Pulse(True, 0))
        self.server.woke()
        self.assertIs(self.server.state, State.SUSPECT)
        self.clock.advance(2)
        self.assertIs(self.server.state, State.SUSPECT)
        self.look(2, Pulse(True, 0))
        self.assertIs(self.server.state, State.READY)

    def test_A8_a_suspect_that_moves_is_ready_again(self) -> None:
        """And takes requests again; in between its report said for how long it stood."""
        self.look(34, self.working)
        report = backend_report(self.server)
        assert report is not None
        self.assertEqual((report.state, report.progress), (State.SUSPECT, "no progress for 32 s"))
        self.look(2, Pulse(True, 1, ("7:41",)))
        self.assertIs(self.server.state, State.READY)

    def test_A9_a_busy_server_that_writes_is_left_alone(self) -> None:
        """Ten minutes of one answer are no reason for anything."""
        for token in range(150):
            self.look(4, Pulse(True, 1, (f"7:{token}",)))
        self.assertIs(self.server.state, State.READY)

    def test_A13_no_second_server_beside_one_that_cannot_be_killed(self) -> None:
        """SIGKILL without an end is `unkillable`; only the end leads on."""
        self.look(124, self.working)
        self.clock.advance(10)
        self.clock.advance(5)
        self.assertIs(self.server.state, State.UNKILLABLE)
        self.clock.advance(3600)
        self.assertEqual(self.starts, 1)
        self.process.exit(None, 9)
        self.assertIs(self.server.state, State.BACKOFF)
        self.clock.advance(1)
        self.assertEqual(self.starts, 2)

    def test_A13_a_stop_does_not_wait_for_ever(self) -> None:
        """Grace, SIGKILL, five seconds: then it is left, and its record with it."""
        stopped = self.server.stop()
        self.clock.advance(10)
        self.assertNoResult(stopped)
        self.clock.advance(5)
        self.successResultOf(stopped)
        self.assertEqual(self.ground.cleaned, [])
        self.process.exit(None, 9)
        self.assertIs(self.server.state, State.STOPPED)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class GroundTests(LifeTestCase):
    """What stands in the way of a start."""

    def test_A13_what_an_earlier_start_left_blocks_the_next_one(self) -> None:
        """While another agent's process outlives SIGKILL, none of ours is made."""
        self.ground.left = "process 4711 of an earlier start outlives SIGKILL"
        self.process.exit(1)
        self.clock.advance(1)
        self.assertIs(self.server.state, State.UNKILLABLE)
        self.assertIn("process 4711", str(self.server.last_ending))
        self.clock.advance(10)
        self.assertEqual(self.starts, 1)
        self.ground.left = ""
        self.clock.advance(10)
        self.assertIs(self.server.state, State.BACKOFF)
        self.clock.advance(60)
        self.assertEqual(self.starts, 2)

    def test_A15_a_lost_gpu_ends_the_server_until_it_is_back(self) -> None:
        """No restart without the GPU; with it, after the usual pause."""
        self.become_ready()
        self.ground.lost = "GPU 0 (H100): GPU is lost"
        self.server.gpus_changed()
        self.assertEqual(self.process.signals, [signal.SIGTERM, signal.SIGCONT])
        self.process.exit(None, 15)
        self.assertIs(self.server.state, State.GPU_LOST)
        self.assertEqual(str(self.server.last_ending), "gpu_lost: GPU 0 (H100): GPU is lost")
        self.clock.advance(3600)
        self.assertEqual(self.starts, 1)
        self.ground.lost = ""
        self.server.gpus_changed()
        self.assertEqual(self.server.retry_in, 1)
        self.clock.advance(1)
        self.assertEqual((self.starts, self.server.state), (2, State.STARTING))

    def test_P12_a_gpu_that_comes_and_goes_is_a_crash_loop_too(self) -> None:
        """A loose riser does not make a start every five seconds."""
        for _ in range(60):
            for self.ground.lost in ("GPU 0: GPU is lost", ""):
                self.server.gpus_changed()
                if self.server.pid is not None:
                    self.process.exit(None, 15)
                self.clock.advance(2.5)
        self.assertLessEqual(self.starts, 12)

    def test_A15_a_sample_without_a_loss_changes_nothing(self) -> None:
        """NVML tells every five seconds."""
        self.become_ready()
        self.server.gpus_changed()
        self.assertIs(self.server.state, State.READY)

    def test_A15_a_gpu_that_is_lost_before_the_start(self) -> None:
        """A pause ends where the GPU is found missing."""
        self.process.exit(1)
        self.ground.lost = "GPU 0 (H100): GPU is lost"
        self.clock.advance(1)
        self.assertIs(self.server.state, State.GPU_LOST)


class FakeAdopted:
    """A process of an earlier agent."""

    pid = 4711

    def __init__(self) -> None:
        self.told: list[str] = []

    def watch(self) -> None:
        self.told.append("watch")

    def terminate(self) -> None:
        self.told.append("terminate")

    def kill(self) -> None:
        self.told.append("kill")

    def leave(self) -> None:
        self.told.append("leave")


class KeepTests(LifeTestCase):
    """A server that outlives its agent."""

    def setUp(self) -> None:
        super().setUp()
        self.adopted = FakeAdopted()
        door = Door("127.0.0.1", 18107, "qwen3", "old key")
        self.ground.keeping = True
        self.ground.taken = Taken(
            door, self.adopted, 600.0, secrets=["old key"], tail=[b"loaded with old key"]
        )
        self.clock.advance(10)
        self.second = Server(
            self.server.run, means(self.clock, self.ground, self.probe), self._changed
        )
        self.before = self.starts
        self.second.start()

    def test_A20_it_is_taken_over_and_nothing_is_started(self) -> None:
        """The same process, port and key, and what it said last without the key."""
        self.assertEqual((self.starts, self.second.pid), (self.before, 4711))
        self.assertEqual(self.probe.asked[-1].port, 18107)
        self.assertEqual(self.adopted.told, ["watch"])
        self.assertEqual(self.second.log.tail(5), ["loaded with ***"])

    def test_A20_it_is_reported_as_soon_as_it_has_answered(self) -> None:
        """Until then a gateway is not told, as it would take it for gone."""
        self.assertTrue(self.second.settling)
        self.become_ready()
        self.assertFalse(self.second.settling)
        self.assertEqual((self.second.state, self.second.restarts), (State.READY, 0))

    def test_A21_a_load_that_began_before_us_keeps_its_clock(self) -> None:
        """Ten minutes under the other agent count; for a hang it is watched from now on."""
        self.probe.loading()
        self.assertFalse(self.second.settling)
        self.clock.advance(2)
        report = backend_report(self.second)
        assert report is not None
        self.assertIn("loading for 602 s", report.progress)
        self.clock.pump([2] * 148)
        self.assertIs(self.second.state, State.LOADING)
        self.clock.pump([2] * 4)
        self.assertEqual(self.adopted.told, ["watch", "kill"])

    def test_A20_an_agent_that_ends_leaves_it_alone(self) -> None:
        """No signal, no timer, no question; its later end is none of ours."""
        self.become_ready()
        self.assertTrue(self.second.leave())
        self.assertEqual(self.adopted.told, ["watch", "leave"])
        self.server.stop()
        self.process.exit(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_A30_what_the_next_agent_would_not_know_is_stopped(self) -> None:
        """Without a record nothing is left running."""
        self.become_ready()
        self.ground.keeping = False
        self.assertFalse(self.second.leave())

    def test_A20_a_pause_is_not_left(self) -> None:
        """There is no process that could go on."""
        self.process.exit(1)
        self.assertFalse(self.server.leave())


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
        self.probe.tell(Pulse(True, 2, waiting=3))
        self.clock.advance(1.5)
        report = backend_report(self.server)
        assert report is not None
        self.assertEqual((report.slots_busy, report.waiting, report.slots_age), (2, 3, 1.5))
        self.assertEqual((report.base_url, report.key), ("http://127.0.0.1:18100", "key-0"))

    def test_the_report_says_since_when_nothing_moves(self) -> None:
        """Where the processor alone can be at work, and for no longer than the longest batch;
        a GPU that hangs looks busy, so nothing is told of one."""
        self.become_ready()
        self.probe.tell(Pulse(True, 1, (), reading=True))
        self.ground.shown = Signs(cpu=10.0)
        self.clock.pump([2.0] * 3)
        self.assertEqual(self.still(), 4.0)
        self.ground.shown = Signs(cpu=20.0)
        self.clock.advance(2.0)
        self.assertEqual(self.still(), 0.0)
        for step in range(500):
            self.ground.shown = Signs(cpu=20.0 + 4 * step)
            self.clock.advance(2.0)
        self.assertEqual(self.still(), 1008.0 - LONGEST_BATCH)
        self.ground.shown = Signs(utilization=1.0)
        self.clock.advance(2.0)
        self.assertIsNone(self.still())

    def still(self) -> float | None:
        report = backend_report(self.server)
        assert report is not None
        return report.still

    def test_the_report_says_what_may_not_fit(self) -> None:
        """An operator reads it at the gateway."""
        self.ground.noted = "GPU 0: needs 18.1 + 9.6 GB, 23.4 free; fits: slots 2"
        report = backend_report(self.server)
        assert report is not None
        self.assertEqual(report.note, self.ground.noted)

    def test_busy_slots_are_news(self) -> None:
        """Gateways that share its slots hear when more or fewer of them work, and of nothing else
        that moves there."""
        self.become_ready()
        changes = self.changes
        for pulse in (Pulse(True, 2), Pulse(True, 2, waiting=1), Pulse(True, 1)):
            self.probe.tell(pulse)
            changes += 1
            self.assertEqual(self.changes, changes)
        self.probe.tell(Pulse(True, 1, ("progress",)))
        self.assertEqual(self.changes, changes)

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

    def test_A2_the_last_twenty_lines_without_key_path_and_address(self) -> None:
        """What a server prints of its key and its machine does not leave the agent."""
        said = [b"loading %d" % number for number in range(30)]
        self.process.say(*said, b"key-0 is a weak key", b"/srv/models/q.gguf on 10.0.0.7:18100")
        self.process.exit(1)
        report = backend_report(self.server)
        assert report is not None
        assert report.last_exit is not None
        *before, key, place = report.last_exit.lines
        self.assertEqual(before, [f"loading {number}" for number in range(12, 30)])
        self.assertEqual((key, place), ("*** is a weak key", "…/q.gguf on ***"))

    def test_a_report_has_a_size(self) -> None:
        """Of many servers with much to say each says less; the last lines are kept."""
        self.process.say(*(b"x" * 900 for _ in range(20)), b"the last one")
        self.process.exit(1)
        snapshots = Snapshots("box", "i", {}, HostMeter(self.clock))
        report = snapshots.take([self.server] * 8, ())
        self.assertLess(len(encode(report)), 32 * 1024)
        for backend in report.backends:
            assert backend.last_exit is not None
            self.assertEqual(backend.last_exit.lines[-1], "the last one")

    def test_memory_of_a_gpu_is_known_as_our_servers(self) -> None:
        """By the process itself, or by who leads its session."""
        leader = subprocess.Popen(
            ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True
        )
        self.addCleanup(leader.communicate)
        self.addCleanup(os.killpg, leader.pid, signal.SIGKILL)
        forked = int(leader.stdout.readline())  # type: ignore[union-attr]
        self.process._child.pid = leader.pid
        held = [GpuProcess("ours", leader.pid), GpuProcess("forked", forked)]
        gpu = GpuReport(uuid="GPU-a", processes=(*held, GpuProcess("ollama", 2**22 + 1)))
        report = Snapshots("box", "i", {}, HostMeter(self.clock)).take([self.server], [gpu])
        owners = [each.backend for each in report.gpus[0].processes or ()]
        self.assertEqual(owners, ["gpu0", "gpu0", ""])

    def test_a_server_without_a_door_is_not_reported(self) -> None:
        """Before the first start there is nothing that a gateway could use."""
        waiting = Server(self.server.run, means(self.clock, self.ground, self.probe), self._changed)
        self.assertIsNone(backend_report(waiting))
