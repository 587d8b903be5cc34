"""A box joins with the line that `rolemesh invite` prints, and nothing else."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace

from rolemesh.core.invites import read_code, write_code
from tests.real.harness import (
    TWISTD,
    Program,
    RealTestCase,
    ask,
    eventually,
    free_port,
    lives,
)

ROLEMESH = (sys.executable, "-m", "rolemesh.cli.main")
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
ENVIRONMENT = {**os.environ, "ROLEMESH_CA": "", "ROLEMESH_PIN": "", "STATE_DIRECTORY": ""}


def rolemesh(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command that ends by itself."""
    return subprocess.run(
        [*ROLEMESH, *words],
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class JoinCase(RealTestCase):
    """One gateway that asks for tokens, and boxes that are folders with a model each."""

    config: ClassVar[Path]
    port: ClassVar[int]
    scheme: ClassVar[str] = "http"
    boxes: ClassVar[int] = 0

    @classmethod
    def furnish(cls) -> None:
        cls.port = free_port()
        cls.config = cls.workshop.file("models.yaml", cls.text())
        # As on any gateway's box: the invite makes the file of tokens.
        cls.line_for("nobody")
        argv = [*TWISTD, "rolemesh-gateway", "--config", str(cls.config)]
        gateway = cls.workshop.start("gateway", [*argv, "--state", str(cls.workshop.folder / "gw")])
        gateway.until("the gateway listens", lambda: "listening on" in gateway.text())

    @classmethod
    def text(cls) -> str:
        return (
            f"gateway:\n  listen: tcp:{cls.port}:interface=127.0.0.1\n"
            "  nodes: {tokens: {file: nodes.yaml}}\n"
        )

    @classmethod
    def line_for(cls, node: str, *more: str) -> str:
        """What `rolemesh invite` prints."""
        made = rolemesh("invite", node, "--config", str(cls.config), *more)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def box(self) -> Path:
        """The home of a new box, with a model in it."""
        type(self).boxes += 1
        home = self.workshop.folder / f"box{self.boxes}"
        (home / "models").mkdir(parents=True)
        shutil.copy(self.workshop.model(), home / "models" / "Toy-1B-Q8_0.gguf")
        return home

    def run_line(self, line: str, home: Path) -> Program:
        """The line as a person runs it, in the home of a box."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        argv = ["sh", "-c", f"cd {home} && exec {line}"]
        unset = {"ROLEMESH_CA": "", "ROLEMESH_PIN": "", "STATE_DIRECTORY": ""}
        return self.workshop.start("join", argv, HOME=str(home), PATH=path, **unset)

    def refused(self, line: str, home: Path) -> str:
        """What a box is told whose line is not taken."""
        joining = self.run_line(line, home)
        self.assertEqual(joining.wait(), 1, joining.tail())
        self.assertEqual(list((home / ".config/rolemesh").glob("*.yaml")), [])
        return joining.text()


class JoinTests(JoinCase):
    """Over plain HTTP."""

    def ask(self, role: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        return ask(url, {"model": role, **CHAT})

    def test_the_line_and_nothing_else(self) -> None:
        """The box looks at itself, gets its token, serves, and goes on until Ctrl-C; where others
        use the usual ports it takes others."""
        home = self.box()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):  # then somebody else has it, which is as good
                other.bind(("127.0.0.1", 18100))
                other.listen()
            joining = self.run_line(self.line_for("box2", "--roles", "coder"), home)
            joining.until("it is in", lambda: "box2 is in: coder ready 1/1\n" in joining.text())
        self.assertEqual(self.ask("coder").status, 200)
        self.assertEqual(self.ask("toy-1b").status, 404)
        folder = home / ".config/rolemesh"
        self.assertEqual((folder / "node.token").stat().st_mode & 0o777, 0o600)
        self.assertRegex((folder / "node_agent.yaml").read_text(), r"\nports: \d+-\d+ ")
        family = joining.descendants()
        self.assertGreater(len(family), 1)
        joining.signal(signal.SIGINT)
        self.assertEqual(joining.wait(), 0, joining.tail())
        self.assertNotIn("Traceback", joining.text())
        eventually("all are gone", lambda: not any(map(lives, family)))

    def test_again(self) -> None:
        """A second run of the same line is harmless, also when the invite is gone by then."""
        home, line = self.box(), self.line_for("box3")
        self.assertEqual(self.run_line(f"{line} --no-start", home).wait(), 0)
        file = home / ".config/rolemesh/node_agent.yaml"
        text, token = file.read_text(), (home / ".config/rolemesh/node.token").read_text()
        self.expire_all()
        again = self.run_line(f"{line} --once", home)
        self.assertEqual(again.wait(), 0, again.tail())
        self.assertIn("box3 is in: toy-1b ready 1/1", again.text())
        self.assertEqual(file.read_text(), text)
        self.assertEqual((home / ".config/rolemesh/node.token").read_text(), token)

    def test_after_a_crash(self) -> None:
        """A box that died before it wrote its file has its token, and goes on with it."""
        home, line = self.box(), self.line_for("box10")
        self.assertEqual(self.run_line(f"{line} --no-start", home).wait(), 0)
        folder = home / ".config/rolemesh"
        (folder / "node_agent.yaml").unlink()
        again = self.run_line(f"{line} --no-start", home)
        self.assertEqual(again.wait(), 0, again.tail())
        self.assertTrue((folder / "node_agent.yaml").exists())

    def test_after_init(self) -> None:
        """A file that is there is made to belong to the gateway, and kept beside as it was."""
        home = self.box()
        self.assertEqual(
            rolemesh("init", "--dir", str(home / "configs"), HOME=str(home)).returncode, 0
        )
        file = home / "configs/node_agent.yaml"
        before = file.read_text()
        state = home / "my state"
        joined = self.run_line(f"{self.line_for('box4')} --no-start --state '{state}'", home)
        self.assertEqual(joined.wait(), 0, joined.tail())
        self.assertIn(f"--config {file} --state '{state}'", joined.text())
        self.assertEqual((home / "configs/node_agent.yaml.before-join").read_text(), before)
        self.assertIn(f"gateway: http://127.0.0.1:{self.port}\n", file.read_text())
        self.assertIn("name: box4\ntoken: {file: node.token}\n", file.read_text())

    def test_used(self) -> None:
        """The first box has it; the second is told so, and writes no configuration."""
        line = self.line_for("box5")
        self.assertEqual(self.run_line(f"{line} --no-start", self.box()).wait(), 0)
        self.assertIn("was used already", self.refused(line, self.box()))

    def test_expired(self) -> None:
        """By the gateway's clock; a code that says so itself is told with its time."""
        line = self.line_for("box6")
        self.expire_all()
        self.assertIn("make another one there", self.refused(line, self.box()))
        old = write_code(replace(read_code(line.split()[-1]), until=1))
        told = self.refused(f"rolemesh join {old}", self.box())
        self.assertIn("this invite expired at 1970-01-01 00:00 UTC", told)

    def test_nothing_to_run(self) -> None:
        """A box without models is told what to do, and the invite waits until it has one."""
        home, line = self.box(), self.line_for("box7")
        model = home / "models/Toy-1B-Q8_0.gguf"
        model.rename(home / "elsewhere")
        self.assertIn("the same line may be run again", self.refused(line, home))
        (home / "elsewhere").rename(model)
        self.assertEqual(self.run_line(f"{line} --no-start", home).wait(), 0)

    def test_no_gateway(self) -> None:
        """Where none answers, each URL is told with what happened there."""
        code = read_code(self.line_for("box8").split()[-1])
        line = write_code(replace(code, urls=(f"http://127.0.0.1:{free_port()}",)))
        told = self.refused(f"rolemesh join {line}", self.box())
        self.assertIn("no gateway at http://127.0.0.1:", told)

    def test_damaged(self) -> None:
        """A line that was not copied whole is known by that."""
        line = self.line_for("box9")
        self.assertIn("copy all of the line", self.refused(line[:-7], self.box()))

    def expire_all(self) -> None:
        """Let all invites of the gateway end."""
        tokens = self.config.with_name("nodes.yaml")
        over = re.sub(r'expires_at: ".*"', 'expires_at: "2001-01-01T00:00:00Z"', tokens.read_text())
        tokens.write_text(over)


class SecureJoinTests(JoinCase):
    """Over TLS, with a certificate that no box knows but by the pin in the line."""

    @classmethod
    def text(cls) -> str:
        folder = cls.workshop.folder / "pki"
        for words in (("init", str(folder)), ("issue", "127.0.0.1", "--dir", str(folder))):
            made = rolemesh("pki", *words)
            assert made.returncode == 0, made.stderr
        [cert] = [each for each in folder.glob("*.pem") if each.stem != "ca"]
        return (
            f"gateway:\n  listen:\n    - endpoint: tcp:{cls.port}:interface=127.0.0.1\n"
            f"      tls: {{cert: {cert}, key: {cert.with_suffix('.key')}}}\n"
            "  nodes: {tokens: {file: nodes.yaml}}\n"
        )

    def test_pinned(self) -> None:
        """The line carries the pin, and the node's file keeps it."""
        home, line = self.box(), self.line_for("box2", "--roles", "coder")
        invite = read_code(line.split()[-1])
        self.assertEqual(invite.urls, (f"https://127.0.0.1:{self.port}",))
        joining = self.run_line(f"{line} --once", home)
        self.assertEqual(joining.wait(), 0, joining.tail())
        self.assertIn("box2 is in: coder ready 1/1", joining.text())
        self.assertIn(invite.pin, (home / ".config/rolemesh/node_agent.yaml").read_text())

    def test_wrong_pin(self) -> None:
        """Whoever answers with another key is told nothing, and the invite stays good."""
        home, line = self.box(), self.line_for("box3")
        invite = read_code(line.split()[-1])
        wrong = write_code(replace(invite, pin="sha256:" + "A" * 43 + "="))
        told = self.refused(f"rolemesh join {wrong}", home)
        self.assertIn("not the one that is pinned", told)
        self.assertEqual(self.run_line(f"{line} --no-start", home).wait(), 0)
