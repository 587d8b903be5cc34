"""What a listener shows to who connects."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IAddress,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.ssl import CertificateOptions
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from rolemesh.config.tls import ServerTls
from rolemesh.tls.fresh import Fresh
from rolemesh.tls.material import options_of, roots, shown

SOON = timedelta(days=21)  # before its end a certificate is warned about
REMIND = 86400.0  # seconds between two such warnings


@implementer(IOpenSSLServerConnectionCreator)
class ServerSide:
    """What a listener shows to who connects. `now` is the time of day."""

    log = Logger()

    def __init__(self, clock: IReactorTime, tls: ServerTls, now: Callable[[], float]) -> None:
        self._clock = clock
        self._tls = tls
        self._now = now
        self._reminded = 0.0
        self._fresh = Fresh(clock, (tls.cert, tls.key, tls.client_ca), self._make)
        self.expires: datetime

    def load(self) -> None:
        """Read the files, before anything listens; raises TlsProblem."""
        self._fresh.load()

    def reload(self) -> None:
        """Read the files again; what cannot be used is told, and changes nothing."""
        self._fresh.reload()

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        options = self._fresh.current()
        if abs(self._clock.seconds() - self._reminded) >= REMIND:
            self._remind()
        return options.serverConnectionForTLS(tlsProtocol)

    def _make(self) -> CertificateOptions:
        tls = self._tls
        found = shown(tls.cert, tls.key)
        if tls.client_ca is not None:
            found["trustRoot"] = roots(tls.client_ca)  # and so a certificate is required
        options = options_of(found)
        self.expires = found["certificate"].to_cryptography().not_valid_after_utc
        self.log.info("certificate {path} until {end}", path=str(tls.cert), end=str(self.expires))
        self._remind()
        return options

    def _remind(self) -> None:
        self._reminded = self._clock.seconds()
        left = self.expires - datetime.fromtimestamp(self._now(), UTC)
        if left < SOON:
            self.log.warn(
                "certificate {path} {ends}: clients refuse it then; renew it, and it is used at"
                " once",
                path=str(self._tls.cert),
                ends="has expired" if left < timedelta() else f"expires in {left.days} days",
            )


class _TlsFactory(TLSMemoryBIOFactory):
    """Twisted's, for a factory that may want no connection."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        protocol = self.wrappedFactory.buildProtocol(addr)
        return None if protocol is None else self.protocol(self, protocol)


def behind_tls(side: ServerSide, factory: IProtocolFactory, clock: IReactorTime) -> Any:
    """A factory whose connections reach `factory` decrypted."""
    return _TlsFactory(side, False, factory, clock)
