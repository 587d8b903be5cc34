"""Certificates and keys from files, as OpenSSL wants them; what is wrong is a TlsProblem."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    trustRootFromCertificates,
)

from rolemesh.certificates import BadPem, read_certificates, read_pair
from rolemesh.config.private import read_private
from rolemesh.config.problems import ConfigError
from rolemesh.tls.fresh import TlsProblem

OLDEST = TLSVersion.TLSv1_2
HTTP = [b"http/1.1"]


def shown(cert: Path, key: Path) -> dict[str, Any]:
    """Options of what is shown to the other end."""
    pem, secret = _read(cert), _read_key(key)
    try:
        pair, chain = read_pair(pem, secret), read_certificates(pem)[1:]
    except BadPem as error:
        raise TlsProblem(f"{cert} and {key}: the one or the other {error}") from None
    return {
        "privateKey": PKey.from_cryptography_key(pair.key),
        "certificate": X509.from_cryptography(pair.certificate),
        "extraCertChain": [X509.from_cryptography(each) for each in chain],
    }


def options_of(shown: dict[str, Any]) -> CertificateOptions:
    """All options, with the TLS that both programs speak."""
    options = CertificateOptions(raiseMinimumTo=OLDEST, acceptableProtocols=HTTP, **shown)
    try:
        options.getContext()
    except SSL.Error as error:  # such as too short a key
        raise TlsProblem(f"OpenSSL does not take the certificate: {told(error)}") from None
    return options


def chain_of(shown: dict[str, Any]) -> list[x509.Certificate]:
    """The certificates among such options, the other end's first."""
    return [each.to_cryptography() for each in (shown["certificate"], *shown["extraCertChain"])]


def authorities(ca: Path) -> list[x509.Certificate]:
    """The CAs of a file."""
    try:
        return read_certificates(_read(ca))
    except BadPem as error:
        raise TlsProblem(f"{ca} {error}") from None


def roots(found: Sequence[x509.Certificate]) -> Any:
    """CAs, for the option `trustRoot`."""
    return trustRootFromCertificates([Certificate(X509.from_cryptography(each)) for each in found])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsProblem(f"{path} cannot be read: {error.strerror}") from None


def _read_key(path: Path) -> bytes:
    try:
        return read_private(path, "`rolemesh pki issue` makes one")
    except ConfigError as error:
        raise TlsProblem(str(error)) from None


def told(error: SSL.Error) -> str:
    """What OpenSSL has to say, without its codes."""
    return " ".join(str(entry[-1]) for entry in (error.args or [()])[0])
