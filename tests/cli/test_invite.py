"""`rolemesh invite`: the line, and what is kept of it."""

import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from rolemesh.cli import gateway_urls
from rolemesh.cli.gateway_urls import door_for_nodes, reached_at
from rolemesh.cli.main import parser
from rolemesh.config.keyfile import read_key_file
from rolemesh.config.listeners import Listener, Serves
from rolemesh.core.invites import Invite, read_code
from tests.config.written import WrittenTests

CONFIG = "gateway:\n  listen: tcp:8000:interface=10.0.0.1\n  nodes: {tokens: {file: nodes.yaml}}\n"


class InviteTests(WrittenTests):
    def setUp(self) -> None:
        super().setUp()
        self.config = self.write("models.yaml", CONFIG)
        self.tokens = self.folder / "nodes.yaml"
        self.patch(os, "environ", {"HOME": str(self.folder), "PATH": "/usr/bin:/bin"})

    def invite(self, *words: str) -> tuple[int, str, str]:
        """The exit code, standard output and standard error."""
        arguments = parser().parse_args(["invite", *words])
        out, said = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(said):
            return int(arguments.run(arguments)), out.getvalue(), said.getvalue()

    def code(self, *words: str) -> Invite:
        code, out, said = self.invite(*words)
        self.assertEqual(code, 0, said)
        self.assertRegex(out, r"\Arolemesh join rmj_[\w-]+\n\Z")
        return read_code(out.split()[-1])

    def test_the_line(self) -> None:
        """One line on standard output, with the gateway's URL, the node and its roles."""
        invite = self.code("box2", "--roles", "coder,planner", "--config", str(self.config))
        self.assertEqual(invite.urls, ("http://10.0.0.1:8000",))
        self.assertEqual((invite.node, invite.roles), ("box2", ("coder", "planner")))
        self.assertEqual(invite.pin, "")

    def test_only_a_hash_is_kept(self) -> None:
        """In the file of node tokens, which it makes; with the node, the roles and the end."""
        invite = self.code("box2", "--config", str(self.config), "--for", "2h")
        [record] = read_key_file(self.tokens)
        self.assertNotIn(invite.key, self.tokens.read_text())
        self.assertEqual(self.tokens.stat().st_mode & 0o777, 0o600)
        self.assertEqual((record.node, record.roles, record.scopes), ("box2", "*", ()))
        self.assertEqual(record.expires_at, record.created + 7200)

    def test_half_an_hour(self) -> None:
        """For so long it holds where nobody says otherwise; the box is told the same."""
        invite = self.code("box2", "--config", str(self.config))
        [record] = read_key_file(self.tokens)
        self.assertEqual(record.expires_at, record.created + 1800)
        self.assertEqual(invite.until, int(record.created + 1800))

    def test_another_for_the_same_node(self) -> None:
        """It takes the place of the first, and says so."""
        self.code("box2", "--config", str(self.config))
        _, _, said = self.invite("box2", "--config", str(self.config))
        self.assertIn("The invite of before for 'box2' no longer holds", said)
        self.assertEqual(len(read_key_file(self.tokens)), 1)

    def test_urls(self) -> None:
        """--url says otherwise, several times; so does the file's `advertise`."""
        both = ("--url", "https://gw.example", "--url", "http://10.0.0.1:8000/v1")
        invite = self.code("box2", "--file", str(self.tokens), *both)
        self.assertEqual(invite.urls, ("https://gw.example", "http://10.0.0.1:8000"))
        nodes = "{tokens: {file: nodes.yaml}, advertise: 'https://gw.lan:8443'}"
        path = self.write("models.yaml", f"gateway: {{nodes: {nodes}}}\n")
        self.assertEqual(self.code("box2", "--config", str(path)).urls, ("https://gw.lan:8443",))

    def test_a_gateway_without_tokens(self) -> None:
        """There is nothing to invite to; the lines to add are said, and no file is made."""
        path = self.write("models.yaml", "roles: {a: http://b}\n")
        code, out, said = self.invite("box2", "--config", str(path))
        self.assertEqual((code, out), (1, ""))
        self.assertIn("tokens: {file: nodes.yaml}", said)
        self.assertFalse(self.tokens.exists())

    def test_without_a_configuration(self) -> None:
        """One line with what was tried, and 78."""
        here = Path.cwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, here)
        code, out, said = self.invite("box2")
        self.assertEqual((code, out, said.count("\n")), (78, "", 1))
        self.assertIn("--file and --url", said)

    def test_a_loopback_gateway(self) -> None:
        """Only this machine can join it, which is said."""
        path = self.write("models.yaml", "gateway: {nodes: {tokens: {file: nodes.yaml}}}\n")
        _, _, said = self.invite("box2", "--config", str(path))
        self.assertIn("this machine alone", said)


class UrlTests(WrittenTests):
    def test_endpoints(self) -> None:
        """The URL by which others reach an endpoint, where that can be told."""
        self.patch(gateway_urls, "own_address", lambda: "10.0.0.7")
        found = {
            "tcp:8000": "http://10.0.0.7:8000",
            "tcp:port=8000:interface=0.0.0.0": "http://10.0.0.7:8000",
            "tcp:8000:interface=10.1.2.3": "http://10.1.2.3:8000",
            r"tcp6:8000:interface=fd00\:\:1": "http://[fd00::1]:8000",
            "ssl:8443:privateKey=k.pem": "https://10.0.0.7:8443",
            "tcp:0": None,
            "unix:/run/x": None,
        }
        self.assertEqual({text: reached_at(Listener(text)) for text in found}, found)

    def test_doors(self) -> None:
        """Nodes are sent to a listener that serves them and that they reach, if there is one."""
        home = Listener("tcp:8000:interface=127.0.0.1")
        public = Listener("tcp:8001:interface=10.0.0.1", serves=frozenset({Serves.PUBLIC}))
        nodes = Listener("tcp:8002:interface=10.0.0.1", serves=frozenset({Serves.NODES}))
        self.assertEqual(door_for_nodes([home, public, nodes]), nodes)
        self.assertEqual(door_for_nodes([public, home]), home)
        self.assertIsNone(door_for_nodes([public]))
