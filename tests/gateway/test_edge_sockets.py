"""The edge over real sockets: what its clients can still read when it closes."""

import http.client
import socket
from collections.abc import Callable
from typing import Any

import h11
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.resource import IResource

from rolemesh.gateway.edge import EdgeChannel
from rolemesh.gateway.edge_request import EdgeRequest, end_unfinished
from rolemesh.gateway.edge_site import EdgeSite, Limits
from tests.gateway.edge_case import GET, POST, Echo, Later

EVENT = b'data: {"error":{}}\n\n'


class BreaksOff(Later):
    """Begins a stream and breaks it off."""

    def render(self, request: EdgeRequest) -> int:
        request.write(b"data: 1\n\n")
        end_unfinished(request, EVENT)
        return super().render(request)


class SocketTests(TestCase):
    timeout = 120

    async def talk(self, resource: IResource, talk: Callable[[int], Any]) -> Any:
        """What `talk(port)` returns, in a thread as it blocks, once its connection is no more."""
        site: Any = EdgeSite(
            EdgeChannel,
            resource,
            reactor,
            Limits(),
            lambda: "req_1",
            lambda *_: None,
            lambda _: None,
        )
        left: Deferred[IAddress] = Deferred()
        self.patch(site, "forget", left.callback)
        port: Any = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        said = await deferToThread(talk, port.getHost().port)
        await left
        return said

    async def test_C7_refusal_is_read_by_a_client_that_sends_on(self) -> None:
        """A client busy with a large body gets the whole 413, and no reset in its place."""

        def talk(port: int) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(POST + b"Content-Length: 20000000\r\n\r\n")
                for _ in range(20):
                    client.sendall(b"a" * 1_000_000)
                return read_all(client)

        said = await self.talk(Echo(), talk)
        self.assertTrue(said.startswith(b"HTTP/1.1 413 "), said)
        self.assertIn(b'"code":"request_too_large"', said)

    async def test_end_unfinished_is_an_incomplete_read(self) -> None:
        """A client of the standard library has the event, and an exception."""

        def talk(port: int) -> bytes:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            client.request("GET", "/")
            try:
                return client.getresponse().read()
            except http.client.IncompleteRead as error:
                return b"incomplete: " + error.partial
            finally:
                client.close()

        self.assertEqual(b"incomplete: data: 1\n\n" + EVENT, await self.talk(BreaksOff(), talk))

    async def test_end_unfinished_is_a_protocol_error(self) -> None:
        """A client of h11, which the SDKs are built on, has the event, and an exception."""

        def talk(port: int) -> list[Any]:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(GET)
                raw = read_all(client)
            connection = h11.Connection(h11.CLIENT)
            connection.send(h11.Request(method="GET", target="/a", headers=[("Host", "gw")]))
            connection.send(h11.EndOfMessage())
            connection.receive_data(raw)
            seen = []
            while (event := connection.next_event()) is not h11.NEED_DATA:
                seen.append(event)
            connection.receive_data(b"")
            self.assertRaises(h11.RemoteProtocolError, connection.next_event)
            return seen

        response, *data = await self.talk(BreaksOff(), talk)
        self.assertEqual(200, response.status_code)
        self.assertTrue(bytes(data[-1].data).endswith(EVENT))

    async def test_C2_half_closed_client_counts_as_gone(self) -> None:
        """Who ends its side while it waits is taken for gone, and the request told so."""
        gone: Deferred[None] = Deferred()

        class Waits(Later):
            def render(self, request: EdgeRequest) -> int:
                request.notifyFinish().addErrback(lambda _: gone.callback(None))
                return super().render(request)

        def talk(port: int) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(GET)
                client.shutdown(socket.SHUT_WR)
                return read_all(client)

        self.assertEqual(b"", await self.talk(Waits(), talk))
        await gone


def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := client.recv(65536):
        data += part
    return data
