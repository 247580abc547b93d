"""Wire formats of advertising tokens, one version a module, parse beside build.

`v2`, `v3` and `v4` each hold the layout of their version, written once; `text` holds the base64 spellings.
"""

from bidstream_svc.token.content import CLIENT_SIDE_GENERATED, TokenContent, TokenKey
from bidstream_svc.token.v2 import build_v2
from bidstream_svc.token.v3 import build_v3
from bidstream_svc.token.v4 import build_v4

__all__ = [
    "CLIENT_SIDE_GENERATED",
    "TokenContent",
    "TokenKey",
    "build_v2",
    "build_v3",
    "build_v4",
]
