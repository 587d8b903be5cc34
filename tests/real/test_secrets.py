"""Secrets planted wherever there may be one, and a look at everything that comes out."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, ClassVar

from tests.bench.survival import well
from tests.doubles.pki import Pki
from tests.real.harness import (
    LLAMA_SERVER,
    Program,
    RealTestCase,
    Server,
    answers,
    ask,
    eventually,
    free_port,
    lives,
)

CHAT = "/v1/chat/completions"
CONFIG = """
roles:
  coder: tiny
  planner: {{use: [{{url: '{static}', key: {{env: PLANTED_BACKEND}}}}]}}
  writer: {{use: [{{url: 'http://127.0.0.1:9', key: {{file: backend.key}}}}]}}
gateway:
  drain: 1s
  keys: {{file: keys.yaml}}
  nodes: {{tokens: {{file: nodes.yaml}}}}
"""


def planted() -> str:
    """A secret that stands nowhere else, in the form of a provider's key."""
    return f"sk-{token_urlsafe(32)}"


class SecretsTests(RealTestCase):
    """A gateway, an agent with a server, and commands, with a secret in each place for one."""

    gateway: ClassVar[Server]
    static: ClassVar[Server]
    node: ClassVar[Program]
    secrets: ClassVar[dict[str, str]]
    said: ClassVar[list[str]]
    folder: ClassVar[Path]

    @classmethod
    def furnish(cls) -> None:
        shop, cls.folder, cls.said = cls.workshop, cls.workshop.folder, []
        cls.secrets = {
            name: planted() for name in ("env", "file", "backend", "run", "query", "body", "yaml")
        }
        cls.secrets |= {"database": token_urlsafe(24), "wrong": "rmk_aaaaaaaa_" + "w" * 43}
        cls.secrets["client"] = cls.minted("keys.yaml", "--name", "me")
        cls.secrets["admin"] = cls.minted("keys.yaml", "--admin", "--name", "boss")
        cls.secrets["token"] = cls.minted("nodes.yaml", "--node", "box")
        cls.secrets["other"] = cls.minted("nodes.yaml", "--node", "other")
        shop.file("backend.key", cls.secrets["file"])
        cls.static = shop.llama_server(shop.model())
        cls.gateway = shop.gateway(
            CONFIG.format(static=cls.static.url), PLANTED_BACKEND=cls.secrets["env"]
        )
        cls.node = shop.node(
            json.dumps(cls.node_settings(str(shop.model()))),
            PLANTED_TOKEN=cls.secrets["token"],
            ROLEMESH_KEY=cls.secrets["client"],
            ROLEMESH_STORE=f"postgresql://me:{cls.secrets['database']}@127.0.0.1:9/x",
        )
        cls.node.until("coder is ready", lambda: cls.ready("coder"))

    @classmethod
    def node_settings(cls, model: str) -> dict[str, Any]:
        entry = {"id": "cpu", "model": "tiny", "file": model, "slots": 2, "context": 4096}
        port = free_port()
        return {
            "gateway": cls.gateway.url,
            "name": "box",
            "token": {"env": "PLANTED_TOKEN"},
            "llama_server": list(LLAMA_SERVER),
            "ports": f"{port}-{port + 5}",
            "run": [
                {
                    **entry,
                    "env": {"HF_TOKEN": cls.secrets["run"]},
                    "args": ["-t", "1", "--no-warmup", "--jinja"],
                }
            ],
        }

    @classmethod
    def minted(cls, file: str, *words: str) -> str:
        """A new key, which is printed this one time."""
        argv = [sys.executable, "-m", "rolemesh.cli.main", "keys", "add", *words]
        argv += ["--file", str(cls.folder / file)]
        made = subprocess.run(argv, capture_output=True, text=True, check=True)
        cls.said.append(made.stderr)
        return made.stdout.strip()

    @classmethod
    def ready(cls, role: str) -> bool:
        told = cls.ask("/ready", cls.secrets["client"])
        return bool(json.loads(told)["roles"][role]["ready"])

    @classmethod
    def ask(cls, path: str, key: str = "", body: Any = None, method: str | None = None) -> str:
        """The body of an answer; all of the answer is among what was said."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = ask(cls.gateway.url + path, body, method, **headers)
        text = answer.body.decode()
        cls.said.append(f"{answer.status} {dict(answer.headers)} {text}")
        return text

    @classmethod
    def cli(cls, *words: str, key: str = "client") -> None:
        argv = [sys.executable, "-m", "rolemesh.cli.main", *words]
        environ = {**os.environ, "ROLEMESH_KEY": cls.secrets[key]}
        environ["ROLEMESH_ADMIN_KEY"] = cls.secrets["admin"]
        environ["PLANTED_BACKEND"] = cls.secrets["env"]
        done = subprocess.run(
            argv, capture_output=True, text=True, env=environ, cwd=cls.folder, timeout=60
        )
        cls.said += [done.stdout, done.stderr]

    def logs(self) -> str:
        return "\n".join(program.text() for program in self.workshop.programs)

    def own_key(self) -> str:
        """The key that the agent made for its server, from where the server has it."""
        with sqlite3.connect(self.database()) as database:
            [[text]] = database.execute("SELECT registration FROM nodes WHERE node = 'box'")
        [backend] = json.loads(text)["backends"]
        return str(backend["key"])

    def database(self) -> Path:
        return self.folder / f"gateway-{self.gateway.url.rpartition(':')[2]}" / "state.db"

    def config(self) -> Path:
        return self.folder / f"models-{self.gateway.url.rpartition(':')[2]}.yaml"

    def assert_unsaid(self, *texts: str) -> None:
        whole = "\n".join(texts)
        for name, secret in {**self.secrets, "server": self.own_key()}.items():
            told = secret[13:] if secret.startswith("rm") else secret
            before, found, _ = whole.partition(told[-20:])
            self.assertFalse(found, f"{name}: {before[-300:]}")
        self.assertNotIn("PRIVATE KEY", whole)

    # What is done with them

    def test_requests(self) -> None:
        """Neither good requests nor bad ones, with keys in every wrong place, nor the records,
        lists and explanations of them, show one."""
        client, body = self.secrets["client"], self.secrets["body"]
        chat = {"model": "coder", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        for model in ("coder", "planner", "writer", "nobody", self.secrets["query"]):
            for more in ({}, {"stream": True}, {"api_key": body, "lora": body}, {"n_discard": 1}):
                self.ask(CHAT, client, {**chat, **more, "model": model})
        for key in ("", *map(self.secrets.get, ("wrong", "admin", "token", "query"))):
            self.ask(CHAT, key or "", chat)
            self.ask("/v1/models", key or "")
        self.ask(f"/v1/models?key={client}&api_key={self.secrets['query']}")
        self.ask(f"/v1/{client}/x", client)
        for path in ("/v1/models", "/v1/nodes", "/ready", "/v1/requests/last", "/v1/usage", "/"):
            self.ask(path, client)
        self.ask("/v1/roles/coder/explain", client, {})
        self.assert_unsaid(*self.said, self.logs())

    def test_registrations(self) -> None:
        """Nor do registrations with keys, taken and refused, joins, verbs and logs of a server."""
        token, backend = self.secrets["other"], self.secrets["backend"]
        told = {"node": "other", "instance": "i", "backends": []}
        with well() as url:
            for base_url in (url, f"http://me:{backend}@127.0.0.1:1", f"http://x/?key={backend}"):
                one = {"id": "g", "base_url": base_url, "key": backend, "model": "m"}
                self.ask("/v1/nodes/register", token, {**told, "backends": [one]})
            self.ask("/v1/nodes/other/heartbeat", token, {**told, "backends": [{"key": backend}]})
            self.ask("/v1/nodes/register", token, {**told, "node": backend})
            self.ask("/v1/nodes/join", "", {"invite": self.secrets["wrong"], "token": backend})
            self.ask("/v1/nodes", self.secrets["client"])
            self.ask("/v1/nodes/other", token)
            self.ask("/v1/nodes/other", token, method="DELETE")
        for verb in ("/v1/nodes/box/drain", "/v1/nodes/box/resume"):
            self.ask(verb, self.secrets["admin"], {"reason": "none"})
        self.ask("/v1/backends/box/cpu/logs", self.secrets["admin"])
        self.assert_unsaid(*self.said, self.logs())

    def test_commands(self) -> None:
        """Nor do the commands, but for the one line that a new key or invite is printed on."""
        url = ("--url", self.gateway.url)
        files = ("--file", str(self.folder / "keys.yaml"))
        config = self.config()
        for words in (
            ("status", *url), ("nodes", *url), ("models", *url), ("usage", *url),
            ("explain", "coder", *url), ("why", "--last", *url), ("smoke", self.gateway.url),
            ("keys", "list", *files), ("keys", "show", "me", *files), ("check", str(config)),
            ("drain", "box", *url), ("resume", "box", *url), ("logs", "box/cpu", *url),
            ("join", f"rmj_{self.secrets['body']}"), ("keys", "revoke", "--name", "nobody", *files),
        ):  # fmt: skip
            for key in ("client", "wrong"):
                self.cli(*words, key=key)
        packed = self.folder / "gw.tar.gz"
        state = str(self.database().parent)
        self.cli("backup", str(packed), "--config", str(config), "--state", state)
        self.assertEqual(stat.S_IMODE(packed.stat().st_mode), 0o600)
        packed.unlink()
        for told in ("gateway: ready", "box", "planner", "rmk_", "no such key"):
            self.assertIn(told, "\n".join(self.said))
        self.assert_unsaid(*self.said, self.logs())

    def test_bad_files(self) -> None:
        """Nor does a configuration with a secret where none may stand, at start, in `check` and at
        a reload; nor one whose secret is spoilt."""
        planted_there = self.secrets["yaml"]
        config = self.config()
        good = config.read_text()
        for number, bad in enumerate(
            (
                f"roles: {{coder: {{use: [{{url: 'http://127.0.0.1:9', key: {planted_there}}}]}}}}",
                f"roles: {{}}\ngateway: {{keys: {planted_there}}}",
                f"roles: {{}}\ngateway: {{store: 'postgresql://me:{planted_there}@db/x'}}",
                f"roles: {{coder: 'http://me:{planted_there}@127.0.0.1:9'}}",
                f"roles: {{coder: 'http://127.0.0.1:9/?key={planted_there}'}}",
                f"{planted_there}: [",
            )
        ):
            path = self.workshop.file(f"bad-{number}.yaml", bad)
            self.cli("check", str(path))
            config.write_text(bad)
            self.reload("not reloaded")
        config.write_text(good)
        self.reload("reloaded: 3 roles")
        self.assert_unsaid(*self.said, self.logs())

    def reload(self, says: str) -> None:
        """Have the gateway read its file again, and say that."""
        program = self.gateway.program
        said = program.text().count(says)
        program.signal(signal.SIGHUP)
        program.until(f"it says {says}", lambda: program.text().count(says) > said)

    def test_database_password(self) -> None:
        """Nor does a gateway whose database is away, or whose URL of one makes no sense."""
        password = self.secrets["database"]
        config = (
            "roles: {coder: tiny}\ngateway: {store: {env: STORE}, keys: store,"
            " nodes: {tokens: store}}\n"
        )
        store = f"postgresql://me:{password}@127.0.0.1:9/x"
        gateway = self.workshop.gateway(config, STORE=store)
        for path in ("/ready", "/v1/models", "/v1/nodes"):
            self.said.append(str(ask(gateway.url + path).body))
        gateway.program.until("it says so", lambda: "127.0.0.1" in gateway.program.text())
        environ = {**os.environ, "ROLEMESH_STORE": store}
        argv = [sys.executable, "-m", "rolemesh.cli.main", "keys", "list", "--store"]
        done = subprocess.run(argv, capture_output=True, text=True, env=environ, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.said.extend((done.stdout, done.stderr))
        gateway.program.stop()
        self.assert_unsaid(*self.said, self.logs())

    def test_private_key(self) -> None:
        """Nor does one whose certificate's key is not its key, or open to others."""
        pki = Pki(self.folder / "pki")
        cert, _ = pki.write(pki.authority, "ca-pair")
        _, key = pki.write(pki.authority, "again")
        key.chmod(0o644)
        secret = "".join(key.read_text().split("\n")[1:-2])
        self.secrets["private"] = secret[-40:]
        path = self.workshop.file(
            "tls.yaml",
            f"roles: {{}}\ngateway: {{listen: {{endpoint: 'tcp:0:interface=127.0.0.1',"
            f" tls: {{cert: {cert}, key: {key}}}}}}}\n",
        )
        argv = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"]
        argv += ["rolemesh-gateway", "--config", str(path), "--state", str(self.folder / "tls")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 78, done.stderr)
        self.said.extend((done.stdout, done.stderr))
        self.assertNotIn(secret[-40:], done.stdout + done.stderr)

    def test_crashes(self) -> None:
        """Nor does a server that crashes, in the words of its agent and of the gateway."""
        [server] = self.servers()
        server.send_signal(signal.SIGSEGV)
        eventually("another one", lambda: any(each.pid != server.pid for each in self.servers()))
        eventually("it is told", lambda: self.keys_of_servers() == [self.own_key()])
        self.node.until("coder is ready", lambda: self.ready("coder"))
        self.ask("/v1/nodes", self.secrets["client"])
        self.assert_unsaid(*self.said, self.logs())

    def servers(self) -> list[Any]:
        """The llama-servers of the agent."""
        import psutil

        found = []
        for each in self.node.descendants():
            with contextlib.suppress(psutil.Error):
                if "rolemesh.demo.llama_server" in each.cmdline():
                    found.append(each)
        return found

    def keys_of_servers(self) -> list[str]:
        import psutil

        with contextlib.suppress(psutil.Error):
            return [each.environ()["LLAMA_API_KEY"] for each in self.servers()]
        return []

    # Where else they could be seen

    def test_process_list(self) -> None:
        """No command line has one; a server's environment has its own key and what its entry gives
        it, and no key or token of the mesh."""
        own, servers = self.own_key(), self.servers()
        everybody = [*self.node.descendants(), *self.gateway.program.descendants()]
        lines = [" ".join(each.cmdline()) for each in everybody if lives(each)]
        for program in (self.node, self.gateway.program, self.static.program):
            lines.append(Path(f"/proc/{program.pid}/cmdline").read_text())
        self.assert_unsaid(*lines)
        self.assertTrue(servers)
        for environ in (each.environ() for each in servers):
            self.assertEqual(environ.pop("LLAMA_API_KEY"), own)
            self.assertEqual(environ.pop("HF_TOKEN"), self.secrets["run"])
            self.assert_unsaid(*environ.values())

    def test_files(self) -> None:
        """Files of keys and of state are closed to others, and hold hashes alone; only what a
        gateway must send on is kept as it is, in its database."""
        for path in (self.database(), *self.folder.glob("*.yaml")):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)
        hashed = ("client", "admin", "token", "other", "wrong")
        for path in self.files():
            held = self.content(path)
            for name in hashed:
                self.assertNotIn(self.secrets[name][13:].encode(), held, path)
            kept = path.name.startswith("state.db")
            self.assertEqual(self.own_key().encode() in held and not kept, False, path)

    def content(self, path: Path) -> bytes:
        """What is in a file; nothing in a socket, and in what is gone by now."""
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes() if path.is_file() else b""
        return b""

    def files(self) -> Iterator[Path]:
        for folder in (*self.folder.glob("gateway-*"), *self.folder.glob("n[0-9]*")):
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700, folder)
            yield from (path for path in folder.rglob("*") if not path.is_dir())
        yield from self.folder.glob("*.yaml")

    def test_GPUStack_5836_GPUStack_4303_the_agent_has_no_port(self) -> None:
        """The agent listens on its unix socket alone; on its ports there is its llama-server, at
        loopback, which answers nobody without its key."""
        import psutil

        agent = psutil.Process(self.node.pid)
        listening = [each for each in agent.net_connections("inet") if each.status == "LISTEN"]
        self.assertEqual(listening, [])
        sockets = [each.laddr for each in agent.net_connections("unix") if each.laddr]
        self.assertEqual([Path(each).name for each in sockets], ["node.sock"])
        open_ports = {
            (type(each).__name__, each.laddr.ip, each.laddr.port)
            for child in agent.children(recursive=True)
            for each in child.net_connections("inet")
            if each.status == "LISTEN"
        }
        [(_, host, port)] = open_ports
        self.assertEqual(host, "127.0.0.1")
        url = f"http://127.0.0.1:{port}"
        self.assertTrue(answers(f"{url}/health"))
        for path in ("/props", "/slots", "/metrics", "/v1/chat/completions"):
            self.assertEqual(ask(url + path, {} if "chat" in path else None).status, 401, path)

    def test_frozen_objects(self) -> None:
        """What settings and records say of themselves has none."""
        from rolemesh.config.gateway import load_gateway
        from rolemesh.config.node import load_node

        config = self.config()
        environ = {**os.environ, "PLANTED_BACKEND": self.secrets["env"]}
        environ["PLANTED_TOKEN"] = self.secrets["token"]
        gateway = load_gateway(config, environ)
        [path] = self.folder.glob("node-*.yaml")
        node = load_node(path, environ)
        told = repr(gateway) + repr(node) + re.sub(r"\s", "", str(gateway))
        self.assertNotIn(self.secrets["env"], told)
        self.assertNotIn(self.secrets["run"], told)
        self.assert_unsaid(told)
