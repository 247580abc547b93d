"""Raw ids out of UID2/EUID advertising tokens: a sidecar for bidders, and the SDK around it."""

from bidstream_svc._version import __version__
from bidstream_svc.decrypt import Verdict, decrypt
from bidstream_svc.keys import KeyPurpose, KeySnapshot, parse_key_response
from bidstream_svc.status import DecryptionStatus, FailureReason

__all__ = [
    "DecryptionStatus",
    "FailureReason",
    "KeyPurpose",
    "KeySnapshot",
    "Verdict",
    "__version__",
    "decrypt",
    "parse_key_response",
]
