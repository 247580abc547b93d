"""TLS files: what is loaded, when they are loaded again, and what clients see of it."""

import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from structlog.testing import capture_logs

from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.server import plane_server
from bidstream_svc.server.tls import MAX_PEM_FILE_BYTES, ServerTls, TlsFiles, load_tls
from tests.support.certificates import CertificateFiles, serial_of_connection, served_serial
from tests.support.metrics_page import scrape
from tests.support.raw_http import Connection
from tests.support.sidecar import operator_settings, service_in_thread, wait_until

GOOD = {"token": "abcd"}
EXPIRY = "bidstream_tls_certificate_expiry_timestamp_seconds"


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> CertificateFiles:
    return CertificateFiles(tmp_path, authority)


def encrypted_key() -> bytes:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))


def other_key(kind: trustme.KeyType) -> bytes:
    return trustme.CA().issue_cert("localhost", key_type=kind).private_key_pem.bytes()


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# What is loaded. Each entry: what is done to good files, and what the error says of it.

WRONG: dict[str, tuple[Callable[[TlsFiles], object], str]] = {
    "no certificate": (lambda it: it.certificate.unlink(), "TLS_CERT: cannot read .*: No such file"),
    "no key": (lambda it: it.key.unlink(), "TLS_KEY: cannot read .*: No such file"),
    "certificate not PEM": (lambda it: it.certificate.write_text("x"), "TLS_CERT: .* has no valid certificate in PEM"),
    "certificate empty": (lambda it: it.certificate.write_text(""), "TLS_CERT: .* has no valid certificate in PEM"),
    "certificate a key": (
        lambda it: it.certificate.write_bytes(it.key.read_bytes()),
        "TLS_CERT: .* has no valid certificate in PEM",
    ),
    "certificate huge": (
        lambda it: os.truncate(it.certificate, MAX_PEM_FILE_BYTES + 1),
        "TLS_CERT: cannot read .*: Larger than",
    ),
    "certificate a FIFO": (lambda it: replace_by_fifo(it.certificate), "TLS_CERT: cannot read .*: Not a regular file"),
    "key a certificate": (
        lambda it: it.key.write_bytes(it.certificate.read_bytes()),
        "TLS_KEY: .* has no valid private key in PEM",
    ),
    "key not PEM": (lambda it: it.key.write_text("x"), "TLS_KEY: .* has no valid private key in PEM"),
    "key of another": (
        lambda it: it.key.write_bytes(other_key(trustme.KeyType.ECDSA)),
        "TLS_CERT, BIDSTREAM_TLS_KEY: the private key does not belong to the certificate",
    ),
    "key of another type": (
        lambda it: it.key.write_bytes(other_key(trustme.KeyType.RSA)),
        "TLS_CERT, BIDSTREAM_TLS_KEY: the private key does not belong to the certificate",
    ),
    "key encrypted": (
        lambda it: it.key.write_bytes(encrypted_key()),
        "TLS_KEY: .* is encrypted; store the private key without a passphrase",
    ),
    "key a FIFO": (lambda it: replace_by_fifo(it.key), "TLS_KEY: cannot read .*: Not a regular file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_named_at_the_start_and_leave_the_old_ones_in_use(files: CertificateFiles, name: str) -> None:
    damage, message = WRONG[name]
    tls = ServerTls(files.files)
    before = tls.current
    damage(files.files)
    with capture_logs() as log:
        for _ in range(3):
            assert not tls.reload()
    assert tls.current is before
    (line,) = log  # once
    assert line["event"] == "certificate not reloaded"
    with pytest.raises(ConfigurationError, match=f"^BIDSTREAM_{message}") as caught:
        load_tls(files.files)
    assert str(caught.value) == line["error"]
    assert "\n" not in line["error"]

    for path in (files.certificate, files.key):
        path.unlink(missing_ok=True)
    files.renew()
    assert tls.reload(), "what is good again is used"
    assert not tls.reload()


@pytest.mark.parametrize(("content", "problem"), [(None, "cannot read .*: No such file"), ("x", ".* has no valid")])
def test_a_wrong_client_ca_is_named(files: CertificateFiles, tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(ConfigurationError, match=f"^BIDSTREAM_TLS_CLIENT_CA: {problem}"):
        load_tls(TlsFiles(files.certificate, files.key, tmp_path / "ca.pem"))


def test_the_chain_is_valid_while_all_its_certificates_are(files: CertificateFiles) -> None:
    leaf = files.issue(begins=timedelta(hours=-1), lasts=timedelta(days=30))
    other = files.issue(begins=timedelta(hours=-2), lasts=timedelta(days=7))
    files.renew(leaf)
    alone = load_tls(files.files).validity
    now_ms = datetime.now(UTC).timestamp() * 1000
    assert alone.not_after_ms == pytest.approx(now_ms + (30 * 24 - 1) * 3_600_000, abs=60_000)
    assert alone.not_before_ms == pytest.approx(now_ms - 3_600_000, abs=60_000)
    other.cert_chain_pems[0].write_to_path(files.certificate, append=True)
    chain = load_tls(files.files).validity
    assert chain.not_before_ms == alone.not_before_ms
    assert chain.not_after_ms == pytest.approx(now_ms + (7 * 24 - 2) * 3_600_000, abs=60_000)


@pytest.mark.parametrize(("begins", "problem"), [(-10, "expired at 2"), (5, "not valid before 2")])
def test_a_certificate_out_of_its_time_is_used_and_logged(files: CertificateFiles, begins: int, problem: str) -> None:
    tls = ServerTls(files.files)
    files.renew(files.issue(begins=timedelta(days=begins), lasts=timedelta(days=2)))
    for load in (tls.reload, lambda: ServerTls(files.files)):
        with capture_logs() as log:
            load()
        assert log[-1]["event"] == "certificate not valid"
        assert log[-1]["error"].startswith(problem)


def test_half_of_a_renewal_waits_for_the_other(files: CertificateFiles) -> None:
    tls = ServerTls(files.files)
    leaf = files.issue()
    files.renew_certificate(leaf)
    with capture_logs() as log:
        assert not tls.reload()
        leaf.private_key_pem.write_to_path(files.key)
        assert tls.reload()
    assert [line["event"] for line in log] == ["certificate not reloaded", "certificate reloaded"]


# What clients see.


def test_a_renewed_certificate_is_served_to_new_connections(
    operator: DevOperator, files: CertificateFiles, client_tls: ssl.SSLContext, *, has_fast_path: bool
) -> None:
    settings = files.settings | operator_settings(operator)
    with service_in_thread(has_fast_path=has_fast_path, **settings) as service:
        with Connection(service.data, tls=client_tls) as kept:
            old = serial_of_connection(kept)
            assert kept.ask("/decrypt", GOOD).status == 200
            leaf = files.issue(lasts=timedelta(days=90))
            new = files.renew(leaf)
            assert served_serial(service.data, client_tls) == old, "not looked at yet"
            service.reload()
            wait_until(lambda: served_serial(service.data, client_tls) == new, "the new certificate")
            assert kept.ask("/decrypt", GOOD).status == 200
            assert serial_of_connection(kept) == old
        not_after = load_tls(files.files).validity.not_after_ms / 1000
        assert scrape(service.admin).value(EXPIRY) == not_after
        shown = service.get("/info").json["tls_certificate"]
        assert datetime.fromisoformat(shown["not_after"]).timestamp() == not_after
        assert datetime.fromisoformat(shown["not_before"]) < datetime.now(UTC)

        files.certificate.write_text("broken")
        service.reload()
        assert served_serial(service.data, client_tls) == new


def test_files_are_looked_at_without_a_signal_and_through_the_links_of_a_secret(
    operator: DevOperator,
    tmp_path: Path,
    files: CertificateFiles,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kubernetes swaps a symbolic link to a directory in which all files of the secret are new."""
    monkeypatch.setattr(plane_server, "TLS_PERIOD_S", 0.05)
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
    first, second = (CertificateFiles(tmp_path / version, files.authority) for version in ("..1", "..2"))
    (tmp_path / "..data").symlink_to("..1")
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(f"..data/{name}")
    with service_in_thread(**(operator_settings(operator) | files.settings)) as service:
        assert served_serial(service.data, client_tls) == first.serial
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        wait_until(lambda: served_serial(service.data, client_tls) == second.serial, "the new secret")


def test_client_certificates_of_a_new_authority_are_accepted_and_of_the_old_refused(
    operator: DevOperator, tmp_path: Path, files: CertificateFiles, client_tls: ssl.SSLContext
) -> None:
    old, new = trustme.CA(), trustme.CA()
    ca_file = tmp_path / "clients.pem"
    old.cert_pem.write_to_path(ca_file)
    other_client = ssl.create_default_context()
    files.authority.configure_trust(other_client)
    old.issue_cert("bidder").configure_cert(client_tls)
    new.issue_cert("bidder").configure_cert(other_client)

    def is_answered(client: ssl.SSLContext) -> bool:
        try:
            with Connection(service.data, tls=client) as connection:
                return connection.ask("/decrypt", GOOD).status == 200
        except (OSError, EOFError):
            return False

    settings = files.settings | operator_settings(operator) | {"tls_client_ca": str(ca_file)}
    with service_in_thread(**settings) as service:
        assert (is_answered(client_tls), is_answered(other_client)) == (True, False)
        new.cert_pem.write_to_path(ca_file)
        service.reload()
        wait_until(lambda: is_answered(other_client), "the new authority")
        assert not is_answered(client_tls)


def test_without_tls_the_expiry_is_zero(operator: DevOperator) -> None:
    with service_in_thread(**operator_settings(operator)) as service:
        assert scrape(service.admin).value(EXPIRY) == 0
