"""Whom a caller trusts, and what is said of who is not."""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from attrs import frozen
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity.exceptions import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from service_identity.pyopenssl import extract_patterns
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.internet.ssl import CertificateOptions, platformTrust
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IPolicyForHTTPS, IResponse
from zope.interface import implementer

from rolemesh.certificates import pin_of
from rolemesh.config.tls import Trust
from rolemesh.tls.ending import Ending, Endings, of_authorities, of_chain
from rolemesh.tls.fresh import Fresh
from rolemesh.tls.material import authorities, chain_of, options_of, roots, shown, told

_REFUSED = "gateways refuse this node then; renew it, and it is used at once"
_REFUSING = "gateways whose certificates it signed are not trusted then; make another"


class Untrusted(Exception):
    """Who answers is not who is meant; nothing was said to it. Told in one line."""


@implementer(IPolicyForHTTPS)
class ClientSide:
    """How who calls a gateway knows it, for an Agent of Twisted's. When what that takes ends is
    noted in `endings`."""

    def __init__(self, clock: IReactorTime, trust: Trust, endings: Endings) -> None:
        self._trust = trust
        self._endings = endings
        self._found: tuple[Ending, ...] = ()
        self._fresh = Fresh(clock, (trust.ca, trust.cert, trust.key), self._make)

    def load(self) -> None:
        """Read the files, before anybody is called; raises TlsProblem."""
        self._fresh.load()

    def creatorForNetloc(
        self,
        hostname: bytes,
        port: int,  # noqa: ARG002  # a certificate is for a host, whatever its port
    ) -> IOpenSSLClientConnectionCreator:
        host = hostname.decode("ascii").strip("[]")
        options = self._fresh.current()
        self._endings.note(*self._found)
        return _Caller(options, host, self._trust.pins)

    def _make(self) -> CertificateOptions:
        trust, found, endings = self._trust, dict[str, Any](), list[Ending]()
        if trust.cert and trust.key:
            found = shown(trust.cert, trust.key)
            endings.append(of_chain(trust.cert, chain_of(found), _REFUSED))
        if trust.ca and not trust.pins:
            signers = authorities(trust.ca)
            endings += of_authorities(trust.ca, signers, _REFUSING)
            found["trustRoot"] = roots(signers)
        elif not trust.pins:
            found["trustRoot"] = platformTrust()
        options = options_of(found)
        self._found = tuple(endings)
        self._endings.note(*self._found)
        return options


@implementer(IOpenSSLClientConnectionCreator)
@frozen
class _Caller:
    """One connection to one gateway."""

    options: CertificateOptions
    host: str
    pins: tuple[str, ...]

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = self.options.clientConnectionForTLS(tlsProtocol)
        if not _is_address(self.host):
            connection.set_tlsext_host_name(self.host.encode("ascii"))

        def verify(_: object, certificate: X509, error: int, depth: int, ok: int) -> bool:
            why = self._objection(certificate, error, depth, bool(ok))
            if why is not None:
                tlsProtocol.failVerification(Failure(Untrusted(why)))
            return why is None

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection

    def _objection(self, certificate: X509, error: int, depth: int, ok: bool) -> str | None:
        if self.pins:
            pin = pin_of(certificate.to_cryptography()) if depth == 0 else self.pins[0]
            return None if pin in self.pins else f"its key is not one that is pinned, but {pin}"
        if not ok:
            return f"its certificate is not trusted: {_ERRORS.get(error, f'OpenSSL says {error}')}"
        if depth == 0 and not _is_for(certificate, self.host):
            return f"its certificate is not for {self.host}"
        return None


_ERRORS = {
    9: "it is not valid yet; is the clock right?",
    10: "it has expired",
    18: "it is signed by itself; name it as `ca`, or its key as `pin`",
    19: "its CA is not known here; name it as `ca`",
    20: "its CA is not known here; name it as `ca`",
    21: "its CA is not known here; name it as `ca`",
    26: "it is not one for servers",
}


@implementer(IAgent)
class PlainSpokenAgent:
    """An Agent that tells in words what TLS has against a server: an Untrusted."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        return self._agent.request(method, uri, headers, bodyProducer).addErrback(_in_words)


def _in_words(failure: Failure) -> Failure:
    why = objection(failure.value)
    return failure if why is None else Failure(Untrusted(why))


def objection(error: BaseException | None) -> str | None:
    """What TLS has against who answered, None when it was something else that failed."""
    if isinstance(error, Untrusted):
        return str(error)
    if isinstance(error, CertificateError | VerificationError):
        return "its certificate is for another name"
    if type(error) is SSL.Error:
        return _openssl_objection(error)
    reasons: Sequence[Failure] = getattr(error, "reasons", ())
    return next(filter(None, (objection(reason.value) for reason in reasons)), None)


def _openssl_objection(error: SSL.Error) -> str | None:
    words = told(error)
    if "alert" in words:
        return f"it refuses us, and perhaps wants another certificate of ours: {words}"
    if "wrong version number" in words or "packet length" in words:
        return "it does not speak TLS on this port"
    return f"its certificate is not trusted: {words}" if "certificate" in words else None


def _is_for(certificate: X509, host: str) -> bool:
    wanted = IPAddress_ID(host) if _is_address(host) else DNS_ID(host)
    try:
        verify_service_identity(extract_patterns(certificate), [wanted], [])
    except (CertificateError, VerificationError):
        return False
    return True


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
