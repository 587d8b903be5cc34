"""A gatekeeper with two files of keys, and requests that carry one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.test.requesthelper import DummyRequest

from rolemesh.config.keyfile import key_file_text
from rolemesh.config.private import write_private
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, mint
from rolemesh.gateway.keys import Gatekeeper

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
