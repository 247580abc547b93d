"""Wire formats of advertising tokens.

`v2`, `v3` and `v4` parse and build one version each; `text` decodes base64.
"""

from bidstream_svc.core.token.content import CLIENT_SIDE_GENERATED, OPTED_OUT, OpenedToken, TokenContent, TokenKey
from bidstream_svc.core.token.text import decode_text
from bidstream_svc.core.token.v2 import build_v2
from bidstream_svc.core.token.v3 import build_v3, make_gcm_cipher
from bidstream_svc.core.token.v4 import build_v4

# Version of a token -> (content, master key, site key) -> its text.
BUILDERS = {2: build_v2, 3: build_v3, 4: build_v4}

__all__ = [
    "BUILDERS",
    "CLIENT_SIDE_GENERATED",
    "OPTED_OUT",
    "OpenedToken",
    "TokenContent",
    "TokenKey",
    "build_v4",
    "decode_text",
    "make_gcm_cipher",
]
