"""The promises of `rolemesh.certificates`, as OpenSSL in Python's own `ssl` sees them."""

import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.certificates import (
    BadPem,
    Pair,
    new_authority,
    new_client,
    new_server,
    pin_of,
    pin_of_der,
    read_certificates,
    read_pair,
    renewed,
)

NOW = datetime(2030, 1, 2, tzinfo=UTC)


class CertificateTests(SynchronousTestCase):
    """What the CA makes."""

    def setUp(self) -> None:
        self.ca = new_authority("home", NOW)

    def names(self, pair: Pair) -> x509.SubjectAlternativeName:
        found = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return found.value

    def test_authority(self) -> None:
        """The CA lasts ten years, signs certificates, and can make no further CA."""
        certificate = self.ca.certificate
        basics = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertTrue(basics.critical and basics.value.ca)
        self.assertEqual(basics.value.path_length, 0)
        self.assertEqual((certificate.not_valid_after_utc - NOW).days, 3650)

    def test_server(self) -> None:
        """A server's certificate is for its names and addresses, and for no client."""
        pair = new_server(self.ca, ["gw.lan", "10.0.0.1", "gw.lan"], NOW)
        self.assertEqual(self.names(pair).get_values_for_type(x509.DNSName), ["gw.lan"])
        self.assertEqual(
            [str(each) for each in self.names(pair).get_values_for_type(x509.IPAddress)],
            ["10.0.0.1"],
        )
        usage = pair.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.SERVER_AUTH])
        pair.certificate.verify_directly_issued_by(self.ca.certificate)

    def test_client(self) -> None:
        """A node's certificate names the node, below the mesh's own suffix, and is no server's."""
        pair = new_client(self.ca, "Box_2", NOW)
        found = self.names(pair).get_values_for_type(x509.DNSName)
        self.assertEqual(found, ["Box_2.nodes.rolemesh"])
        usage = pair.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.CLIENT_AUTH])

    def test_clocks_that_differ(self) -> None:
        """A certificate holds for who is a little behind, and not longer than its CA."""
        late = NOW + timedelta(days=3600)
        pair = new_server(self.ca, ["gw"], late)
        self.assertLess(pair.certificate.not_valid_before_utc, late)
        end = self.ca.certificate.not_valid_after_utc
        self.assertEqual(pair.certificate.not_valid_after_utc, end)

    def test_renewed(self) -> None:
        """A renewed certificate has names, use, key and pin of the old one, and a new term."""
        for old in (new_server(self.ca, ["gw", "::1"], NOW), new_client(self.ca, "box", NOW)):
            new = renewed(self.ca, old, NOW + timedelta(days=300))
            self.assertEqual(self.names(new), self.names(old))
            self.assertEqual(pin_of(new.certificate), pin_of(old.certificate))
            self.assertGreater(
                new.certificate.not_valid_after_utc, old.certificate.not_valid_after_utc
            )
            self.assertNotEqual(new.certificate.serial_number, old.certificate.serial_number)

    def test_no_key_in_a_repr(self) -> None:
        """A private key does not show."""
        self.assertNotIn("key=", repr(self.ca))


class ReadingTests(SynchronousTestCase):
    """PEM texts."""

    def setUp(self) -> None:
        self.ca = new_authority("home", NOW)
        self.pair = new_server(self.ca, ["gw"], NOW)

    def test_pair(self) -> None:
        """What was written is read, with the first of several certificates."""
        chain = self.pair.certificate_pem() + self.ca.certificate_pem()
        read = read_pair(chain.encode(), self.pair.key_pem().encode())
        self.assertEqual(read.certificate, self.pair.certificate)
        self.assertEqual(len(read_certificates(chain.encode())), 2)

    def test_pins(self) -> None:
        """A pin is the same of a certificate as it is kept and as it is sent."""
        der = ssl.PEM_cert_to_DER_cert(self.pair.certificate_pem())
        self.assertEqual(pin_of_der(der), pin_of(self.pair.certificate))

    def test_refused(self) -> None:
        """What is no certificate, no key, or another's key, is told apart."""
        cert, key = self.pair.certificate_pem().encode(), self.pair.key_pem().encode()
        for certificate, secret, told in (
            (b"", key, "no certificate"),
            (key, key, "no certificate"),
            (cert, cert, "no private key"),
            (cert, b"", "no private key"),
            (cert, self.ca.key_pem().encode(), "not the key of the certificate"),
        ):
            error = self.assertRaises(BadPem, read_pair, certificate, secret)
            self.assertIn(told, str(error))
