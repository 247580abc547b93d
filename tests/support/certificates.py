"""Certificate files as a service reads them, and what a client sees of them."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509

from bidstream_svc.server.tls import TlsFiles
from tests.support.raw_http import Connection


class CertificateFiles:
    """A certificate and its key in two files of a directory, which can be renewed.

    Args:
        directory: for the files.
        authority: issues the certificates.

    Attributes:
        settings: the settings that name the files.
        serial: the serial number of the first certificate.
    """

    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        self.authority = authority
        self.certificate, self.key = directory / "cert.pem", directory / "key.pem"
        self.settings = {"tls_cert": str(self.certificate), "tls_key": str(self.key)}
        self.files = TlsFiles(self.certificate, self.key)
        self.serial = self.renew()

    def issue(self, *, begins: timedelta = timedelta(0), lasts: timedelta = timedelta(days=30)) -> trustme.LeafCert:
        now = datetime.now(UTC).replace(microsecond=0)
        return self.authority.issue_cert("localhost", not_before=now + begins, not_after=now + begins + lasts)

    def renew(self, leaf: trustme.LeafCert | None = None) -> int:
        """Replace both files; the serial number of the new certificate."""
        leaf = leaf or self.issue()
        leaf.private_key_pem.write_to_path(self.key)
        return self.renew_certificate(leaf)

    def renew_certificate(self, leaf: trustme.LeafCert) -> int:
        """Replace the certificate and leave the key."""
        leaf.cert_chain_pems[0].write_to_path(self.certificate)
        return serial_of(leaf.cert_chain_pems[0].bytes())


def serial_of(pem: bytes) -> int:
    return x509.load_pem_x509_certificate(pem).serial_number


def served_serial(address: str, client: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection gets."""
    with Connection(address, tls=client) as connection:
        return serial_of_connection(connection)


def serial_of_connection(connection: Connection) -> int:
    assert isinstance(connection.socket, ssl.SSLSocket)
    certificate = connection.socket.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number
