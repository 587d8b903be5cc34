"""What a listener shows to who connects."""

from datetime import datetime
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
from rolemesh.tls.ending import Ending, Endings, of_authorities, of_chain
from rolemesh.tls.fresh import Fresh
from rolemesh.tls.material import authorities, chain_of, options_of, roots, shown

_REFUSED = "clients refuse it then; renew it, and it is used at once"
_REFUSING = "nodes whose certificates it signed are refused then; make another with `rolemesh pki`"


@implementer(IOpenSSLServerConnectionCreator)
class ServerSide:
    """What a listener shows to who connects. When that ends is noted in `endings`."""

    log = Logger()

    def __init__(self, clock: IReactorTime, tls: ServerTls, endings: Endings) -> None:
        self._tls = tls
        self._endings = endings
        self._found: tuple[Ending, ...] = ()
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
        self._endings.note(*self._found)
        return options.serverConnectionForTLS(tlsProtocol)

    def _make(self) -> CertificateOptions:
        tls = self._tls
        found = shown(tls.cert, tls.key)
        endings = [of_chain(tls.cert, chain_of(found), _REFUSED)]
        if tls.client_ca is not None:
            signers = authorities(tls.client_ca)
            endings += of_authorities(tls.client_ca, signers, _REFUSING)
            found["trustRoot"] = roots(signers)  # and so a certificate is required
        options = options_of(found)
        self.expires = found["certificate"].to_cryptography().not_valid_after_utc
        self.log.info("certificate {path} until {end}", path=str(tls.cert), end=str(self.expires))
        self._found = tuple(endings)
        self._endings.note(*self._found)
        return options


class _TlsFactory(TLSMemoryBIOFactory):
    """Twisted's, for a factory that may want no connection."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        protocol = self.wrappedFactory.buildProtocol(addr)
        return None if protocol is None else self.protocol(self, protocol)


def behind_tls(side: ServerSide, factory: IProtocolFactory, clock: IReactorTime) -> Any:
    """A factory whose connections reach `factory` decrypted."""
    return _TlsFactory(side, False, factory, clock)
