"""A box joins from another machine, as far as a network namespace of its own is one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from secrets import token_hex

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.real.harness import TWISTD, Program, Workshop, need_llama

ROLEMESH = (sys.executable, "-m", "rolemesh.cli.main")
GATEWAY, BOX = "10.231.77.1", "10.231.77.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class NetworkTests(SynchronousTestCase):
    """Two namespaces with a wire between them."""

    def setUp(self) -> None:
        need_llama()
        name = token_hex(4)  # pids are others' too, in other namespaces
        self.spaces = [f"rolemesh-{name}-{end}" for end in ("gw", "box")]
        try:
            self.lay_wire()
        except (OSError, subprocess.CalledProcessError) as problem:
            raise SkipTest(f"no network namespaces can be made here: {problem}") from None
        self.workshop = Workshop()
        self.addCleanup(self.workshop.close)

    def lay_wire(self) -> None:
        gateway, box = self.spaces
        for space in self.spaces:
            ip("netns", "add", space)
            self.addCleanup(ip, "netns", "del", space)
        wire = ("link", "add", "end0", "netns", gateway)
        ip(*wire, "type", "veth", "peer", "name", "end1", "netns", box)
        for space, end, address in ((gateway, "end0", GATEWAY), (box, "end1", BOX)):
            ip("-n", space, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", end, "up")

    def start(self, name: str, space: str, argv: list[str], **environment: str) -> Program:
        return self.workshop.start(name, ["ip", "netns", "exec", space, *argv], **environment)

    def rolemesh(self, *words: str) -> str:
        command = ["ip", "netns", "exec", self.spaces[0], *ROLEMESH, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout.strip()

    def test_from_another_machine(self) -> None:
        """Its llama-server binds to the address by which it reaches the gateway, with no word
        about that in any file, and answers clients of the gateway."""
        gateway, box = self.spaces
        listen = f"tcp:8000:interface={GATEWAY}"
        places = "keys: {file: keys.yaml}, nodes: {tokens: {file: nodes.yaml}}"
        config = self.workshop.file("models.yaml", f"gateway: {{listen: '{listen}', {places}}}\n")
        keys = str(config.with_name("keys.yaml"))
        key = self.rolemesh("keys", "add", "--file", keys, "--name", "me")
        line = self.rolemesh("invite", "box2", "--config", str(config), "--roles", "coder")
        served = [*TWISTD, "rolemesh-gateway", "--config", str(config)]
        program = self.start("gateway", gateway, [*served, "--state", str(config.parent / "gw")])
        program.until("the gateway listens", lambda: "listening on" in program.text())
        joining = self.join(box, line)
        joining.until("it is in", lambda: "box2 is in: coder ready 1/1" in joining.text())
        told = self.rolemesh("smoke", f"http://{GATEWAY}:8000", "--key", key)
        self.assertIn("0 failed", told)
        listeners = subprocess.run(
            ["ip", "netns", "exec", box, "ss", "-Hltn"], capture_output=True, text=True, check=True
        )
        [where] = [line.split()[3] for line in listeners.stdout.splitlines()]
        self.assertTrue(where.startswith(f"{BOX}:"), where)

    def join(self, space: str, line: str) -> Program:
        home = self.workshop.folder / "box"
        (home / "models").mkdir(parents=True)
        shutil.copy(self.workshop.model(), home / "models" / "toy.gguf")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        shell = ["sh", "-c", f"cd {home} && exec {line}"]
        return self.start("join", space, shell, HOME=str(home), PATH=path, STATE_DIRECTORY="")
