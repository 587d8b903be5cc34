"""Listeners with certificates, as clients and nodes find them; real sockets and real files."""

import json
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from OpenSSL.crypto import X509
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.tcp import Connection

from rolemesh.certificates import new_server
from rolemesh.config.gateway import GatewaySettings, NodeRules
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.listeners import Listener
from rolemesh.config.private import write_private
from rolemesh.config.tls import ServerTls, Trust
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from rolemesh.core.model import Role, Target
from rolemesh.gateway import attempt, relay
from rolemesh.gateway.certified import is_of
from rolemesh.gateway.wiring import build
from rolemesh.tls.client import ClientSide
from rolemesh.tls.ending import Endings
from tests.doubles import raw
from tests.doubles.mesh import CHAT, MeshCase
from tests.doubles.pki import Pki, pin_of_file

REGISTER = "/v1/nodes/register"


class DoorCase(MeshCase):
    """A gateway that listens with a certificate for `localhost`."""

    def setUp(self) -> None:
        super().setUp()
        self.pki = Pki(Path(self.mktemp()).absolute())
        self.server = self.pki.server("localhost")
        self.trust = Trust(self.pki.ca)

    async def open(self, tls: ServerTls, *roles: Role, **settings: Any) -> None:
        """Have it listen, and on a second, plain port."""
        named = {role.name: role for role in roles}
        told = GatewaySettings(**{"drain": 1.0, **settings}, roles=named)
        where = [Listener("tcp:0:interface=127.0.0.1", each) for each in (tls, None)]
        life, self.reload = build(reactor, told, self.models(), where)
        life.startService()
        self.addCleanup(life.stopService)
        await self.until("it listens", lambda: len(life.listening.ports) == 2)
        secure, plain = (port.getHost() for port in life.listening.ports)
        self.secure, self.port = secure.port, plain.port  # type: ignore[attr-defined]

    def models(self) -> Path:
        path = Path(self.mktemp())
        path.write_text("roles: {coder: x}")
        path.chmod(0o644)
        return path

    async def call(self, trust: Trust | None = None) -> raw.RawClient:
        """A connection over TLS."""
        side = ClientSide(reactor, trust or self.trust, Endings(reactor, time.time))
        side.load()
        plain = TCP4ClientEndpoint(reactor, "127.0.0.1", self.secure)
        creator = side.creatorForNetloc(b"localhost", self.secure)
        return await connectProtocol(wrapClientTLS(creator, plain), raw.RawClient())

    async def get(self, path: str, trust: Trust | None = None, **headers: str) -> raw.Answer:
        client = await self.call(trust)
        client.get(path, headers)
        return await client.closed

    async def post(
        self, path: str, body: object, headers: Mapping[str, str], trust: Trust | None = None
    ) -> raw.Answer:
        client = await self.call(trust)
        client.post(path, body, headers)
        return await client.closed


class EncryptedTests(DoorCase):
    """What TLS may not change."""

    async def coder(self, **options: Any) -> Any:
        fake = self.fake(**options)
        await self.open(self.server, Role("coder", use=(Target(url=fake.url),)))
        await self.until_ready(1)
        return fake

    async def test_answers(self) -> None:
        """Small answers and streams come through, the last chunk included."""
        await self.coder()
        self.assertEqual((await self.get("/health")).json, {"status": "ok"})
        client = await self.call()
        client.post(CHAT, self.body(stream=True))
        answer = await client.closed
        self.assertEqual(answer.data_lines[-1], b"[DONE]")
        self.assertTrue(answer.data.endswith(b"0\r\n\r\n"))

    async def test_L18_its_operator_is_warned(self) -> None:
        """Of a certificate that ends soon `/ready` tells who has an admin key, and nobody else."""
        keys, bearers = Path(self.mktemp()), {}
        records = []
        for number, kind in enumerate((KeyKind.CLIENT, KeyKind.ADMIN)):
            text, record = mint(kind, bytes([number]) * ENTROPY, 1.0)
            bearers[kind] = {"Authorization": f"Bearer {text}"}
            records.append(evolve(record, roles="*" if kind is KeyKind.CLIENT else ()))
        write_private(keys, key_file_text(records))
        soon = self.pki.server("localhost", now=datetime.now(UTC) - timedelta(days=390))
        await self.open(soon, Role("coder", use=(Target(url=self.fake().url),)), keys=keys)
        told = (await self.get("/ready", None, **bearers[KeyKind.ADMIN])).json
        self.assertEqual(told["warnings"], ["certificate gw.pem expires in 6 days"])
        for headers in (bearers[KeyKind.CLIENT], {}):
            self.assertNotIn("warnings", (await self.get("/ready", None, **headers)).json)

    async def test_a_broken_answer_looks_broken(self) -> None:
        """A stream that breaks has its error event, and no last chunk."""
        fake = await self.coder()
        fake.behave("die-fin:3")
        client = await self.call()
        client.post(CHAT, self.body(stream=True))
        answer = await client.closed
        self.assertIn("error", answer.events[-1])
        self.assertFalse(answer.data.endswith(b"0\r\n\r\n"))

    def hold_little(self) -> None:
        """Let the kernel hold little of any connection in here."""
        anybody: Any = reactor
        for each in anybody.getReaders():
            if isinstance(each, Connection):
                for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    each.getHandle().setsockopt(socket.SOL_SOCKET, buffer, 4096)

    async def test_C3_who_reads_nothing(self) -> None:
        """A client that does not read holds its backend up, and is given up in the end."""
        self.patch(attempt, "Patience", partial(relay.Patience, reader=0.5))
        fake = await self.coder()
        fake.behave("endless")
        client = await self.call()
        client.post(CHAT, self.body(stream=True))
        await client.seen(b"data:")
        client.transport.pauseProducing()
        self.hold_little()
        await self.until("the backend is held up", lambda: any(each.pauses for each in fake.work))
        await self.until("the upstream is closed", lambda: not fake.running)
        client.transport.resumeProducing()
        answer = await client.closed
        self.assertNotIn(b"[DONE]", answer.data[-100:])
        self.assertFalse(answer.data.endswith(b"0\r\n\r\n"))

    async def test_A26_renewed_while_it_runs(self) -> None:
        """SIGHUP's reload has the new certificate shown at once; a bad one leaves the old."""
        await self.coder()
        old = Trust(pins=(pin_of_file(self.server.cert),))
        self.server.cert.write_text("no certificate")
        self.reload()
        self.assertEqual((await self.get("/health", old)).status, 200)
        self.assertIn("TLS stays as it was", " ".join(self.logged))
        self.pki.write(new_server(self.pki.authority, ["localhost"], datetime.now(UTC)), "gw")
        self.reload()
        new = Trust(pins=(pin_of_file(self.server.cert),))
        self.assertEqual((await self.get("/health", new)).status, 200)


class CertifiedNodesTests(DoorCase):
    """A listener whose clients must have certificates."""

    async def start(self) -> None:
        self.bearers, records = {}, []
        for at, node in enumerate(("box2", "box3")):
            text, record = mint(KeyKind.NODE, bytes([at]) * ENTROPY, 1.0)
            records.append(evolve(record, node=node, roles="*"))
            self.bearers[node] = {"Authorization": f"Bearer {text}"}
        tokens = Path(self.mktemp())
        write_private(tokens, key_file_text(records))
        tls = ServerTls(self.server.cert, self.server.key, self.pki.ca)
        await self.open(tls, nodes=NodeRules(tokens=tokens))

    async def register(self, token: str, certificate: str, node: str) -> raw.Answer:
        body = {"node": node, "base_url": "http://127.0.0.1:18100", "roles": ["coder"]}
        return await self.post(REGISTER, body, self.bearers[token], self.pki.client(certificate))

    async def test_N8_both_agree(self) -> None:
        """A node with its own token and its own certificate is let in."""
        await self.start()
        self.assertEqual((await self.register("box2", "box2", "box2")).status, 200)

    async def test_N8_certificate_of_another(self) -> None:
        """A token is worth nothing with another node's certificate, at no route of nodes."""
        await self.start()
        refused = await self.register("box2", "box3", "box2")
        self.assertEqual((refused.status, refused.json["error"]["code"]), (403, "scope_missing"))
        self.assertIn("rolemesh pki issue --client box2", refused.json["error"]["message"])
        other, bearer = self.pki.client("box3"), self.bearers["box2"]
        orders = await self.get("/v1/nodes/box2/commands?instance=x", other, **bearer)
        self.assertEqual(orders.status, 403)

    async def test_N8_token_of_another(self) -> None:
        """Neither is a certificate with another node's token."""
        await self.start()
        self.assertEqual((await self.register("box3", "box2", "box2")).status, 403)

    async def test_N8_no_certificate(self) -> None:
        """Who shows none, or one of a stranger's CA, is not even heard."""
        await self.start()
        stranger = Pki(Path(self.mktemp()).absolute()).client("box2")
        for trust in (self.trust, Trust(self.pki.ca, (), stranger.cert, stranger.key)):
            answer = await self.get("/health", trust)
            self.assertEqual(answer.data, b"")

    async def test_L18_a_certificate_that_ends_soon(self) -> None:
        """Of a node whose certificate ends soon its gateway tells, for as long as it is there."""
        await self.start()
        trust = self.pki.client("box2", datetime.now(UTC) - timedelta(days=390))
        backend = {"id": "gpu0", "base_url": "http://127.0.0.1:18100"}
        body = {"node": "box2", "instance": "i", "generation": 1, "backends": [backend]}
        for path in (REGISTER, "/v1/nodes/box2/heartbeat"):
            answer = await self.post(path, body, self.bearers["box2"], trust)
            self.assertEqual(answer.status, 200, json.dumps(answer.json))
        told = (await raw.get(reactor, self.port, "/ready")).json
        self.assertEqual(told["warnings"], ["certificate of node box2 expires in 6 days"])
        leaving = await self.call(trust)
        leaving.delete("/v1/nodes/box2", self.bearers["box2"])
        self.assertEqual((await leaving.closed).status, 200)
        self.assertNotIn("warnings", (await raw.get(reactor, self.port, "/ready")).json)

    async def test_plain_listener(self) -> None:
        """A listener that wants no certificates goes by the token alone."""
        await self.start()
        body = {"node": "box2", "base_url": "http://127.0.0.1:18100", "roles": ["coder"]}
        answer = await raw.post(reactor, self.port, REGISTER, body, self.bearers["box2"])
        self.assertEqual(answer.status, 200, json.dumps(answer.json))


class NameTests(MeshCase):
    """Whom a certificate speaks for."""

    def of(self, name: str, node: str) -> bool:
        authority = Pki(Path(self.mktemp())).authority
        pair = new_server(authority, [name], datetime.now(UTC))
        return is_of(X509.from_cryptography(pair.certificate), node)

    def test_N8_whole_names(self) -> None:
        """Only the whole name counts: no wildcard, no part, no other suffix."""
        self.assertTrue(self.of("box_2.nodes.rolemesh", "box_2"))
        self.assertTrue(self.of("a.b.nodes.rolemesh", "a.b"))
        for name in (
            "*.nodes.rolemesh",
            "box2",
            "box2.nodes.rolemesh.lan",
            "x.box2.nodes.rolemesh",
        ):
            self.assertFalse(self.of(name, "box2"), name)
