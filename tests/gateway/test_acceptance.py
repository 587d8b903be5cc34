"""The promises of `rolemesh.gateway.acceptance`: rows N4 to N6 and B31 among them."""

import socket
from typing import Any

from rolemesh.config.gateway import NodeRules
from tests.doubles import raw
from tests.gateway.test_nodes import NodesCase


class AddressTests(NodesCase):
    """N4 to N6: where a base URL may lead."""

    listen = "tcp:8000:interface=10.0.0.1"

    def setUp(self) -> None:
        super().setUp()
        rules = NodeRules(allowed_networks=("10.0.0.0/8",))
        self.begin(nodes=rules)
        self.found: list[str] = []
        self.patch(socket, "getaddrinfo", self.look_up)

    def look_up(self, *_: object, **__: object) -> list[Any]:
        if not self.found:
            raise socket.gaierror
        return [(0, 0, 0, "", (address, 0)) for address in self.found]

    def answer(self, base_url: str) -> raw.Answer:
        return self.register(self.plain(base_url=base_url))

    def test_allowed(self) -> None:
        """An address in the allowed networks is taken."""
        self.assertEqual(self.answer("http://10.0.0.12:8080/v1").status, 200)

    def test_N4_shapes(self) -> None:
        """What is no base URL is 400, and names the field."""
        urls = ("file:///x", "http://u:p@10.0.0.1:8080", "http://10.0.0.1:8080/x?q", "x", "")
        for url in urls:
            error = self.assert_refused(self.answer(url), 400, "bad_request")
            self.assertEqual(error["param"], "base_url", url)

    def test_N5_forbidden(self) -> None:
        """Metadata, loopback, link-local and other networks are 403, in every spelling."""
        hosts = ("127.0.0.1", "169.254.169.254", "0.0.0.0", "192.168.1.1", "[::1]", "2852039166")
        for host in hosts:
            answer = self.answer(f"http://{host}:8080")
            self.assertEqual(answer.status, 403, host)
            self.assertEqual(answer.json["error"]["code"], "base_url_not_allowed")

    def test_N5_names(self) -> None:
        """Of a name every address must be allowed; one that is not is enough."""
        self.found = ["10.0.0.12", "127.0.0.1"]
        self.assert_refused(self.answer("http://box2.lan:8080"), 403, "base_url_not_allowed")
        self.found = ["10.0.0.12"]
        self.assertEqual(self.answer("http://box2.lan:8080").status, 200)

    def test_N6_B31_pinned(self) -> None:
        """What a name comes to mean later is not asked for: connections go to the address."""
        self.found = ["10.0.0.12"]
        self.answer("http://box2.lan:8080")
        self.found = ["127.0.0.1"]
        self.net.spend(5)
        self.assertEqual({host for host, *_ in self.net.tcpClients}, {"10.0.0.12"})

    def test_N6_B31_pinned_behind_tls(self) -> None:
        """With https too, where the name stays because its certificate is verified by it."""
        self.found = ["10.0.0.12"]
        self.answer("https://box2.lan:8443")
        self.found = ["127.0.0.1"]
        self.net.spend(5)
        self.assertEqual({host for host, *_ in self.net.tcpClients}, {"10.0.0.12"})

    def test_B31_several_addresses(self) -> None:
        """Of several addresses it is always the same, in whatever order a resolver tells them."""
        for found in (["10.0.0.9", "10.0.0.12"], ["10.0.0.12", "10.0.0.9"]):
            self.found = found
            self.answer("http://box2.lan:8080")
        self.net.spend(5)
        self.assertEqual({host for host, *_ in self.net.tcpClients}, {"10.0.0.9"})

    def test_B31_checked_again(self) -> None:
        """Whenever a name is looked up again, what it leads to is checked again."""
        self.found = ["10.0.0.12"]
        told = self.full(self.backend(base_url="http://box2.lan:8080"))
        self.assertEqual(self.register(told).status, 200)
        self.found = ["169.254.169.254"]
        for answer in (self.beat(told), self.register(told)):
            self.assert_refused(answer, 403, "base_url_not_allowed")
        self.net.spend(5)
        self.assertEqual({host for host, *_ in self.net.tcpClients}, {"10.0.0.12"})

    def test_N6_unknown_name(self) -> None:
        """A name that leads nowhere is 400."""
        error = self.assert_refused(self.answer("http://nowhere.lan:8080"), 400, "bad_request")
        self.assertIn("nowhere.lan", str(error["message"]))

    def test_one_bad_backend(self) -> None:
        """One forbidden backend spoils the registration: nothing of it is taken."""
        bad = self.backend(id="gpu1", base_url="http://169.254.169.254:8080")
        good = self.backend(base_url="http://10.0.0.12:8080")
        self.assert_refused(self.register(self.full(good, bad)), 403, "base_url_not_allowed")
        self.assertEqual(self.get("/v1/nodes").json["data"], [])


class AnnounceTests(NodesCase):
    """A gateway may take no roles that nodes announce."""

    def test_off(self) -> None:
        """Announced roles are refused with a reason; those of a model are the file's to give."""
        self.begin(nodes=NodeRules(announce=False))
        answer = self.register(self.full(self.backend(roles=["writer"])))
        (refused,) = answer.json["refused"]
        self.assertIn("takes no announced roles", refused["message"])
        self.assertEqual(self.ready("coder"), (1, 1))
        self.assert_refused(self.ask(model="writer").answer, 404, "model_not_found")
