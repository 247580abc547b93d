# The types are those of the Python implementations.
from bidstream_svc.core.token.text import decode_text as decode_text
from bidstream_svc.core.token.v3 import make_gcm_cipher as make_gcm_cipher
from bidstream_svc.core.token.v3 import open_token as open_token
