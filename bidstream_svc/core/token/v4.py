"""Version 4: the layout of version 3 in base64url without padding, which is safe in a URL."""

import pybase64

from bidstream_svc.core.token.content import TokenContent, TokenKey
from bidstream_svc.core.token.v3 import build_token_bytes

VERSION = 128


def build_v4(content: TokenContent, master: TokenKey, site: TokenKey) -> str:
    """Build a token in unpadded base64url. Raises ValueError as `build_token_bytes` does."""
    return pybase64.urlsafe_b64encode(build_token_bytes(VERSION, content, master, site)).decode().rstrip("=")
