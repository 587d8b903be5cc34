"""The promises of `rolemesh.gateway.keys`: rows C25, P17 and N8 among them."""

from attrs import evolve
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from rolemesh.config.private import write_private
from rolemesh.core.addresses import read_network
from rolemesh.core.keys import ENTROPY, LEEWAY, KeyKind, Scope, mint, revoke
from rolemesh.gateway.keys import Gatekeeper, presented
from rolemesh.gateway.store.key_shelf import KeyShelf
from tests.gateway.keys_case import NOW, GatekeeperCase, asking


class SourceTests(GatekeeperCase):
    """Keys that are in no file."""

    def test_closed_until_known(self) -> None:
        """Keys that are still to be read let nobody in, with 503; then each counts."""
        shelf = KeyShelf()
        keeper = Gatekeeper(self.clock, shelf, shelf, now=lambda: NOW)
        keeper.load()
        for ask, key in ((keeper.client, self.key), (keeper.admin, self.key)):
            self.assertEqual(self.refusal(ask, asking(key)).code, "state_unavailable")
        refused = self.refusal(keeper.node, asking(self.token), "box2")
        self.assertEqual(refused.code, "state_unavailable")
        shelf.put_all({self.client.id: self.client, self.node.id: self.node})
        self.assertEqual(keeper.client(asking(self.key)), self.client)
        self.assertEqual(keeper.node(asking(self.token), "box2"), self.node)
        shelf.put({self.client.id: revoke(self.client)})
        self.assertEqual(self.refusal(keeper.client, asking(self.key)).code, "invalid_api_key")


class ClientTests(GatekeeperCase):
    """A client's request."""

    def test_let_in(self) -> None:
        """A good key is let in as Bearer, x-api-key or api-key, and its record is returned."""
        self.assertEqual(self.keeper.client(asking(self.key)), self.client)
        for header in ("X-API-Key", "api-key"):
            self.assertEqual(self.keeper.client(asking(self.key, header=header)), self.client)

    def test_refused_alike(self) -> None:
        """C25: none, malformed, unknown and wrong keys get one and the same 401."""
        unknown, _ = mint(KeyKind.CLIENT, bytes([9]) * ENTROPY, NOW)
        told = set()
        for key in (None, "", "sk-foreign", unknown, self.key[:-1] + "_", "\xff" * 500):
            refused = self.refusal(self.keeper.client, asking(key))
            told.add((refused.status, refused.message))
            self.assertEqual(refused.headers()["www-authenticate"], "Bearer")
        self.assertEqual(len(told), 1)
        self.assertEqual(told.pop()[0], 401)

    def test_expired_and_revoked(self) -> None:
        """C25: an expired, a revoked and a not yet valid key are refused as an unknown one is."""
        for record in (
            evolve(self.client, expires_at=NOW - LEEWAY),
            revoke(self.client),
            evolve(self.client, not_before=NOW + 1000),
        ):
            self.write(record)
            self.assertEqual(self.code(self.key), "invalid_api_key")

    def test_expires_while_running(self) -> None:
        """A key ends at its time, without any change of the file."""
        self.write(evolve(self.client, expires_at=NOW + 10))
        self.keeper.load()
        self.keeper.client(asking(self.key))
        self.clock.advance(10 + LEEWAY)
        self.assertEqual(self.code(self.key), "invalid_api_key")

    def test_networks(self) -> None:
        """A key with networks is refused from elsewhere as an unknown one is."""
        self.write(evolve(self.client, networks=(read_network("10.0.0.0/8"),)))
        self.keeper.load()
        self.keeper.client(asking(self.key))
        self.keeper.client(asking(self.key, IPv6Address("TCP", "::ffff:10.1.1.1", 1)))
        for source in (IPv4Address("TCP", "11.0.0.1", 1), UNIXAddress(b"sock")):
            self.assertEqual(self.code(self.key, source), "invalid_api_key")

    def test_scope(self) -> None:
        """A key without the route's scope is told so with 403."""
        self.write(evolve(self.client, scopes=(Scope.MODELS,)))
        self.keeper.load()
        self.assertIsNotNone(self.keeper.client(asking(self.key), Scope.MODELS))
        self.assertEqual(self.code(self.key), "scope_missing")

    def test_node_token(self) -> None:
        """N8: a node token opens no client route, even from the same file."""
        self.assertEqual(self.code(self.token), "invalid_api_key")
        self.keeper = self.keeping(self.tokens, self.tokens)
        self.assertEqual(self.code(self.token), "invalid_api_key")

    def test_two_headers(self) -> None:
        """C25: two different Authorization headers are 400; the same one twice is one."""
        request = asking(self.key)
        request.requestHeaders.addRawHeader("authorization", f"Bearer {self.key}")
        self.assertEqual(self.keeper.client(request), self.client)
        request.requestHeaders.addRawHeader("authorization", "Bearer other")
        self.assertEqual(self.refusal(self.keeper.client, request).status, 400)

    def test_no_keys(self) -> None:
        """A gateway without keys asks for none."""
        self.assertIsNone(self.keeping(None, None).client(asking()))

    def test_empty_file(self) -> None:
        """P17: a key file without keys lets nobody in."""
        write_private(self.keys, "")
        self.assertEqual(self.code(self.key), "invalid_api_key")


class NodeTests(GatekeeperCase):
    """A node's request."""

    def test_let_in(self) -> None:
        """A node token is let in for its node."""
        self.assertEqual(self.keeper.node(asking(self.token), "box2"), self.node)

    def test_another_node(self) -> None:
        """N8: a token speaks for no node but its own."""
        refused = self.refusal(self.keeper.node, asking(self.token), "box3")
        self.assertEqual(refused.status, 403)
        self.assertNotIn("box2", refused.message)

    def test_C25_client_key(self) -> None:
        """A client key opens no node route, even from the same file."""
        self.assertEqual(self.refusal(self.keeper.node, asking(self.key), "box2").status, 401)
        keeper = self.keeping(self.keys, self.keys)
        self.assertEqual(self.refusal(keeper.node, asking(self.key), "box2").status, 401)

    def test_keys_without_tokens(self) -> None:
        """P17: where clients need keys and there are no tokens, nobody registers a node."""
        keeper = self.keeping(self.keys, None)
        self.assertEqual(self.refusal(keeper.node, asking(self.key), "box2").status, 401)

    def test_neither(self) -> None:
        """A gateway without keys and tokens lets any node register."""
        self.assertIsNone(self.keeping(None, None).node(asking(), "box2"))


class PresentedTests(SynchronousTestCase):
    """The key in a request's headers."""

    def test_schemes(self) -> None:
        """Bearer is taken in any case; other schemes are not ours and do not hide a key."""
        self.assertEqual(presented(Headers({"Authorization": ["bearer  abc "]})), "abc")
        basic = Headers({"Authorization": ["Basic abc"], "x-api-key": ["def"]})
        self.assertEqual(presented(basic), "def")
        self.assertIsNone(presented(Headers({"Authorization": ["abc"]})))
