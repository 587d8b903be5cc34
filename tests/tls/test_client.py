"""The promises of `rolemesh.tls.client`, over real connections to servers of our own."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool, readBody
from twisted.web.resource import Resource
from twisted.web.server import Site

from rolemesh.certificates import new_authority, new_server
from rolemesh.config.tls import ServerTls, Trust
from rolemesh.tls.client import ClientSide, PlainSpokenAgent, Untrusted
from rolemesh.tls.ending import Endings
from rolemesh.tls.server import ServerSide, behind_tls
from tests.doubles.pki import Pki, pin_of_file


class Page(Resource):
    """Says hello, and counts who got that far."""

    isLeaf = True
    asked = 0

    def render_GET(self, _: object) -> bytes:
        self.asked += 1
        return b"hello"


class PlainHttp(Protocol):
    """Says in plain HTTP that it does not understand."""

    transport: Any

    def dataReceived(self, _: bytes) -> None:
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


class TrustTests(TestCase):
    """Whom a caller talks to: rows N6 and A26."""

    def setUp(self) -> None:
        self.pki = Pki(Path(self.mktemp()).absolute())
        self.page = Page()

    def serve(self, tls: ServerTls, clock: Any = reactor) -> int:
        side = ServerSide(clock, tls, Endings(clock, time.time))
        side.load()
        return self.listen(behind_tls(side, Site(self.page), reactor))

    def listen(self, factory: Any) -> int:
        anybody: Any = reactor
        port = anybody.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def get(self, trust: Trust, url: str) -> bytes:
        side = ClientSide(reactor, trust, Endings(reactor, time.time))
        side.load()
        pool = HTTPConnectionPool(reactor, False)
        agent = PlainSpokenAgent(Agent(reactor, side, 5.0, pool=pool))
        return await readBody(await agent.request(b"GET", url.encode()))

    async def refused(self, trust: Trust, url: str) -> str:
        error = await self.assertFailure(self.soon(trust, url), Untrusted)
        self.assertEqual(self.page.asked, 0, "a request was sent to a server that is not trusted")
        return str(error)

    def soon(self, trust: Trust, url: str) -> Any:
        return Deferred.fromCoroutine(self.get(trust, url))

    async def test_name(self) -> None:
        """A certificate of the CA for the name, or the address, that was called is trusted."""
        port = self.serve(self.pki.server("localhost", "127.0.0.1"))
        for host in ("localhost", "127.0.0.1"):
            answer = await self.get(Trust(self.pki.ca), f"https://{host}:{port}/")
            self.assertEqual(answer, b"hello")

    async def test_A26_another_name(self) -> None:
        """A certificate for another name is not."""
        port = self.serve(self.pki.server("gw.lan"))
        for host in ("localhost", "127.0.0.1"):
            why = await self.refused(Trust(self.pki.ca), f"https://{host}:{port}/")
            self.assertEqual(why, f"its certificate is not for {host}")

    async def test_A26_another_authority(self) -> None:
        """Neither is one that another CA signed, nor where the system's own CAs are asked."""
        port = self.serve(self.pki.server("localhost"))
        other = Pki(Path(self.mktemp()))
        for trust in (Trust(other.ca), Trust()):
            why = await self.refused(trust, f"https://localhost:{port}/")
            self.assertIn("its CA is not known here", why)

    async def test_A26_signed_by_itself(self) -> None:
        """Neither is one without a CA, and the cure is told."""
        lone = new_authority("localhost", datetime.now(UTC))
        port = self.serve(ServerTls(*self.pki.write(lone, "lone")))
        why = await self.refused(Trust(self.pki.ca), f"https://localhost:{port}/")
        self.assertIn("it is signed by itself; name it as `ca`, or its key as `pin`", why)

    async def test_A26_expired(self) -> None:
        """Neither is one that has expired."""
        long_ago = datetime.now(UTC) - timedelta(days=500)
        port = self.serve(self.pki.server("localhost", now=long_ago))
        why = await self.refused(Trust(self.pki.ca), f"https://localhost:{port}/")
        self.assertIn("it has expired", why)

    async def test_A26_a_nodes_certificate(self) -> None:
        """A node, which the same CA certified, cannot pass for a gateway."""
        node = self.pki.client("box")
        assert node.cert is not None
        assert node.key is not None
        port = self.serve(ServerTls(node.cert, node.key))
        why = await self.refused(Trust(self.pki.ca), f"https://localhost:{port}/")
        self.assertIn("it is not one for servers", why)

    async def test_A26_plain_server(self) -> None:
        """A server without TLS is told as that, and gets nothing."""
        port = self.listen(Factory.forProtocol(PlainHttp))
        why = await self.refused(Trust(self.pki.ca), f"https://localhost:{port}/")
        self.assertEqual(why, "it does not speak TLS on this port")

    async def test_pin(self) -> None:
        """A pinned key is enough, whatever its certificate says of names, CAs and dates."""
        long_ago = datetime.now(UTC) - timedelta(days=500)
        tls = self.pki.server("elsewhere", now=long_ago)
        port = self.serve(tls)
        trust = Trust(pins=(self.pki.pin, pin_of_file(tls.cert)))
        self.assertEqual(await self.get(trust, f"https://localhost:{port}/"), b"hello")

    async def test_A26_another_key(self) -> None:
        """With a pin nothing else is enough: not a good certificate, nor its CA's pin."""
        tls = self.pki.server("localhost")
        chain = tls.cert.read_text() + self.pki.ca.read_text()
        tls.cert.write_text(chain)
        port = self.serve(tls)
        why = await self.refused(Trust(pins=(self.pki.pin,)), f"https://localhost:{port}/")
        self.assertIn(f"its key is not one that is pinned, but {pin_of_file(tls.cert)}", why)

    async def test_client_certificate(self) -> None:
        """Who has no certificate of the wanted CA is told so by the server."""
        tls = self.pki.server("localhost")
        port = self.serve(ServerTls(tls.cert, tls.key, self.pki.ca))
        url = f"https://localhost:{port}/"
        self.assertEqual(await self.get(self.pki.client("box"), url), b"hello")
        self.page.asked = 0
        stranger = Pki(Path(self.mktemp())).client("box")
        for trust in (Trust(self.pki.ca), Trust(self.pki.ca, (), stranger.cert, stranger.key)):
            self.assertIn("it refuses us", await self.refused(trust, url))

    async def test_renewed_client_certificate(self) -> None:
        """What is shown to a server changes with its file."""
        trust = self.pki.client("box")
        clock = Clock()
        side = ClientSide(clock, trust, Endings(clock, time.time))
        side.load()
        before: Any = side.creatorForNetloc(b"gw", 443)
        self.pki.client("box")
        clock.advance(1)
        after: Any = side.creatorForNetloc(b"gw", 443)
        self.assertNotEqual(before.options.certificate, after.options.certificate)

    async def test_L18_soon_at_their_end(self) -> None:
        """What a node shows, and the CA by which it knows its gateways, are told of in time."""
        long_ago = datetime.now(UTC) - timedelta(days=390)
        old = Pki(Path(self.mktemp()).absolute(), datetime.now(UTC) - timedelta(days=3640))
        shown = self.pki.client("box", long_ago)
        endings = Endings(Clock(), time.time)
        side = ClientSide(Clock(), Trust(old.ca, (), shown.cert, shown.key), endings)
        side.load()
        certificate = "certificate node-box.pem expires in 6 days"
        self.assertEqual(endings.soon(), [certificate, "CA ca.pem expires in 9 days"])

    async def test_renewed(self) -> None:
        """A listener shows its new certificate to who connects next, without a restart; until the
        whole pair is there, the old one."""
        tls = self.pki.server("localhost")
        clock = Clock()
        url = f"https://localhost:{self.serve(tls, clock)}/"
        old = Trust(pins=(pin_of_file(tls.cert),))
        new = new_server(self.pki.authority, ["localhost"], datetime.now(UTC))
        tls.key.write_text(new.key_pem())
        clock.advance(1)
        self.assertEqual(await self.get(old, url), b"hello")
        tls.cert.write_text(new.certificate_pem())
        clock.advance(1)
        self.assertEqual(await self.get(Trust(pins=(pin_of_file(tls.cert),)), url), b"hello")
