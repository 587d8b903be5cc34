"""X.509 certificates: read, pinned, and made by a small private CA. No sockets, no files."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rolemesh.core.pins import pin_of_key

NODE_SUFFIX = ".nodes.rolemesh"  # behind a node's name, in the certificate that it shows
AUTHORITY_LIFE = timedelta(days=3650)
LIFE = timedelta(days=397)  # some clients take no certificate that is to last longer
_EARLY = timedelta(hours=1)  # for clocks that are behind
_LONGEST_NAME = 64  # characters of a common name

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
Usage = x509.ObjectIdentifier
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


class BadPem(Exception):
    """A text holds no certificate or key that can be used; its text says why."""


@frozen
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self) -> str:
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem.decode()


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """The certificates in a PEM text, in its order; at least one.

    :raises BadPem: when there is none, or one cannot be read.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise BadPem("holds no certificate in PEM") from None


def read_pair(certificate: bytes, key: bytes) -> Pair:
    """The first certificate of a PEM text and its key.

    :raises BadPem: when one cannot be read, or they do not belong together.
    """
    first = read_certificates(certificate)[0]
    try:
        read = load_pem_private_key(key, None)
    except (ValueError, TypeError):  # of another form, or with a password
        raise BadPem("holds no private key in PEM without a password") from None
    if _spki(read.public_key()) != _spki(first.public_key()):
        raise BadPem("is not the key of the certificate")
    if not isinstance(read, PrivateKey):
        raise BadPem("is of another kind than EC, Ed25519 and RSA")
    return Pair(first, read)


def pin_of(certificate: x509.Certificate) -> str:
    """The pin of a certificate's key: it stays when a certificate is renewed with its key."""
    return pin_of_key(_spki(certificate.public_key()))


def pin_of_der(der: bytes) -> str:
    """As `pin_of`, of a certificate in DER, as it comes over a connection."""
    return pin_of(x509.load_der_x509_certificate(der))


def new_authority(name: str, now: datetime) -> Pair:
    """A certification authority for one mesh, which signs servers and nodes and no further CAs."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(name)
    draft = _draft(subject, subject, key, now, now + AUTHORITY_LIFE)
    draft = draft.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    draft = draft.add_extension(_key_usage(signs=True), critical=True)
    return Pair(draft.sign(key, hashes.SHA256()), key)


def new_server(authority: Pair, names: Sequence[str], now: datetime) -> Pair:
    """A server's certificate for names and addresses, of which the first is the one it is shown
    under."""
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = [_alternative(name) for name in dict.fromkeys(names)]
    return _signed(authority, names[0], alternatives, SERVER, key, now)


def new_client(authority: Pair, node: str, now: datetime) -> Pair:
    """The certificate by which a node shows a gateway that it is that node."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _signed(authority, node, [x509.DNSName(node + NODE_SUFFIX)], CLIENT, key, now)


def renewed(authority: Pair, old: Pair, now: datetime) -> Pair:
    """The same certificate for another term, with the same key, so that pins of it hold on."""
    extensions = old.certificate.extensions
    alternatives = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = next(iter(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value))
    (name,) = old.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _signed(authority, str(name.value), list(alternatives), usage, old.key, now)


def _signed(
    authority: Pair,
    name: str,
    alternatives: Sequence[x509.GeneralName],
    usage: Usage,
    key: PrivateKey,
    now: datetime,
) -> Pair:
    issuer = authority.certificate
    end = min(now + LIFE, issuer.not_valid_after_utc)
    draft = _draft(_named(name), issuer.subject, key, now, end)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(signs=False), True),
        (x509.ExtendedKeyUsage([usage]), False),
        (x509.SubjectAlternativeName(alternatives), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False),  # type: ignore[arg-type]
    ):
        draft = draft.add_extension(extension, critical)
    return Pair(draft.sign(authority.key, hashes.SHA256()), key)


def _draft(
    subject: x509.Name,
    issuer: x509.Name,
    key: PrivateKey,
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _key_usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_NAME])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _spki(key: object) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded
