"""Base64 around sealed answers that `crypto.open_response` is not for."""

import pybase64

from bidstream_svc.errors import EnvelopeError

__all__ = ["decode_base64"]


def decode_base64(text: bytes) -> bytes:
    """Decode standard base64, blanks around it allowed.

    Raises:
        EnvelopeError: it is none.
    """
    try:
        return pybase64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise EnvelopeError("message is not base64") from None
