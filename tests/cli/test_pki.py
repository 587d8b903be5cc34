"""`rolemesh pki`: what it writes, what it says, and what it does not overwrite."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.certificates import pin_of, read_pair
from rolemesh.cli.main import main
from rolemesh.config.gateway import load_gateway
from rolemesh.config.node import load_node
from rolemesh.config.tls import Trust
from tests.doubles.pki import pin_of_file


class PkiTests(SynchronousTestCase):
    """A CA in a folder of the test."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.assertEqual(self.pki("init", str(self.folder))[0], 0)

    def pki(self, *words: str) -> tuple[int, str, str]:
        """The exit code, and what was said on both outputs."""
        said, complained = StringIO(), StringIO()
        with redirect_stdout(said), redirect_stderr(complained):
            try:
                code = main(["pki", *words])
            except SystemExit as ended:
                code = int(ended.code or 0)
        return code, said.getvalue(), complained.getvalue()

    def issue(self, *words: str) -> str:
        code, said, complained = self.pki("issue", *words, "--dir", str(self.folder))
        self.assertEqual(code, 0, complained)
        return said

    def refused(self, *words: str) -> str:
        code, said, complained = self.pki(*words)
        self.assertEqual((code, said), (1, ""))
        self.assertEqual(len(complained.splitlines()), 1)
        return complained

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def test_files(self) -> None:
        """A CA and two certificates, each with its key, in files that are nobody else's."""
        self.issue("gw.lan", "--san", "10.0.0.1")
        self.issue("--client", "box2")
        names = ("ca", "gw.lan", "box2")
        expected = {f"{name}.{kind}" for name in names for kind in ("pem", "key")}
        self.assertEqual(set(self.content()), expected)
        for path in self.folder.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path)
        for name in names:
            read_pair(self.content()[f"{name}.pem"], self.content()[f"{name}.key"])

    def test_lines_to_paste(self) -> None:
        """What it says to paste is what the gateway and the agent take."""
        said = self.issue("gw.lan").splitlines()
        models = self.folder / "models.yaml"
        at = said.index("  gateway:")
        models.write_text("\n".join(["roles: {a: b}", *(line[2:] for line in said[at : at + 4])]))
        (listener,) = load_gateway(models, {}).listen
        assert listener.tls is not None
        self.assertEqual(listener.tls.cert, self.folder / "gw.lan.pem")
        agent, pin = self.folder / "node_agent.yaml", pin_of_file(listener.tls.cert)
        url, ca, pinned = (line[2:] for line in said[at + 5 : at + 8])
        for tls, trust in ((ca, Trust(self.folder / "ca.pem")), (pinned, Trust(pins=(pin,)))):
            agent.write_text(f"{url}\n{tls}\n")
            settings = load_node(agent, {})
            self.assertEqual(settings.gateways, ("https://gw.lan:8443",))
            self.assertEqual(settings.tls, trust)

    def test_nothing_is_overwritten(self) -> None:
        """What is there stays, unless it is said with --force."""
        self.issue("gw.lan")
        before = self.content()
        self.assertIn("--force", self.refused("init", str(self.folder)))
        self.assertIn("--force", self.refused("issue", "gw.lan", "--dir", str(self.folder)))
        self.assertEqual(self.content(), before)
        self.issue("gw.lan", "--force")
        self.assertNotEqual(self.content()["gw.lan.key"], before["gw.lan.key"])

    def test_renew(self) -> None:
        """A renewed certificate is another one, with the same key and the same pin."""
        self.issue("gw.lan")
        before, pin = self.content(), pin_of_file(self.folder / "gw.lan.pem")
        code, said, _ = self.pki("renew", "gw.lan", "--dir", str(self.folder))
        self.assertEqual((code, "a certificate until" in said), (0, True))
        after = self.content()
        self.assertEqual(after["gw.lan.key"], before["gw.lan.key"])
        self.assertNotEqual(after["gw.lan.pem"], before["gw.lan.pem"])
        self.assertEqual(pin_of_file(self.folder / "gw.lan.pem"), pin)

    def test_mistakes(self) -> None:
        """Each is told in one line with what to do instead."""
        here, nowhere = str(self.folder), str(self.folder / "nowhere")
        for words, told in (
            (("issue", "gw", "--dir", nowhere), "`rolemesh pki init` makes it"),
            (("issue", "--dir", here), "issue --client NODE"),
            (("issue", "--client", "box", "--san", "x", "--dir", here), "issue NAME [--san NAME…]"),
            (("issue", "ca", "--dir", here), "the CA's own name"),
            (("issue", "a b", "--dir", here), "is no host's name and no address"),
            (("renew", "gw", "--dir", here), "`rolemesh pki issue gw` makes it"),
            (("renew", "ca", "--dir", here), "a CA is not renewed"),
        ):
            self.assertIn(told, self.refused(*words))

    def test_a_key_for_others(self) -> None:
        """A CA whose key others may read signs nothing more."""
        (self.folder / "ca.key").chmod(0o644)
        self.assertIn("others may read", self.refused("issue", "gw", "--dir", str(self.folder)))

    def test_awkward_names(self) -> None:
        """Addresses and wildcards become names that a file can have."""
        for name, file in (("fd00::1", "fd00__1"), ("*.mesh.lan", "_.mesh.lan")):
            said = self.issue(name)
            self.assertTrue((self.folder / f"{file}.pem").exists())
        self.assertNotIn("fd00__1", said)
        pair = read_pair(self.content()["fd00__1.pem"], self.content()["fd00__1.key"])
        self.assertTrue(pin_of(pair.certificate))
