"""A mesh with a private CA, made by the commands of `docs/DEPLOYMENT.md`."""

import json
import ssl
import subprocess
import sys
from contextlib import closing
from http.client import HTTPSConnection
from typing import Any, ClassVar

from tests.doubles.pki import pin_of_file
from tests.real.harness import (
    LLAMA_SERVER,
    TWISTD,
    Program,
    RealTestCase,
    Workshop,
    eventually,
    free_port,
)
from tests.real.test_openai_python import chat, need_openai, streamed_text

MODEL = "tiny"


def rolemesh(workshop: Workshop, *words: str) -> subprocess.CompletedProcess[str]:
    """One command, in the workshop's folder."""
    argv = [sys.executable, "-m", "rolemesh.cli.main", *words]
    return subprocess.run(
        argv, capture_output=True, text=True, cwd=workshop.folder, timeout=60, check=False
    )


def done(workshop: Workshop, *words: str) -> str:
    """What a command that succeeds says."""
    ended = rolemesh(workshop, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.strip()


class PrivateAuthorityTests(RealTestCase):
    """A gateway, a node with a certificate of its own, and clients that know the CA."""

    url: ClassVar[str]
    key: ClassVar[str]
    public: ClassVar[int]
    nodes: ClassVar[int]
    gateway: ClassVar[Program]
    node: ClassVar[Program]

    @classmethod
    def furnish(cls) -> None:
        workshop = cls.workshop
        done(workshop, "pki", "init")
        done(workshop, "pki", "issue", "localhost", "--san", "127.0.0.1")
        done(workshop, "pki", "issue", "--client", "box")
        cls.key = done(workshop, "keys", "add", "--file", "keys.yaml", "--name", "me")
        token = done(workshop, "keys", "add", "--file", "nodes.yaml", "--node", "box")
        workshop.file("node.token", token)
        cls.public, cls.nodes = free_port(), free_port()
        cls.url = f"https://localhost:{cls.public}"
        cls.gateway = cls.start("gateway", "models.yaml", gateway_file(cls.public, cls.nodes))
        cls.gateway.until("it listens", lambda: "ok health" in cls.smoke().stdout)
        cls.node = cls.start("node", "node_agent.yaml", node_file(cls.workshop, cls.nodes))
        cls.node.until("its model answers", lambda: cls.smoke().returncode == 0)

    @classmethod
    def start(cls, program: str, file: str, text: str) -> Program:
        config, state = cls.workshop.file(file, text), cls.workshop.folder / f"of-{file}"
        argv = [*TWISTD, f"rolemesh-{program}", "--config", str(config), "--state", str(state)]
        return cls.workshop.start(program, argv)

    @classmethod
    def smoke(cls, *trust: str) -> subprocess.CompletedProcess[str]:
        return rolemesh(cls.workshop, "smoke", cls.url, "--key", cls.key, *(trust or CA))

    def openai(self) -> Any:
        """The official SDK, which is told of the CA as its own documentation says."""
        need_openai()
        from openai import DefaultHttpxClient, OpenAI

        trusting = ssl.create_default_context(cafile=self.workshop.folder / "pki" / "ca.pem")
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT
        http = DefaultHttpxClient(verify=trusting)
        return OpenAI(
            base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=30, http_client=http
        )

    def test_official_sdk(self) -> None:
        """The SDK gets a whole answer and a stream over TLS."""
        client = self.openai()
        self.assertTrue(chat(client, MODEL).choices[0].message.content)
        self.assertTrue(streamed_text(chat(client, MODEL, stream=True)))

    def test_A26_sdk_without_the_ca(self) -> None:
        """Who was not told of the CA does not talk to the gateway."""
        need_openai()
        from openai import APIConnectionError, OpenAI

        client = OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=30)
        self.assertRaises(APIConnectionError, chat, client, MODEL)

    def test_commands_by_pin(self) -> None:
        """The pin that `pki issue` tells is enough for a command; another one is not."""
        pin = pin_of_file(self.workshop.folder / "pki" / "localhost.pem")
        self.assertEqual(self.smoke("--pin", pin).returncode, 0)
        wrong = self.smoke("--pin", pin_of_file(self.workshop.folder / "pki" / "ca.pem"))
        self.assertEqual(wrong.returncode, 1)
        self.assertIn("is not the one that is pinned", wrong.stdout)

    def test_registered(self) -> None:
        """A node with its own token and its own certificate serves, and says so."""
        told = rolemesh(self.workshop, "nodes", "--url", self.url, "--key", self.key, *CA)
        self.assertIn("box", told.stdout)
        status = json.loads(self.local("status", "--json").stdout)
        self.assertEqual([each["standing"] for each in status["gateways"]], ["registered"])

    def test_routes_where_they_are_served(self) -> None:
        """Clients' routes are not on the nodes' port, nor nodes' on that of clients."""
        for port, path, status in (
            (self.nodes, "/v1/models", 404),
            (self.nodes, "/metrics", 404),
            (self.nodes, "/health", 200),
            (self.public, "/v1/nodes/box/commands", 404),
            (self.public, "/health", 200),
        ):
            self.assertEqual(self.get(port, path), status, (port, path))

    def get(self, port: int, path: str) -> int:
        folder = self.workshop.folder / "pki"
        knowing = ssl.create_default_context(cafile=folder / "ca.pem")
        knowing.load_cert_chain(folder / "box.pem", folder / "box.key")
        connection = HTTPSConnection("localhost", port, timeout=10, context=knowing)
        with closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.key}"})
            return connection.getresponse().status

    def local(self, *words: str) -> subprocess.CompletedProcess[str]:
        state = str(self.workshop.folder / "of-node_agent.yaml")
        return rolemesh(self.workshop, "node", *words, "--state", state)

    def test_A26_renewed_while_it_runs(self) -> None:
        """A renewed certificate is shown without a restart; a request under way is not touched."""
        path = self.workshop.folder / "pki" / "localhost.pem"
        before = served(self.url)
        done(self.workshop, "pki", "renew", "localhost")
        eventually("the new certificate is shown", lambda: served(self.url) != before)
        self.assertEqual(served(self.url), ssl.PEM_cert_to_DER_cert(path.read_text()))
        self.assertEqual(self.smoke().returncode, 0)

    def test_A26_agent_with_a_wrong_pin(self) -> None:
        """An agent that is told of another key registers nowhere, and its status says why."""
        text = node_file(self.workshop, int(self.url.rpartition(":")[2]))
        wrong = text.replace("{ca: pki/ca.pem,", '{pin: "sha256:' + "A" * 43 + '=",')
        agent = self.start("node", "wrong.yaml", wrong.replace("name: box", "name: other"))
        self.addCleanup(agent.stop)
        agent.until("it says why", lambda: "its key is not one that is pinned" in agent.text())
        state = str(self.workshop.folder / "of-wrong.yaml")
        status = ("node", "status", "--state", state)
        agent.until("it is told", lambda: "untrusted" in rolemesh(self.workshop, *status).stdout)


class StartTests(RealTestCase):
    """Row L18, for listeners with `tls`."""

    def test_L18_unusable(self) -> None:
        """A certificate that is not there, or is none, or another key's: 78, and one line."""
        done(self.workshop, "pki", "init")
        for name in ("one", "two"):
            done(self.workshop, "pki", "issue", name)
        self.workshop.file("none.pem", "no certificate")
        for cert, key in (
            ("missing.pem", "one.key"),
            ("none.pem", "one.key"),
            ("one.pem", "two.key"),
        ):
            folder = "." if cert == "none.pem" else "pki"
            tls = f"{{cert: {folder}/{cert}, key: pki/{key}}}"
            text = f"roles: {{a: b}}\ngateway: {{listen: {{endpoint: 0, tls: {tls}}}}}\n"
            config = self.workshop.file("models.yaml", text)
            argv = [*TWISTD, "rolemesh-gateway", "--config", str(config), "--state"]
            ended = subprocess.run(
                [*argv, str(self.workshop.folder / "s")], capture_output=True, text=True, timeout=60
            )
            lines = ended.stderr.splitlines()
            self.assertEqual((ended.returncode, len(lines)), (78, 1), lines)
            self.assertIn(cert, lines[0])


CA = ("--ca", "pki/ca.pem")


def gateway_file(public: int, nodes: int) -> str:
    """One listener for clients, one for nodes that show certificates."""
    shown = "cert: pki/localhost.pem, key: pki/localhost.key"
    here = "interface=127.0.0.1"
    return f"""
roles: {{{MODEL}: {MODEL}}}
gateway:
  listen:
    - {{endpoint: "tcp:{public}:{here}", tls: {{{shown}}}, serves: [public, metrics]}}
    - {{endpoint: "tcp:{nodes}:{here}", tls: {{{shown}, client_ca: pki/ca.pem}}, serves: nodes}}
  keys: {{file: keys.yaml}}
  nodes: {{tokens: {{file: nodes.yaml}}}}
  drain: 2s
"""


def node_file(workshop: Workshop, port: int) -> str:
    """A node that shows its certificate, and knows the gateway by the CA."""
    first, args = free_port(), ["-t", "1", "--no-warmup", "--jinja"]
    return f"""
gateway: https://localhost:{port}
name: box
token: {{file: node.token}}
tls: {{ca: pki/ca.pem, cert: pki/box.pem, key: pki/box.key}}
llama_server: {json.dumps(list(LLAMA_SERVER))}
ports: {first}-{first + 5}
run:
  - {{model: {MODEL}, file: {workshop.model()}, slots: 2, context: 4096, args: {json.dumps(args)}}}
"""


def served(url: str) -> bytes:
    """The certificate that a server shows now."""
    port = int(url.rpartition(":")[2])
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("localhost", port)))
