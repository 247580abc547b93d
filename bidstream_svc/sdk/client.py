"""The base class of all synchronous clients."""

from types import TracebackType
from typing import Self, TypedDict

from bidstream_svc.operator import Credentials, OperatorTransport, RetryPolicy
from bidstream_svc.sdk.background import Connection


class ClientOptions(TypedDict, total=False):
    """Keyword arguments of every client; see OperatorClient."""

    timeout_s: float
    retry: RetryPolicy | None
    allow_insecure: bool


class OperatorClient:
    """A synchronous, thread-safe client of an operator.

    The first call opens connections. `close`, the end of a `with` block, or the end of the object closes them.

    Args:
        base_url: such as `https://prod.euid.eu`; plain http only to loopback unless `allow_insecure`.
        auth_key: the API key.
        secret_key: the client secret in base64.
        timeout_s: limit for one attempt of a call.
        retry: how calls are retried where that is safe; by default four attempts within 30 s.
        allow_insecure: allow plain http to any host.

    Raises:
        ConfigurationError: the URL, the key or the secret is not accepted. The message does not contain a secret.
    """

    def __init__(
        self,
        base_url: str,
        auth_key: str,
        secret_key: str,
        *,
        timeout_s: float = 30.0,
        retry: RetryPolicy | None = None,
        allow_insecure: bool = False,
    ) -> None:
        self._transport = OperatorTransport(
            base_url,
            Credentials.from_base64(auth_key, secret_key),
            total_timeout_s=timeout_s,
            retry=retry,
            allow_insecure=allow_insecure,
        )
        self._connection = Connection(self._transport)

    def __repr__(self) -> str:
        """Show the base URL only."""
        return f"{type(self).__name__}({self._transport.base_url!r})"

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the client. The first call opens connections."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()
