"""The promises of `rolemesh.gateway.keys`: rows C25, P17 and N8 among them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.test.requesthelper import DummyRequest
from zope.interface import implementer

from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.config.problems import ConfigError
from rolemesh.core.addresses import read_address, read_network
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import ENTROPY, LEEWAY, KeyKind, KeyRecord, Scope, mint, revoke
from rolemesh.gateway.keys import ADDRESSES, Failures, Gatekeeper, presented
from rolemesh.gateway.store.key_shelf import KeyShelf

NOW = 1_000_000.0
HERE = IPv4Address("TCP", "10.0.0.9", 1)


def asking(key: str | None = None, source: IAddress = HERE, header: str = "") -> Any:
    request = DummyRequest([b""])
    request.client = source
    if key is not None:
        value = key if header else f"Bearer {key}"
        request.requestHeaders.addRawHeader(header or "authorization", value)
    return request


class GatekeeperCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.keys, self.tokens = Path(self.mktemp()), Path(self.mktemp())
        self.key, self.client = mint(KeyKind.CLIENT, bytes([1]) * ENTROPY, NOW)
        self.token, node = mint(KeyKind.NODE, bytes([2]) * ENTROPY, NOW)
        self.node = evolve(node, node="box2")
        self.write(self.client)
        write_private(self.tokens, key_file_text([self.node]))
        self.keeper = self.keeping(self.keys, self.tokens)

    def keeping(self, keys: Path | None, tokens: Path | None) -> Gatekeeper:
        keeper = Gatekeeper(self.clock, keys, tokens, now=lambda: NOW + self.clock.seconds())
        keeper.load()
        return keeper

    def write(self, record: KeyRecord) -> None:
        write_private(self.keys, key_file_text([record]))

    def refusal(self, ask: Callable[..., object], *arguments: object) -> Refusal:
        return self.assertRaises(Refusal, ask, *arguments)

    def code(self, key: str | None, source: IAddress = HERE) -> str:
        self.clock.advance(1)
        return self.refusal(self.keeper.client, asking(key, source)).code


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

    def test_client_key(self) -> None:
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


class ChangeTests(GatekeeperCase):
    """A key file that changes."""

    def test_new_key(self) -> None:
        """A key that is added counts within a second."""
        self.keeper.client(asking(self.key))
        key, record = mint(KeyKind.CLIENT, bytes([3]) * ENTROPY, NOW)
        self.write(record)
        self.clock.advance(1)
        self.assertEqual(self.keeper.client(asking(key)), record)
        self.assertEqual(self.code(self.key), "invalid_api_key")

    def test_clock_set_back(self) -> None:
        """A clock that is set back does not put off a revocation."""
        self.clock.advance(5000)
        self.keeper.client(asking(self.key))
        self.write(revoke(self.client))
        self.clock.rightNow = 10
        self.assertEqual(self.refusal(self.keeper.client, asking(self.key)).status, 401)

    def test_unreadable(self) -> None:
        """P17: while the file is missing, broken or open to others, everyone gets 503."""
        for harm in (
            self.keys.unlink,
            lambda: self.keys.chmod(0o644),
            lambda: write_private(self.keys, "keys: {"),
            lambda: write_private(self.keys, "keys: [{id: rmk_aaaaaaaa}]"),
        ):
            self.write(self.client)
            self.clock.advance(1)
            self.keeper.client(asking(self.key))
            harm()
            self.clock.advance(1)
            for key in (self.key, None):
                refused = self.refusal(self.keeper.client, asking(key))
                self.assertEqual((refused.code, refused.status), ("state_unavailable", 503))
                self.assertNotIn(str(self.keys), refused.message)

    def test_mended(self) -> None:
        """P17: once the file is mended its keys count again within a second."""
        self.keys.chmod(0o644)
        self.assertEqual(self.code(self.key), "state_unavailable")
        self.keys.chmod(0o600)
        self.clock.advance(1)
        self.assertEqual(self.keeper.client(asking(self.key)), self.client)

    def test_told_once(self) -> None:
        """The operator is told once why no key is accepted, and by which command that ends."""
        told: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            told.append(event.get("problem", ""))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.keys.chmod(0o644)
        for _ in range(3):
            self.code(self.key)
        self.assertEqual(len(list(filter(None, told))), 1)
        self.assertIn("chmod 600", "".join(told))

    def test_unreadable_at_start(self) -> None:
        """P17: a gateway whose keys cannot be read does not start."""
        self.keys.unlink()
        self.assertRaises(ConfigError, Gatekeeper(self.clock, self.keys).load)


class FailureTests(GatekeeperCase):
    """Many failures from one address."""

    def failing(self, times: int, source: IAddress = HERE) -> list[int]:
        ask = self.keeper.client
        return [self.refusal(ask, asking("nonsense", source)).status for _ in range(times)]

    def test_throttled(self) -> None:
        """Ten failures in a second are answered, more get 429 until a second has passed."""
        self.assertEqual(self.failing(12), [401] * 10 + [429] * 2)
        self.clock.advance(1)
        self.assertEqual(self.failing(11), [401] * 10 + [429])

    def test_good_key_passes(self) -> None:
        """A good key is let in from where many failures come, and other addresses are free."""
        self.failing(20)
        self.assertEqual(self.keeper.client(asking(self.key)), self.client)
        self.assertEqual(self.failing(1, IPv4Address("TCP", "10.0.0.10", 1)), [401])

    def test_ipv6_network(self) -> None:
        """An IPv6 sender does not escape by taking another address of its network."""
        sources = [IPv6Address("TCP", f"2001:db8::{each:x}", 1) for each in range(1, 12)]
        statuses = [self.failing(1, source)[0] for source in sources]
        self.assertEqual(statuses, [401] * 10 + [429])

    def test_bounded(self) -> None:
        """However many addresses fail, no more than a fixed number are remembered."""
        failures = Failures(self.clock)
        for each in range(ADDRESSES + 10):
            failures.too_many(read_address(f"10.1.{each // 256}.{each % 256}"))
        self.assertEqual(len(failures), ADDRESSES)


class PresentedTests(SynchronousTestCase):
    """The key in a request's headers."""

    def test_schemes(self) -> None:
        """Bearer is taken in any case; other schemes are not ours and do not hide a key."""
        self.assertEqual(presented(Headers({"Authorization": ["bearer  abc "]})), "abc")
        basic = Headers({"Authorization": ["Basic abc"], "x-api-key": ["def"]})
        self.assertEqual(presented(basic), "def")
        self.assertIsNone(presented(Headers({"Authorization": ["abc"]})))
