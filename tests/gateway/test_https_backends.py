"""Backends behind https: connected to where they were checked, verified by their name."""

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Site

from rolemesh.core.attempts import Outcome
from rolemesh.core.model import Backend, BackendId
from rolemesh.gateway.upstream import TryFailed, Upstream
from rolemesh.tls.ending import Endings
from rolemesh.tls.server import ServerSide, behind_tls
from tests.doubles.mesh import MeshCase
from tests.doubles.pki import Pki


class Page(Resource):
    """Notes by which name it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.hosts: list[str] = []

    def render_GET(self, request: Any) -> bytes:
        self.hosts.append(request.getHeader("host"))
        return b"{}"


class HttpsTests(MeshCase):
    """Rows N6 and B31; a CA of the test's is the only one of the system."""

    def setUp(self) -> None:
        super().setUp()
        self.pki = Pki(Path(self.mktemp()).absolute())
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = str(self.pki.ca)
        self.addCleanup(self.put_back, before)
        self.page = Page()
        self.upstream = Upstream(reactor)
        self.addCleanup(self.upstream.close)

    def put_back(self, before: str | None) -> None:
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before

    def serve(self, *names: str) -> int:
        side = ServerSide(reactor, self.pki.server(*names), Endings(reactor, lambda: 0.0))
        side.load()
        anybody: Any = reactor
        factory = behind_tls(side, Site(self.page), reactor)
        port = anybody.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def send(self, host: str, port: int, address: str | None) -> Deferred[Any]:
        backend = Backend(BackendId("box", "x"), f"https://{host}:{port}", address=address)
        return Deferred.fromCoroutine(self.upstream.send(backend, "GET", "/health", None, {}, 2.0))

    async def test_N6_pinned_address_verified_name(self) -> None:
        """The name leads nowhere, and need not: the address was checked, the certificate is the
        name's, and the server hears its own name."""
        port = self.serve("pinned-1.mesh.invalid")
        response = await self.send("pinned-1.mesh.invalid", port, "127.0.0.1")
        self.assertEqual(response.code, 200)
        self.assertEqual(self.page.hosts, [f"pinned-1.mesh.invalid:{port}"])

    async def test_N6_another_name(self) -> None:
        """A server at the checked address that cannot show the name's certificate gets nothing."""
        port = self.serve("other.mesh.invalid", "127.0.0.1")
        asking = self.send("pinned-2.mesh.invalid", port, "127.0.0.1")
        failed = await self.assertFailure(asking, TryFailed)
        self.assertIs(failed.outcome, Outcome.DIED)
        self.assertIn("its certificate is for another name", str(failed))
        self.assertEqual(self.page.hosts, [])

    async def test_named_by_the_file(self) -> None:
        """A server that the gateway's own file names is found by its name, and verified by it."""
        port = self.serve("localhost")
        response = await self.send("localhost", port, None)
        self.assertEqual(response.code, 200)
