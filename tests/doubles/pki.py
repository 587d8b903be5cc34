"""A CA in a folder of a test, made by RoleMesh's own code, and files of what it signs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from rolemesh.certificates import (
    Pair,
    new_authority,
    new_client,
    new_server,
    pin_of,
    read_certificates,
)
from rolemesh.config.private import write_private
from rolemesh.config.tls import ServerTls, Trust


class Pki:
    """One CA and its folder."""

    def __init__(self, folder: Path, now: datetime | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.authority = new_authority("Test CA", now or datetime.now(UTC))
        self.ca = folder / "ca.pem"
        write_private(self.ca, self.authority.certificate_pem())

    def write(self, pair: Pair, file: str) -> tuple[Path, Path]:
        """Put a pair into two files, one after the other; where they are."""
        cert, key = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        write_private(key, pair.key_pem())
        write_private(cert, pair.certificate_pem())
        return cert, key

    def server(self, *names: str, file: str = "gw", now: datetime | None = None) -> ServerTls:
        """What a listener under these names shows; issued `now`."""
        pair = new_server(self.authority, names, now or datetime.now(UTC))
        return ServerTls(*self.write(pair, file))

    def client(self, node: str, now: datetime | None = None) -> Trust:
        """What a node shows, and that it trusts this CA; issued `now`."""
        pair = new_client(self.authority, node, now or datetime.now(UTC))
        cert, key = self.write(pair, f"node-{node}")
        return Trust(ca=self.ca, cert=cert, key=key)

    def short(self) -> ServerTls:
        """A pair whose key is shorter than OpenSSL takes."""
        key = rsa.generate_private_key(65537, 1024)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "short")])
        now = datetime.now(UTC)
        draft = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        draft = draft.public_key(key.public_key()).serial_number(1)
        draft = draft.not_valid_before(now).not_valid_after(now + timedelta(days=9))
        return ServerTls(*self.write(Pair(draft.sign(key, SHA256()), key), "short"))

    @property
    def pin(self) -> str:
        """The pin of the CA's own key, which is no server's."""
        return pin_of(self.authority.certificate)


def pin_of_file(path: Path) -> str:
    """The pin of a certificate in a file."""
    return pin_of(read_certificates(path.read_bytes())[0])
