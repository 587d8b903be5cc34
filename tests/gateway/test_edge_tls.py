"""The edge's deadlines and limits behind TLS, in memory and on a clock: rows C4, C6 and C20."""

import contextlib  # trial takes a `suppress` of this module for one of its own
import json
import time
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from rolemesh.config.listeners import Listener
from rolemesh.gateway.doors import Doors
from rolemesh.gateway.edge_site import Limits
from rolemesh.tls.ending import Endings
from tests.doubles.pki import Pki
from tests.gateway.edge_case import GET, EdgeTestCase, Later, Wire, answers


class TcpWire(Wire):
    """As a TCP connection is."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Twisted asks for it; nothing is delayed here."""


class Caller:
    """A client's half of TLS, whose bytes go to a connection of ours and back."""

    def __init__(self, factory: Any, oldest: int = SSL.TLS1_2_VERSION, newest: int = 0) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_min_proto_version(oldest)
        context.set_max_proto_version(newest)
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self.wire = TcpWire("192.0.2.1")
        self.ours = factory.buildProtocol(self.wire.getPeer())
        if self.ours is not None:
            self.ours.makeConnection(self.wire)

    def pump(self) -> None:
        """Take to each side what the other one has to say."""
        for _ in range(4):
            with contextlib.suppress(SSL.WantReadError):
                self.ours.dataReceived(self.tls.bio_read(2**16))
            if self.wire.value():
                self.tls.bio_write(self.wire.value())
                self.wire.clear()

    def greet(self) -> None:
        """Shake hands; raises SSL.Error."""
        for _ in range(4):
            with contextlib.suppress(SSL.WantReadError):
                self.tls.do_handshake()
            self.pump()

    def say(self, data: bytes) -> None:
        self.tls.send(data)
        self.pump()

    def heard(self) -> bytes:
        self.pump()
        try:
            return self.tls.recv(2**16)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return b""


class TlsEdgeTests(EdgeTestCase):
    """Connections to a listener with a certificate."""

    limits = Limits(head_seconds=10.0, connections=2)

    def setUp(self) -> None:
        super().setUp()
        self.build(self.echo, self.limits)
        self.listener = Listener("tcp:1", Pki(Path(self.mktemp()).absolute()).server("gw"))
        self.doors = Doors(self.clock, [self.listener], Endings(self.clock, time.time))
        self.doors.load()
        ((_, self.factory),) = self.doors.into(self.site)

    def greeted(self) -> Caller:
        caller = Caller(self.factory)
        caller.greet()
        return caller

    def test_request(self) -> None:
        """What is asked over TLS is answered, in HTTP/1.1."""
        caller = self.greeted()
        caller.say(GET)
        self.clock.advance(0)
        (answer,) = answers(caller.heard())
        self.assertEqual((answer.status, answer.body), (200, b"GET|/a|"))
        self.assertEqual(caller.tls.get_protocol_version_name(), "TLSv1.3")

    def test_oldest(self) -> None:
        """TLS 1.2 is spoken, and nothing older, whatever else a client could."""
        caller = Caller(self.factory, SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION)
        caller.greet()
        self.assertEqual(caller.tls.get_protocol_version_name(), "TLSv1.2")
        old = Caller(self.factory, SSL.TLS1_VERSION, SSL.TLS1_1_VERSION)
        self.assertIn("protocol version", str(self.assertRaises(SSL.Error, old.greet)))

    def test_C4_silent_before_the_handshake(self) -> None:
        """Who connects and says nothing is dropped at the head's deadline."""
        caller = Caller(self.factory)
        self.clock.pump([1.0] * 9)
        self.assertFalse(caller.wire.aborted)
        self.clock.pump([1.0] * 2)
        self.assertTrue(caller.wire.aborted)

    def test_C4_slow_handshake(self) -> None:
        """Single bytes of a handshake do not put it off."""
        caller = Caller(self.factory)
        with contextlib.suppress(SSL.WantReadError):
            caller.tls.do_handshake()
        hello = caller.tls.bio_read(2**16)
        for at in range(11):
            caller.ours.dataReceived(hello[at : at + 1])
            self.clock.pump([1.0])
        self.assertTrue(caller.wire.aborted)

    def test_C4_silent_after_the_handshake(self) -> None:
        """Neither does a handshake: the head has ten seconds from the connection on."""
        caller = self.greeted()
        self.clock.pump([1.0] * 9)
        self.assertFalse(caller.wire.aborted)
        self.clock.pump([1.0] * 7)
        self.assertTrue(caller.wire.aborted)

    def test_C4_half_a_head(self) -> None:
        """A head that does not end is refused in words, and its sender dropped."""
        caller = self.greeted()
        caller.say(GET[:10])
        self.clock.pump([1.0] * 11)
        (answer,) = answers(caller.heard())
        self.assertEqual(json.loads(answer.body)["error"]["code"], "request_timeout")
        self.clock.pump([1.0] * 6)
        self.assertTrue(caller.wire.aborted)

    def test_C20_plain_http(self) -> None:
        """Who speaks plain HTTP on this port is cut off, without an answer of ours."""
        caller = Caller(self.factory)
        caller.ours.dataReceived(GET)
        self.assertEqual(self.echo.asked, 0)
        self.assertTrue(caller.wire.disconnecting)

    def test_C6_too_many(self) -> None:
        """Connections over the limit are not taken in."""
        Caller(self.factory)
        Caller(self.factory)
        self.assertIsNone(self.factory.buildProtocol(Wire("192.0.2.2").getPeer()))

    def test_end_of_an_unfinished_answer(self) -> None:
        """A client that leaves in the middle is seen to leave."""
        self.build(later := Later(), self.limits)
        ((_, self.factory),) = self.doors.into(self.site)
        caller = self.greeted()
        caller.say(GET)
        (request,) = later.requests
        left = request.notifyFinish()
        caller.tls.shutdown()
        caller.pump()
        self.leave(caller.ours)
        self.failureResultOf(left)
