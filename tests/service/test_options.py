"""The promises of `rolemesh.service.options`, and of both programs under twistd."""

import fcntl
import json
import os
import signal
from threading import Timer

from rolemesh.service.exits import LOCKED, MISCONFIGURED, OK
from tests.service.probe import PATIENCE, Case, Program


class LogTests(Case):
    def test_json_lines(self) -> None:
        """With -n each line of standard output is a JSON object, from the first to the last."""
        program = self.start()
        program.until("running")
        program.process.send_signal(signal.SIGTERM)
        program.end()
        self.assertIn("starting up", program.messages()[0])
        self.assertEqual(program.messages()[-1], "Server Shut Down.")
        for line in program.lines:
            self.assertLessEqual({"@timestamp", "log.level", "log.logger", "message"}, line.keys())

    def test_no_secrets(self) -> None:
        """A key that is logged never reaches the output."""
        program = self.start()
        program.until("running")
        program.process.send_signal(signal.SIGHUP)
        program.until("reloading")
        self.assertEqual(program.lines[-1]["probe.key"], "rmk_***")

    def test_choice_of_the_user(self) -> None:
        """`--logfile FILE` has the JSON lines in that file; `--logger` has them as it likes."""
        for chosen in (("--logfile", "log"), ("--logger", "twisted.logger.STDLibLogObserver")):
            program = self.start("tcp:-1", twistd=("-n", *chosen))
            program.end()
            self.assertEqual(program.lines, [])
        first = (self.folder / "log").read_text().splitlines()[0]
        self.assertIn("starting up", json.loads(first)["message"])


class RefusalTests(Case):
    def refused(self, program: Program, code: int) -> list[str]:
        """What it says on standard error, having ended with the code and without a log."""
        ended, errors = program.end()
        self.assertEqual(ended, code, errors)
        self.assertEqual(program.lines, [])
        return errors

    def test_locked(self) -> None:
        """A second program on one state folder exits 75 in one line that names the first one."""
        first = self.start()
        first.until("running")
        [line] = self.refused(self.start(), LOCKED)
        self.assertIn(f"process {first.process.pid};", line)

    def test_no_configuration(self) -> None:
        """Without a configuration: one line that lists what was tried, exit 78."""
        [line] = self.refused(self.twistd("-n", "probe"), MISCONFIGURED)
        for tried in ("configs/probe.yaml", ".config/rolemesh/probe.yaml", "/etc/rolemesh/probe"):
            self.assertIn(tried, line)

    def test_wrong_configuration(self) -> None:
        """Each problem of a configuration is one line, and nothing else is said."""
        lines = self.refused(self.start("wrong"), MISCONFIGURED)
        self.assertEqual(lines, ["probe.yaml:1:1: cannot be", "probe.yaml:2:1: cannot be"])

    def test_wrong_option(self) -> None:
        """An option that does not exist is one line, and no page of help."""
        for wrong in ("--bogus", "--config", "word"):
            [line] = self.refused(self.twistd("-n", "probe", wrong), MISCONFIGURED)
            self.assertIn(wrong.lstrip("-"), line)

    def test_wrong_endpoint(self) -> None:
        """An endpoint that cannot be is told before anything starts."""
        [line] = self.refused(self.start("tpc:8000"), MISCONFIGURED)
        self.assertIn("'tpc:8000'", line)

    def test_state_folder(self) -> None:
        """A state folder that cannot be made is one line."""
        (self.folder / "state").write_text("a file")
        [line] = self.refused(self.start(), MISCONFIGURED)
        self.assertIn("--state", line)


class PluginTests(Case):
    """The gateway and the node agent themselves."""

    PROGRAMS = (
        ("rolemesh-gateway", "roles: {planner: http://127.0.0.1:9}", "listening on"),
        ("rolemesh-node", "gateway: http://127.0.0.1:9", "not told"),
    )

    def start_plugin(self, name: str, settings: str) -> Program:
        (self.folder / "settings.yaml").write_text(settings)
        options = ["--listen", "tcp:0:interface=127.0.0.1"] if name == "rolemesh-gateway" else []
        return self.twistd("-n", name, "-c", "settings.yaml", "--state", "state", *options)

    def test_terminated(self) -> None:
        """Both end with 0 after SIGTERM, and say nothing but JSON lines."""
        for name, settings, sign in self.PROGRAMS:
            program = self.start_plugin(name, settings)
            program.until(sign)
            program.process.send_signal(signal.SIGTERM)
            self.assertEqual(program.end(), (OK, []))

    def test_wrong_configuration(self) -> None:
        """Both end with 78 and one line for each problem of their configuration."""
        for name, _, _ in self.PROGRAMS:
            code, errors = self.start_plugin(name, "bogus: 1\nwrong: 2").end()
            self.assertEqual(code, MISCONFIGURED)
            self.assertTrue(all("settings.yaml:" in line for line in errors), errors)
            self.assertGreaterEqual(len(errors), 2)


class DaemonTests(Case):
    def test_daemon(self) -> None:
        """Without -n all that it writes is in the state folder, which is private."""
        self.assertEqual(self.start(twistd=()).end(), (OK, []))
        pid = int((self.folder / "state/probe.pid").read_text())
        killer = Timer(PATIENCE, os.kill, (pid, signal.SIGKILL))
        killer.start()
        self.addCleanup(killer.cancel)
        second, [line] = self.start(twistd=()).end()
        os.kill(pid, signal.SIGTERM)
        self.assertEqual(second, LOCKED)
        self.assertIn(f"process {pid};", line)
        with (self.folder / "state/probe.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # had once the daemon has ended
        state = self.folder / "state"
        self.assertEqual(sorted(os.listdir(state)), ["probe.lock", "probe.log"])
        self.assertEqual(state.stat().st_mode & 0o777, 0o700)
        log = (state / "probe.log").read_text().splitlines()
        self.assertIn("drained", [json.loads(line)["message"] for line in log])
