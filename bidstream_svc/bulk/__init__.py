"""Logs in bulk: tokens or bid requests in columns, decrypted by the same rules as over HTTP.

Needs the extra `bulk`. Without it, importing this package raises ConfigurationError.
"""

from bidstream_svc.core.errors import ConfigurationError

try:
    import pyarrow  # noqa: ICN001, F401 - only whether it is there
except ModuleNotFoundError:
    raise ConfigurationError("needs the extra `bulk`: pip install 'bidstream-svc[bulk]'") from None

from bidstream_svc.bulk.batch_decryption import decrypt_batch
from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions

__all__ = ["BatchKeys", "BatchOptions", "decrypt_batch"]
