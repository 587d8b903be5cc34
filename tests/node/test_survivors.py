"""What an earlier agent left: real processes are found by record, session or tag, and ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from attrs import evolve
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node import proc
from rolemesh.node.identity import Identity, Records, fingerprint, instance_of
from rolemesh.node.survivors import Survivors

SLEEP = "import time; print(1, flush=True); time.sleep(60)"
FORKS = (
    "import os, subprocess, sys, time; "
    f"grandchild = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True); "
    "print(grandchild.pid, flush=True); time.sleep(60)"
)


def alive(pid: int) -> bool:
    found = proc.process(pid)
    return found is not None and not found.ended


class SurvivorsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.state = folder
        self.records = Records(folder / "servers")
        self.instance = instance_of(folder)
        self.survivors = Survivors(self.records, self.instance)

    def child(self, tag: str | None = None, code: str = SLEEP) -> "subprocess.Popen[bytes]":
        """A process in a session of its own, that has said its first word."""
        env = dict(os.environ) if tag is None else {**os.environ, proc.VARIABLE: tag}
        command = [sys.executable, "-c", code]
        made = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, start_new_session=True)
        assert made.stdout is not None
        self.addCleanup(made.stdout.close)
        self.addCleanup(made.wait)
        self.addCleanup(made.kill)
        return made

    def first_word(self, child: "subprocess.Popen[bytes]") -> int:
        assert child.stdout is not None
        return int(child.stdout.readline())

    def record(self, pid: int, backend: str = "gpu0") -> Identity:
        found = proc.process(pid)
        assert found is not None
        return Identity(
            backend=backend,
            pid=pid,
            started=found.started,
            boot=proc.boot_id(),
            exe=sys.executable,
            argv_sha256=fingerprint(["llama-server"]),
            port=18100,
            gpus=("GPU-a",),
            instance=self.instance,
        )


class EndTests(SurvivorsTestCase):
    def test_A5_A20_a_recorded_server_is_ended(self) -> None:
        """It needs no tag: pid, start and boot are enough; then the record is gone too."""
        survivor = self.child()
        self.records.write(self.record(survivor.pid))
        self.assertEqual(self.survivors.end_all(), [])
        self.assertFalse(alive(survivor.pid))
        self.assertEqual(self.records.read(), [])

    def test_A5_a_server_is_found_by_its_tag_alone(self) -> None:
        """An agent that died before it could write leaves no record, but the tag is there."""
        survivor = self.child(self.survivors.tag("gpu0"))
        self.first_word(survivor)
        self.assertEqual(self.survivors.end("gpu0"), [])
        self.assertFalse(alive(survivor.pid))

    def test_A14_what_a_wrapper_forked_into_its_own_session_is_ended(self) -> None:
        """No group and no parent leads to it; its environment does."""
        wrapper = self.child(self.survivors.tag("gpu0"), FORKS)
        grandchild = self.first_word(wrapper)
        wrapper.kill()
        wrapper.wait()
        self.assertTrue(alive(grandchild))
        self.survivors.end("gpu0")
        self.assertFalse(alive(grandchild))

    def test_A14_what_hides_its_environment_is_known_by_its_session(self) -> None:
        """As long as the recorded server that leads the session lives."""
        forks = FORKS.replace("start_new_session=True", "env={}")
        leader = self.child(None, forks)
        member = self.first_word(leader)
        self.records.write(self.record(leader.pid))
        self.survivors.end("gpu0")
        self.assertFalse(alive(member))

    def test_A20_what_is_spared_lives_with_all_that_it_forked(self) -> None:
        """By its session and by its tag; its neighbour is ended, and its record stays."""
        kept = self.child(self.survivors.tag("gpu0"), FORKS)
        grandchild = self.first_word(kept)
        self.addCleanup(os.kill, grandchild, signal.SIGKILL)
        other = self.child(self.survivors.tag("gpu1"))
        self.first_word(other)
        self.records.write(self.record(kept.pid))
        self.records.write(self.record(other.pid, "gpu1"))
        spared = {"gpu0": self.survivors.recorded()["gpu0"]}
        self.assertEqual(self.survivors.end_all(spared), [])
        living = [alive(pid) for pid in (kept.pid, grandchild, other.pid)]
        self.assertEqual(living, [True, True, False])
        self.assertEqual(list(self.survivors.recorded()), ["gpu0"])

    def test_one_server_is_ended_and_its_neighbour_is_not(self) -> None:
        """Each has its own tag."""
        ours, other = (
            self.child(self.survivors.tag("gpu0")),
            self.child(self.survivors.tag("gpu01")),
        )
        self.first_word(ours)
        self.first_word(other)
        self.survivors.end("gpu0")
        self.assertEqual((alive(ours.pid), alive(other.pid)), (False, True))

    def test_A13_who_cannot_be_ended_is_told_and_stays_recorded(self) -> None:
        """A process that outlives SIGKILL is named, with the GPUs that it holds."""
        survivor = self.child()
        self.records.write(self.record(survivor.pid))
        self.patch(proc, "kill", lambda _: None)
        from rolemesh.node import survivors

        self.patch(survivors, "kill", lambda _: None)
        self.patch(survivors, "PATIENCE", 0.05)
        self.assertEqual(self.survivors.end("gpu0"), [survivor.pid])
        self.assertEqual(self.survivors.end_all(), [survivor.pid])
        self.assertEqual(self.survivors.gpus_of("gpu0"), ("GPU-a",))


class LeaveTests(SurvivorsTestCase):
    """Nobody else's process is touched."""

    def test_A22_a_pid_that_is_somebody_elses_now(self) -> None:
        """Another start time, or another boot: nothing is ended, and the record is dropped."""
        stranger = self.child()
        record = self.record(stranger.pid)
        for stale in (replace(record, started=record.started - 1), replace(record, boot="other")):
            self.records.write(stale)
            self.assertEqual(self.survivors.end_all(), [])
            self.assertTrue(alive(stranger.pid))
            self.assertEqual(self.records.read(), [])

    def test_another_agents_server_is_not_ours(self) -> None:
        """Its state folder has another word, however alike the rest."""
        neighbour = self.child(f"{'f' * 16}:gpu0")
        self.first_word(neighbour)
        self.survivors.end_all()
        self.assertTrue(alive(neighbour.pid))

    def test_the_agent_and_who_started_it_are_not_survivors(self) -> None:
        """An agent may be run from within what another one runs, and inherit its tag."""
        code = (
            "import subprocess, sys; from pathlib import Path; "
            "from rolemesh.node.identity import Records; "
            "from rolemesh.node.survivors import Survivors; "
            f"Survivors(Records(Path('none')), {self.instance!r}).end_all(); print(7)"
        )
        agent = self.child(self.survivors.tag("gpu0"), code)
        self.assertEqual(self.first_word(agent), 7)

    def test_A22_a_signal_goes_to_the_process_that_was_meant(self) -> None:
        """A pid that was used again meanwhile is left alone."""
        child = self.child()
        found = proc.process(child.pid)
        assert found is not None
        stale = evolve(found, started=found.started - 1)
        self.assertIsNone(proc.opened(stale))
        proc.kill(stale)
        with self.assertRaises(subprocess.TimeoutExpired):
            child.wait(0.2)


class RecordTests(SurvivorsTestCase):
    def test_a_record_is_read_as_it_was_written(self) -> None:
        """All of it, and private."""
        identity = self.record(os.getpid())
        self.records.write(identity)
        self.records.write(identity)
        self.assertEqual(self.records.read(), [identity])
        self.assertEqual((self.state / "servers").stat().st_mode & 0o77, 0)

    def test_a_record_that_was_cut_is_none(self) -> None:
        """A power cut may leave half a file."""
        self.records.write(self.record(os.getpid()))
        (self.state / "servers" / "gpu1.json").write_text('{"backend": "gp')
        self.assertEqual([each.backend for each in self.records.read()], ["gpu0"])

    def test_the_instance_is_the_same_at_each_start(self) -> None:
        """And another one in another folder."""
        other = Path(self.mktemp())
        other.mkdir()
        self.assertEqual(instance_of(self.state), self.instance)
        self.assertNotEqual(instance_of(other), self.instance)

    def test_A30_without_a_folder_there_is_an_instance_all_the_same(self) -> None:
        """A disk that takes nothing costs the record."""
        self.assertTrue(instance_of(Path("/proc/nowhere")))


class SignsTests(SynchronousTestCase):
    def test_A6_what_a_process_shows(self) -> None:
        """Memory, bytes read and processor time of one that runs, zeros of one that does not."""
        own = proc.signs(os.getpid())
        self.assertGreater(own.resident, 1 << 20)
        self.assertGreater(own.read, 0)
        self.assertGreater(own.cpu, 0)
        self.assertEqual(proc.signs(2**22 + 1), evolve(own, read=0, resident=0, cpu=0.0))
