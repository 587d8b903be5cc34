"""Which node a client certificate speaks for."""

from typing import Any

from OpenSSL.crypto import X509
from service_identity.exceptions import CertificateError, VerificationError
from service_identity.hazmat import DNS_ID, DNSPattern, verify_service_identity
from service_identity.pyopenssl import extract_patterns

from rolemesh.certificates import NODE_SUFFIX
from rolemesh.core.errors import Refusal
from rolemesh.tls.ending import Ending

_THEN = "it is refused then; `rolemesh pki renew` on the CA's box, and take the file there"


def check_certificate(request: Any, node: str) -> None:
    """Let a request speak for `node` where its listener wants no certificate, or it shows one of
    that node.

    :raises Refusal: `scope_missing`.
    """
    channel = getattr(request, "channel", None)
    if channel is None or not channel.listener.certifies_clients:
        return
    certificate = channel.transport.getPeerCertificate()
    if certificate is None or not is_of(certificate, node):
        raise Refusal(
            "scope_missing",
            f"this client certificate is not of node '{node}': make one for it with"
            f" `rolemesh pki issue --client {node}`",
        )


def ending_of(request: Any, node: str) -> Ending | None:
    """When the client certificate ends by which a request speaks for a node; None where its
    listener wants none."""
    channel = getattr(request, "channel", None)
    if channel is None or not channel.listener.certifies_clients:
        return None
    shown = channel.transport.getPeerCertificate().to_cryptography()
    return Ending("certificate of node", node, shown.not_valid_after_utc, _THEN, node=True)


def is_of(certificate: X509, node: str) -> bool:
    """Whether a certificate names the node, by its whole name: a wildcard names nobody."""
    named = [each for each in extract_patterns(certificate) if _is_plain(each)]
    try:
        verify_service_identity(named, [DNS_ID(node + NODE_SUFFIX)], [])
    except (CertificateError, VerificationError, ValueError):
        return False
    return True


def _is_plain(pattern: object) -> bool:
    return isinstance(pattern, DNSPattern) and b"*" not in pattern.pattern
