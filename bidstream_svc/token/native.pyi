from collections.abc import Mapping

from bidstream_svc.status import FailureReason
from bidstream_svc.token.v3 import GcmCipher, OpenedToken

def decode_text(token: str) -> bytes: ...
def make_gcm_cipher(secret: bytes) -> GcmCipher: ...
def open_token(
    raw: bytes,
    prefix_of_scope: int,
    master_ciphers: Mapping[int, GcmCipher],
    site_ciphers: Mapping[int, GcmCipher],
    now_ms: int,
) -> OpenedToken | FailureReason: ...
