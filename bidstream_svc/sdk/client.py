"""What all synchronous clients have in common."""

from types import TracebackType
from typing import Self, TypedDict

from bidstream_svc.operator import Credentials, OperatorTransport, RetryPolicy
from bidstream_svc.sdk.background import Connection


class ClientOptions(TypedDict, total=False):
    """Keyword arguments that every client takes; see OperatorClient."""

    timeout_s: float
    retry: RetryPolicy | None
    allow_insecure: bool


class OperatorClient:
    """A client of one operator. Any thread may use it; a call blocks its own thread only.

    Connections are opened by the first call and closed by `close`, at the end of a `with`, or with the object.

    Args:
        base_url: such as `https://prod.euid.eu`; plain http only to a loopback address, unless `allow_insecure`.
        auth_key: the API key.
        secret_key: the client secret in base64.
        timeout_s: for one attempt of a call.
        retry: how many attempts are made where a repeat is safe, and how far apart; by default four within 30 s.
        allow_insecure: plain http to any host.

    Raises:
        ConfigurationError: the URL, the key or the secret will not do; the message does not repeat a secret.
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
        """Where to, nothing secret."""
        return f"{type(self).__name__}({self._transport.base_url!r})"

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Nothing is opened yet."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()
