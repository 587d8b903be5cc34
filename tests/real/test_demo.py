"""`rolemesh demo` and `rolemesh up` as a person runs them."""

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.real.harness import (
    LLAMA_SERVER,
    Program,
    RealTestCase,
    answers,
    ask,
    eventually,
    free_port,
    lives,
)

ROLEMESH = (sys.executable, "-m", "rolemesh.cli.main")
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


class Demo(RealTestCase):
    """The demo, with its cache in the folder for test models."""

    def demo(self, *arguments: str) -> Program:
        cache = str(Path(tempfile.gettempdir()) / "rolemesh-test-models")
        argv = [*ROLEMESH, "demo", *arguments]
        return self.workshop.start("demo", argv, XDG_CACHE_HOME=cache)

    def running(self) -> tuple[Program, str]:
        """A demo that is ready, and its URL."""
        port = free_port()
        demo = self.demo("--port", str(port))
        demo.until("it is ready", lambda: "Ready." in demo.text())
        return demo, f"http://127.0.0.1:{port}"

    def test_once(self) -> None:
        """`--once` exits 0, two servers have answered, and nothing is left behind."""
        demo = self.demo("--port", "0", "--once")
        family = demo.until("all run", lambda: _at_least(demo, 4))
        self.assertEqual(demo.wait(), 0, demo.tail())
        self.assertIn("2 servers answered: ", demo.text())
        self.assertIn("random words", demo.text())
        self.assertNotIn("FAILED", demo.text())
        eventually("all are gone", lambda: _none(family))

    def test_ctrl_c(self) -> None:
        """Ctrl-C: exit 0, what was asked is shown, and nothing is left behind."""
        demo, url = self.running()
        family = demo.descendants()
        self.assertEqual(ask(f"{url}/v1/chat/completions", {"model": "coder", **CHAT}).status, 200)
        demo.until("the request is shown", lambda: "coder  -> demo/builder  200" in demo.text())
        os.killpg(demo.pid, signal.SIGINT)
        self.assertEqual(demo.wait(), 0, demo.tail())
        self.assertNotIn("Traceback", demo.text())
        eventually("all are gone", lambda: _none(family))

    def test_ctrl_c_while_starting(self) -> None:
        """Ctrl-C before anything is ready ends it just as well."""
        demo = self.demo("--port", "0")
        demo.until("the gateway starts", lambda: "Starting the gateway" in demo.text())
        family = demo.until("it is there", demo.descendants)
        os.killpg(demo.pid, signal.SIGINT)
        self.assertEqual(demo.wait(), 0, demo.tail())
        self.assertNotIn("Ready.", demo.text())
        eventually("all are gone", lambda: _none(family))

    def test_killed_demo_leaves_nothing(self) -> None:
        """Also a demo that is killed takes its gateway, its agent and their servers along."""
        demo, _ = self.running()
        family = demo.descendants()
        demo.signal(signal.SIGKILL)
        demo.wait()
        eventually("all are gone", lambda: _none(family))

    def test_dead_gateway_ends_it(self) -> None:
        """When one of its programs ends, the demo says which, stops the rest, and exits 1."""
        demo, _ = self.running()
        family = demo.descendants()
        gateway = next(each for each in family if "rolemesh-gateway" in each.cmdline())
        gateway.kill()
        self.assertEqual(demo.wait(), 1)
        self.assertIn("the gateway ended with -9", demo.text())
        eventually("all are gone", lambda: _none(family))


class Up(RealTestCase):
    """`rolemesh up` with files of one's own."""

    def up(self, gateway: str, node: str) -> Program:
        options = ("--state", str(self.workshop.folder / f"up-{free_port()}"))
        files = (self.workshop.file("g.yaml", gateway), self.workshop.file("n.yaml", node))
        argv = [*ROLEMESH, "up", "--config", str(files[0]), "--node-config", str(files[1])]
        return self.workshop.start("up", [*argv, *options])

    def test_runs_both_until_sigterm(self) -> None:
        """The role of one's own file answers; SIGTERM ends both, exit 0."""
        port, first = free_port(), free_port()
        up = self.up(
            f"roles: {{planner: tiny}}\ngateway: {{listen: ['tcp:{port}:interface=127.0.0.1']}}",
            f"gateway: http://127.0.0.1:{port}\nports: {first}-{first + 5}\n"
            f"llama_server: {list(LLAMA_SERVER)}\n"
            f"run: [{{model: tiny, file: {self.workshop.model()}, context: 2k}}]",
        )
        url = f"http://127.0.0.1:{port}"
        up.until("it is ready", lambda: answers(f"{url}/ready"))
        self.assertEqual(
            ask(f"{url}/v1/chat/completions", {"model": "planner", **CHAT}).status, 200
        )
        family = up.descendants()
        self.assertEqual(up.stop(), 0, up.tail())
        eventually("all are gone", lambda: _none(family))

    def test_wrong_configuration_ends_it(self) -> None:
        """A file that cannot be used is told by file and line, and the exit code is 78."""
        up = self.up("rolls: {}", "gateway: http://127.0.0.1:1")
        self.assertEqual(up.wait(), 78)
        self.assertIn("g.yaml:1:1: ", up.text())


def _at_least(demo: Program, count: int) -> list[Any]:
    found = demo.descendants()
    return found if len(found) >= count else []


def _none(family: list[Any]) -> bool:
    return not any(map(lives, family))
