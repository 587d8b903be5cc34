"""What both files say of TLS, and all that can be wrong with it."""

from rolemesh.config.listeners import Listener, Serves
from rolemesh.config.node import NodeSettings
from rolemesh.config.tls import ServerTls, Trust
from tests.config.written import WrittenTests

PIN = "sha256:" + "A" * 43 + "="


class ListenerTests(WrittenTests):
    """The items of `gateway.listen`."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("gw.pem", "gw.key", "ca.pem"):
            self.write(name, "x", mode=0o600)

    def listen(self, item: str) -> Listener:
        (found,) = self.gateway(f"gateway:\n  listen: {item}\n").listen
        return found

    def test_plain(self) -> None:
        """An endpoint alone is plain HTTP and serves everything."""
        found = self.listen("tcp:8000")
        self.assertEqual(found, Listener("tcp:8000"))
        self.assertTrue(all(map(found.offers, Serves)))
        self.assertFalse(found.certifies_clients)

    def test_everything(self) -> None:
        """Every key of a mapping ends in its field; paths are relative to the file."""
        found = self.listen(
            "{endpoint: 8443, tls: {cert: gw.pem, key: gw.key, client_ca: ca.pem},"
            " serves: [nodes, metrics]}"
        )
        files = (self.folder / name for name in ("gw.pem", "gw.key", "ca.pem"))
        kinds = frozenset({Serves.NODES, Serves.METRICS})
        there = Listener("tcp:8443:interface=127.0.0.1", ServerTls(*files), kinds)
        self.assertEqual(found, there)
        self.assertTrue(found.certifies_clients)
        self.assertFalse(found.offers(Serves.PUBLIC))

    def test_slips(self) -> None:
        """Each slip is told at its place."""
        for item, told in {
            "{tls: {cert: gw.pem, key: gw.key}}": "needs 'endpoint'",
            "{endpoint: tcp:1, serves: []}": "serves: must not be empty",
            "{endpoint: tcp:1, serves: node}": "did you mean 'nodes'?",
            "{endpoint: tcp:1, tls: {cert: gw.pem}}": "needs 'key'",
            "{endpoint: tcp:1, tls: {cert: gw.pem, key: gw.key, ca: ca.pem}}": "unknown key 'ca'",
            "{endpoint: 'ssl:1', tls: {cert: gw.pem, key: gw.key}}": "with tls write tcp:",
        }.items():
            (problem,) = self.gateway_problems(f"gateway:\n  listen: {item}\n")
            self.assertIn(told, problem)

    def test_key_for_others(self) -> None:
        """A private key that others may read is refused."""
        (self.folder / "gw.key").chmod(0o644)
        told = "gateway: {listen: {endpoint: tcp:1, tls: {cert: gw.pem, key: gw.key}}}"
        (problem,) = self.gateway_problems(told)
        self.assertIn("others may read or write it (mode 0644): chmod 600", problem)

    def test_files_to_come(self) -> None:
        """A file that is not there yet is a warning, with what makes it."""
        settings = self.gateway(
            "roles: {a: b}\ngateway: {listen: {endpoint: tcp:1, tls: {cert: c, key: k}}}"
        )
        told = [str(warning) for warning in settings.warnings]
        self.assertEqual(len(told), 2)
        self.assertIn("c does not exist yet: 'rolemesh pki issue' can make it", told[0])

    def test_allowed_hosts(self) -> None:
        """Names and addresses, and nothing that is neither."""
        settings = self.gateway("gateway: {allowed_hosts: [mesh.lan, 10.0.0.1]}")
        self.assertEqual(settings.allowed_hosts, ("mesh.lan", "10.0.0.1"))
        self.assertTrue(self.gateway_problems("gateway: {allowed_hosts: ['*']}"))


class TrustTests(WrittenTests):
    """`tls` of a node agent."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("ca.pem", "box.pem", "box.key"):
            self.write(name, "x", mode=0o600)

    def agent(self, tls: str, gateway: str = "https://gw:8443") -> NodeSettings:
        return self.node(f"gateway: {gateway}\ntls: {tls}\n")

    def problem(self, tls: str, gateway: str = "https://gw:8443") -> str:
        (found,) = self.node_problems(f"gateway: {gateway}\ntls: {tls}\n")
        return found

    def test_ca(self) -> None:
        """A CA, and what is shown to the gateway."""
        found = self.agent("{ca: ca.pem, cert: box.pem, key: box.key}").tls
        ca, cert, key = (self.folder / name for name in ("ca.pem", "box.pem", "box.key"))
        self.assertEqual(found, Trust(ca=ca, cert=cert, key=key))

    def test_pins(self) -> None:
        """One pin or several, which are quoted or not."""
        self.assertEqual(self.agent(f'{{pin: "{PIN}"}}').tls, Trust(pins=(PIN,)))
        other = PIN.replace("AAAA", "BAAA", 1)
        self.assertEqual(self.agent(f"{{pin: ['{PIN}', '{other}']}}").tls.pins, (PIN, other))

    def test_slips(self) -> None:
        """Each slip is told."""
        for tls, told in {
            f"{{ca: ca.pem, pin: '{PIN}'}}": "write either ca or pin",
            "{pin: sha256:short}": "a pin is 'sha256:' and 44 characters of base64",
            "{pin: []}": "must not be empty",
            "{cert: box.pem}": "write both cert and key",
        }.items():
            self.assertIn(told, self.problem(tls))

    def test_A26_no_plain_gateway(self) -> None:
        """Who says how gateways are verified may not name one that cannot be."""
        for gateways in ("http://gw:8000", "[https://gw:8443, http://gw2:8000]"):
            self.assertIn(
                "is not encrypted: write https://", self.problem("{ca: ca.pem}", gateways)
            )
