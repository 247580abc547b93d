"""TLS of the data plane, from files that may change while the service runs."""

import ssl
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from bidstream_svc.clock import iso_time, wall_clock_ms
from bidstream_svc.config import Settings, env_name
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.files import read_file
from bidstream_svc.logs import get_logger

_log = get_logger(__name__)

MAX_PEM_FILE_BYTES = 1024 * 1024

_NO_CERTIFICATE = "has no valid certificate in PEM"


class TlsFiles(NamedTuple):
    """The files of the data plane's TLS, in PEM.

    Attributes:
        certificate: the chain, the server's certificate first.
        key: the private key of that certificate.
        client_ca: the authorities of client certificates; None if clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Validity(NamedTuple):
    """When all certificates of a chain are valid, in Unix ms."""

    not_before_ms: int
    not_after_ms: int

    def problem(self, now_ms: int) -> str | None:
        """Return why the chain is not valid at a time, or None if it is."""
        if now_ms < self.not_before_ms:
            return f"not valid before {iso_time(self.not_before_ms)}"
        if now_ms >= self.not_after_ms:
            return f"expired at {iso_time(self.not_after_ms)}"
        return None


class Tls(NamedTuple):
    """A server context and the validity of its certificates."""

    context: ssl.SSLContext
    validity: Validity


class ServerTls:
    """The TLS in use.

    Args:
        files: the files.

    Attributes:
        current: replaced as a whole by `reload`.

    Raises:
        ConfigurationError: as for `load_tls`.
    """

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = _digest(files)
        self._problem: tuple[str, bytes] | None = None  # of the last `reload`, with the files if they could be read
        self.current = load_tls(files)
        self._warn_if_not_valid()

    def reload(self) -> bool:
        """Load the files again if one has changed. Returns whether new ones are in use.

        If they are not valid together, the old ones stay in use, and the error is logged once per change.
        """
        seen = b""
        try:
            seen = _digest(self._files)
            current = self.current if seen == self._seen else load_tls(self._files)
        except ConfigurationError as error:
            # Tried again at the next look: the reason need not be the content.
            problem = str(error), seen
            if problem != self._problem:
                self._problem = problem
                _log.warning("certificate not reloaded", error=str(error))
            return False
        self._problem = None
        if current is self.current:
            return False
        self.current, self._seen = current, seen
        _log.info("certificate reloaded", not_after=iso_time(self.current.validity.not_after_ms))
        self._warn_if_not_valid()
        return True

    def _warn_if_not_valid(self) -> None:
        if problem := self.current.validity.problem(wall_clock_ms()):
            _log.warning("certificate not valid", error=problem)


def tls_files(settings: Settings) -> TlsFiles | None:
    """Return the files that the settings name, or None without TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def load_tls(files: TlsFiles) -> Tls:
    """Load the files.

    Raises:
        ConfigurationError: a file cannot be read, is not a regular file, has more than MAX_PEM_FILE_BYTES or no valid
            content, or the key does not belong to the certificate or is encrypted. The message names the setting.
    """
    # Read first, because OpenSSL would wait for a FIFO.
    chain, *_ = _read(files)
    validity = _validity(chain, files.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_refuse_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigurationError(_describe_pair_error(error, files.key)) from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except OSError:
            raise ConfigurationError(f"{env_name('tls_client_ca')}: {files.client_ca} {_NO_CERTIFICATE}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return Tls(context, validity)


def _read(files: TlsFiles) -> list[bytes]:
    """Read the files that are given, in their order."""
    variables = (env_name(name) for name in ("tls_cert", "tls_key", "tls_client_ca"))
    return [
        read_file(path, variable, MAX_PEM_FILE_BYTES)
        for path, variable in zip(files, variables, strict=True)
        if path is not None
    ]


def _digest(files: TlsFiles) -> bytes:
    """Return a value that changes with the content of a file. The private key itself is not kept."""
    return b"".join(sha256(content).digest() for content in _read(files))


def _validity(chain: bytes, path: Path) -> Validity:
    """Return when all certificates in a file are valid."""
    from cryptography import x509  # noqa: PLC0415 - takes 30 ms, and few listeners have TLS

    try:
        certificates = x509.load_pem_x509_certificates(chain)
        not_before = max(certificate.not_valid_before_utc for certificate in certificates)
        not_after = min(certificate.not_valid_after_utc for certificate in certificates)
    except (ValueError, x509.InvalidVersion):
        raise ConfigurationError(f"{env_name('tls_cert')}: {path} {_NO_CERTIFICATE}") from None
    return Validity(*(int(time.timestamp()) * MS_PER_S for time in (not_before, not_after)))


def _describe_pair_error(error: OSError | ValueError, key: Path) -> str:
    name = env_name("tls_key")
    if not isinstance(error, OSError):
        return f"{name}: {key} is encrypted; store the private key without a passphrase"
    match getattr(error, "reason", None):
        # The last one: the certificate needs a key of another type.
        case "KEY_VALUES_MISMATCH" | "KEY_TYPE_MISMATCH" | "NO_CERTIFICATE_ASSIGNED":
            return f"{env_name('tls_cert')}, {name}: the private key does not belong to the certificate"
        case None:
            return f"{name}: {key} has no valid private key in PEM"
    return f"{env_name('tls_cert')}, {name}: cannot be loaded: {error.strerror}"


def _refuse_password() -> str:
    # Without this, OpenSSL would ask for one on the terminal.
    raise ValueError
