"""The promises of `rolemesh.service.signals`: row A31 among them."""

import json
import signal
import time
from collections.abc import Callable

from rolemesh.service.exits import OK
from tests.service.probe import Case, Program


class SignalTests(Case):
    def asked_to_stop(self, number: signal.Signals, settings: str = "") -> Program:
        program = self.start(settings)
        program.until("running")
        program.process.send_signal(number)
        program.until("draining")
        return program

    def test_terminated(self) -> None:
        """The first SIGTERM lets the services drain; the exit code is 0."""
        program = self.asked_to_stop(signal.SIGTERM)
        self.assertEqual(program.end(), (OK, []))
        self.assertIn("drained", program.messages())

    def test_interrupted(self) -> None:
        """Ctrl-C does as SIGTERM does."""
        program = self.asked_to_stop(signal.SIGINT)
        self.assertEqual(program.end(), (OK, []))
        self.assertIn("drained", program.messages())

    def test_terminated_twice(self) -> None:
        """The second SIGTERM hurries and ends the process, whatever still drains."""
        program = self.asked_to_stop(signal.SIGTERM, "stuck")
        program.process.send_signal(signal.SIGTERM)
        self.assertEqual(program.end(), (OK, []))
        self.assertEqual(
            program.messages()[-3:],
            ["SIGTERM again: ending at once", "hurried", "the process ends with exit code 0"],
        )

    def test_no_pidfile(self) -> None:
        """With -n no pidfile is written, neither here nor in the state folder."""
        program = self.start()
        program.until("running")
        self.assertEqual([path.name for path in self.folder.rglob("*.pid")], [])

    def test_reload(self) -> None:
        """SIGHUP reloads; a reload that fails is logged, and the program goes on."""
        program = self.start("stubborn")
        program.until("running")
        for _ in range(2):
            program.process.send_signal(signal.SIGHUP)
            program.until("reloading")
        program.process.send_signal(signal.SIGTERM)
        self.assertEqual(program.end(), (OK, []))
        errors = [line for line in program.lines if "error.type" in line]
        self.assertEqual([line["error.message"] for line in errors], ["no, thank you"] * 2)

    def test_A31_a_log_that_was_moved_away(self) -> None:
        """SIGUSR1 has the lines from then on in a fresh file of the old name."""
        program = self.start(twistd=("-n", "--logfile", "log"))
        log, moved = self.folder / "log", self.folder / "log.1"
        _eventually(lambda: log.exists() and "running" in log.read_text())
        log.rename(moved)
        program.process.send_signal(signal.SIGUSR1)
        _eventually(log.exists)
        program.process.send_signal(signal.SIGTERM)
        program.end()
        first, *_, last = log.read_text().splitlines()
        self.assertIn("the log goes on here", json.loads(first)["message"])
        self.assertEqual(json.loads(last)["message"], "Server Shut Down.")
        self.assertNotIn("Server Shut Down", moved.read_text())


def _eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen")
        time.sleep(0.02)
