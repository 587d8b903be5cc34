"""The units for systemd, and both programs as units, with the test in systemd's place."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.real.harness import Server, Workshop, answers, ask, eventually, free_port, need

CONFIGS = Path(__file__).parent.parent.parent / "configs"
CONFIG = "roles: {coder: http://127.0.0.1:9}\n"
EXPOSED = {"rolemesh-gateway.service": 1.5, "rolemesh-node.service": 2.5}  # at most, of 10
NO_PROGRAM = "Command /opt/rolemesh/bin/twistd is not executable"


class UnitFileTests(SynchronousTestCase):
    """What `systemd-analyze` says of the two files."""

    def setUp(self) -> None:
        need(shutil.which("systemd-analyze") is not None, "systemd-analyze")

    def analyze(self, *arguments: str) -> str:
        ended = subprocess.run(
            ["systemd-analyze", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.stdout

    def test_they_are_understood(self) -> None:
        """Every line, but for the program, which is not installed here."""
        for name in EXPOSED:
            told = self.analyze("verify", str(CONFIGS / name)).splitlines()
            self.assertEqual([line for line in told if NO_PROGRAM not in line], [])

    def test_they_are_closed(self) -> None:
        """The score of `systemd-analyze security` is what the documentation promises."""
        for name, most in EXPOSED.items():
            told = self.analyze("security", "--offline=yes", str(CONFIGS / name))
            found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
            assert found is not None, told
            self.assertLessEqual(float(found[1]), most)


def stands(pid: int) -> bool:
    """Whether a signal holds a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class NotifyTests(SynchronousTestCase):
    """What each program says on systemd's socket."""

    def setUp(self) -> None:
        self.workshop = Workshop()
        self.addCleanup(self.workshop.close)
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.ear.close)
        path = str(self.workshop.folder / "notify")
        self.ear.bind(path)
        self.ear.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}
        self.heard: list[str] = []

    def hears(self, word: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.heard += self.ear.recv(1000).decode().splitlines()
        return word in self.heard

    def until(self, word: str) -> None:
        eventually(f"systemd hears {word}", lambda: self.hears(word))

    def test_P18_gateway(self) -> None:
        """Ready once it listens, alive, reloading and ready again, stopping."""
        gateway = self.workshop.gateway(CONFIG, None, **self.environ)
        self.until("READY=1")
        self.assertTrue(answers(f"{gateway.url}/health"))
        self.until("WATCHDOG=1")
        self.heard.clear()
        gateway.program.signal(signal.SIGHUP)
        self.until("READY=1")
        self.assertIn("RELOADING=1", self.heard)
        gateway.program.signal(signal.SIGTERM)
        self.until("STOPPING=1")
        self.assertEqual(gateway.program.wait(), 0)

    def test_P18_hanging(self) -> None:
        """A gateway that is stuck is not alive to systemd, although its process lives."""
        gateway = self.workshop.gateway(CONFIG, None, **self.environ)
        self.until("WATCHDOG=1")
        gateway.program.signal(signal.SIGSTOP)
        eventually("it stands", lambda: stands(gateway.program.pid))
        self.hears("")
        self.heard.clear()
        with self.assertRaises(AssertionError):
            eventually("it is alive", lambda: self.hears("WATCHDOG=1"), 1.0)
        gateway.program.signal(signal.SIGCONT)
        self.until("WATCHDOG=1")

    def test_node(self) -> None:
        """Ready although no gateway can be reached: its servers run all the same."""
        config = f"gateway: http://127.0.0.1:{free_port()}\n"
        node = self.workshop.node(config, **self.environ)
        self.until("READY=1")
        self.until("WATCHDOG=1")
        node.signal(signal.SIGTERM)
        self.until("STOPPING=1")
        self.assertEqual(node.wait(), 0)


class MemoryTests(SynchronousTestCase):
    """A gateway that may use less than it does."""

    def test_L16_short_of_memory(self) -> None:
        """New requests get 503, /health and /ready answer on, and the log says so once."""
        workshop = Workshop()
        self.addCleanup(workshop.close)
        gateway = workshop.gateway(f"{CONFIG}gateway: {{memory_max: 1MiB}}\n")
        body = {"model": "coder", "messages": []}
        answer = ask(f"{gateway.url}/v1/chat/completions", body)
        self.assertEqual(answer.status, 503)
        self.assertIn("short of memory", answer.json()["error"]["message"])
        self.assertTrue(answers(f"{gateway.url}/health"))
        gateway.program.until("the log says so", lambda: self.told(gateway))
        ask(f"{gateway.url}/v1/chat/completions", body)
        self.assertEqual(self.told(gateway), 1)

    def told(self, gateway: Server) -> int:
        return sum("memory is short" in event["message"] for event in gateway.program.events())
