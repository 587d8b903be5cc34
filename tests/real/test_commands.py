"""An operator's verbs, from the command line through a gateway to a node, and back."""

import json
import os
import signal
import subprocess
import sys
from typing import Any, ClassVar

from tests.real.harness import (
    LLAMA_SERVER,
    TWISTD,
    Program,
    RealTestCase,
    Server,
    ask,
    eventually,
    free_port,
)

CONFIG = """\
roles: {coder: tiny}
gateway: {drain: 1s, keys: {file: keys.yaml}, nodes: {tokens: {file: nodes.yaml}}}
"""
CLI = (sys.executable, "-m", "rolemesh.cli.main")
QUESTION = {"model": "coder", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


class OperatorTests(RealTestCase):
    """One gateway with keys, one node with a token, one model."""

    gateway: ClassVar[Server]
    node: ClassVar[Program]
    client: ClassVar[str]
    admin: ClassVar[str]

    @classmethod
    def furnish(cls) -> None:
        shop = cls.workshop
        cls.client = cls.made("--name", "test", file="keys.yaml")
        cls.admin = cls.made("--admin", "--name", "me", file="keys.yaml")
        shop.file("node.token", cls.made("--node", "box", file="nodes.yaml"))
        cls.gateway = shop.gateway(CONFIG)
        cls.node = shop.node(json.dumps(cls.settings_of(str(shop.model()))))
        cls.node.until("coder is ready", cls.ready)

    @classmethod
    def settings_of(cls, model: str) -> dict[str, Any]:
        first = free_port()
        entry = {"id": "cpu", "model": "tiny", "file": model, "slots": 2, "context": 4096}
        return {
            "gateway": cls.gateway.url,
            "name": "box",
            "token": {"file": "node.token"},
            "llama_server": list(LLAMA_SERVER),
            "ports": f"{first}-{first + 5}",
            "run": [{**entry, "args": ["-t", "1", "--no-warmup", "--jinja"]}],
        }

    @classmethod
    def made(cls, *words: str, file: str) -> str:
        path = str(cls.workshop.folder / file)
        made = cls.cli("keys", "add", "--file", path, *words)
        return made.stdout.strip()

    @classmethod
    def cli(cls, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*CLI, *words], capture_output=True, text=True, timeout=60)

    def verb(self, *words: str, code: int = 0, key: str | None = None) -> str:
        done = self.cli(*words, "--url", self.gateway.url, "--key", key or self.admin)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout or done.stderr

    @classmethod
    def ready(cls) -> bool:
        told = ask(f"{cls.gateway.url}/ready", authorization=f"Bearer {cls.client}").json()
        found = told["roles"].get("coder")
        return bool(found and found["ready"])

    def answer(self, patience: int = 30) -> int:
        """The status of a chat whose client waits so many seconds."""
        bearer = {"authorization": f"Bearer {self.client}"}
        bearer["x-stainless-read-timeout"] = str(patience)
        return ask(f"{self.gateway.url}/v1/chat/completions", QUESTION, **bearer).status

    def state(self) -> str:
        return str(next(self.workshop.folder.glob("n[0-9]*")))

    def local(self) -> Any:
        told = self.cli("node", "status", "--state", self.state(), "--json")
        self.assertEqual(told.returncode, 0, told.stderr)
        return json.loads(told.stdout)

    def test_drain_and_resume(self) -> None:
        """A drained backend takes nothing new once the command returns, and says why; resumed, it
        serves again."""
        told = self.verb("drain", "box/cpu", "--for", "2h", "--reason", "new fan")
        self.assertIn("box/cpu takes no new requests (new fan, until 20", told)
        self.assertEqual(self.answer(1), 503)
        self.assertIn("draining (new fan", self.verb("status", code=1, key=self.client))
        self.assertEqual(self.local()["servers"][0]["state"], "ready")
        self.assertIn("takes requests", self.verb("resume", "box"))
        self.assertEqual(self.answer(), 200)

    def test_drain_outlives_a_reboot(self) -> None:
        """A node that starts again is still drained, in the gateway's eyes too."""
        self.verb("drain", "box", "--reason", "moving house")
        before = self.registered()
        self.node.stop()
        config = str(next(self.workshop.folder.glob("node-*.yaml")))
        argv = [*TWISTD, "rolemesh-node", "--config", config, "--state", self.state()]
        type(self).node = self.workshop.start("node", argv)
        self.assertEqual(self.local_when("starts")["draining"], "moving house")
        self.node.until("it registers again", lambda: self.registered() > before)
        self.node.until("it is drained there", lambda: "draining (moving" in self.status())
        self.assertEqual(self.answer(1), 503)
        self.verb("resume", "box")
        self.node.until("coder is ready", self.ready)

    def registered(self) -> int:
        return self.gateway.program.text().count("box registered")

    def local_when(self, what: str) -> Any:
        def first() -> Any:
            told = self.cli("node", "status", "--state", self.state(), "--json")
            return told.returncode == 0 and json.loads(told.stdout)["servers"]

        return eventually(what, first)[0]

    def status(self) -> str:
        return self.cli("status", "--url", self.gateway.url, "--key", self.client).stdout

    def pid(self) -> Any:
        return self.local()["servers"][0]["pid"]

    def test_restart(self) -> None:
        """A restart makes another process of the same entry, at once."""
        before = self.pid()
        self.assertIn("box/cpu was ready, and restarts", self.verb("restart", "box/cpu"))
        eventually("another process", lambda: self.pid() not in (None, before))
        eventually("it is ready", lambda: self.local()["servers"][0]["state"] == "ready")
        self.node.until("coder is ready", self.ready)
        self.assertTrue(self.local()["servers"][0]["last_exit"].startswith("ordered: "))

    def test_logs(self) -> None:
        """The last lines come through the gateway, and with -f the next ones as they come."""
        lines = self.verb("logs", "box/cpu", "-n", "5").splitlines()
        self.assertEqual(len(lines), 5)
        argv = [*CLI, "logs", "box/cpu", "-f", "-n", "1", "--url", self.gateway.url]
        following = self.workshop.start("logs", [*argv, "--key", self.admin])
        following.until("its last line", lambda: following.text().count("\n") >= 1)
        seen = following.text()
        self.assertEqual(self.answer(), 200)
        following.until("a line about the request", lambda: len(following.text()) > len(seen))
        following.signal(signal.SIGINT)
        self.assertEqual(following.wait(), 130)

    def test_logs_outlive_a_gateway(self) -> None:
        """With -f the log goes on when its gateway is back, behind the line that was shown last:
        what it has shown then is what the node remembers, each line once."""
        argv = [*CLI, "logs", "box/cpu", "-f", "--url", self.gateway.url, "--key", self.admin]
        following = self.workshop.start("logs", argv)
        following.until("its first lines", lambda: following.text().count("\n") >= 5)
        self.gateway.program.signal(signal.SIGKILL)
        self.assertEqual(self.gateway.program.wait(), -signal.SIGKILL)
        following.until("it says so", lambda: "once that is over" in following.text())
        port = int(self.gateway.url.rpartition(":")[2])
        type(self).gateway = self.workshop.gateway(CONFIG, port)
        following.until("it goes on", lambda: "here it goes on" in following.text())
        self.node.until("coder is ready", self.ready)
        self.assertEqual(self.answer(), 200)
        following.until("all lines", lambda: self.remembered() == self.shown(following))
        following.signal(signal.SIGINT)
        self.assertEqual(following.wait(), 130)

    def remembered(self) -> list[str]:
        return self.verb("logs", "box/cpu").splitlines()

    def shown(self, following: Program) -> list[str]:
        """As many lines as the node remembers, without those of the command itself."""
        lines = following.text().splitlines()
        of_the_server = [line for line in lines if not line.startswith("rolemesh logs: ")]
        return of_the_server[-len(self.remembered()) :]

    def test_A40_only_what_the_file_names(self) -> None:
        """A backend that the node's file does not name, and a command line, come to nothing."""
        self.assertIn("has no backend 'cpi'", self.verb("restart", "box/cpi", code=1))
        self.assertIn("did you mean 'cpu'?", self.verb("drain", "box/cpi", code=1))
        body = {"argv": ["/bin/sh"]}
        url = f"{self.gateway.url}/v1/backends/box/cpu/restart"
        refused = ask(url, body, authorization=f"Bearer {self.admin}")
        self.assertEqual((refused.status, refused.json()["error"]["code"]), (400, "bad_request"))

    def test_other_keys(self) -> None:
        """A client's key opens no operator's route, and an operator's key no role."""
        self.assertIn(
            "rolemesh keys add --admin", self.verb("drain", "box", code=1, key=self.client)
        )
        self.assertIn("401", self.verb("models", code=1, key=self.admin))

    def test_local_socket(self) -> None:
        """The node's socket is for its owner and group, and shows the argv without a key."""
        socket = f"{self.state()}/node.sock"
        self.assertEqual(os.stat(socket).st_mode & 0o777, 0o660)
        argv = self.cli("node", "argv", "cpu", "--state", self.state()).stdout
        self.assertIn("--alias tiny", argv)
        self.assertNotIn("key", argv)
        self.assertIn("registered", self.cli("node", "status", "--state", self.state()).stdout)


class AloneTests(RealTestCase):
    """A node whose gateway is not there."""

    def test_status_without_a_gateway(self) -> None:
        """The node tells how it is while every gateway is away."""
        nobody = Server(None, "http://127.0.0.1:9")  # type: ignore[arg-type]  # nobody is there
        node = self.workshop.mesh_node(nobody, self.workshop.model())
        state = str(self.workshop.folder / "n0")
        asked = [*CLI, "node", "status", "--state", state]

        def told() -> str:
            return subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout

        node.until("its server is ready", lambda: "cpu (tiny): ready" in told())
        node.until("it has tried", lambda: "unreachable for " in told())
        self.assertIn("last trouble: not told: ", told())
