"""Faults of configuration, of the operator and of the caller's input.

What is wrong with a *token* is no exception: it is a `DecryptionStatus` (see `status`), because a batch must not
stop at one bad token. The tree::

    BidstreamError
    ├── ConfigurationError       a setting is wrong or missing; the message names it, never its value if secret
    ├── ListenError              an address to listen on is in use or not allowed
    ├── WorkersError             worker processes died again and again
    ├── IdentityError            an e-mail address or phone number is malformed; the message does not repeat it
    ├── EnvelopeError            a sealed request or response does not open, or its nonce is not ours
    ├── KeyResponseError         a key response is not what the protocol says
    └── OperatorError            a call to an operator failed
        ├── OperatorNetworkError     no complete answer: refused, reset, TLS
        │   ├── OperatorTimeoutError     it did not come in time
        │   └── OperatorOversizeError    it is larger than we take
        ├── OperatorHttpError        an answer with another status than 200; has `http_status`, `api_status`
        │   ├── OperatorUnauthorizedError    401: the API key is wrong or lacks the permission
        │   ├── OperatorRateLimitedError     429: too many requests; has `retry_after_s`
        │   └── OperatorRedirectError        3xx: redirects are not followed
        └── OperatorAnswerError      the answer opened, but is not what the protocol says

No message holds a key, a secret, a token, a raw uid, a domain or personal data.
"""


class BidstreamError(Exception):
    """Base of every exception that this package raises on purpose."""


class ConfigurationError(BidstreamError):
    """A setting is wrong or missing."""


class ListenError(BidstreamError):
    """An address cannot be listened on."""


class WorkersError(BidstreamError):
    """Worker processes died again and again."""


class IdentityError(BidstreamError, ValueError):
    """An e-mail address, phone number or hash of one is malformed."""


class EnvelopeError(BidstreamError):
    """A sealed request or response does not open."""


class KeyResponseError(BidstreamError):
    """A key response does not hold what the protocol says."""


class OperatorError(BidstreamError):
    """A call to an operator failed."""


class OperatorNetworkError(OperatorError):
    """The operator gave no complete answer.

    Attributes:
        may_have_arrived: False only if the request certainly never reached the operator.
    """

    def __init__(self, message: str, *, may_have_arrived: bool = True) -> None:
        super().__init__(message)
        self.may_have_arrived = may_have_arrived


class OperatorTimeoutError(OperatorNetworkError):
    """The operator did not answer in time."""


class OperatorOversizeError(OperatorNetworkError):
    """The operator's answer is larger than we take."""


class OperatorHttpError(OperatorError):
    """The operator answered with a status other than 200.

    Attributes:
        http_status: the HTTP status code.
        api_status: the `status` of the operator's JSON (`client_error`, ...), or None if it sent no such JSON.
    """

    def __init__(self, message: str, http_status: int, api_status: str | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.api_status = api_status


class OperatorUnauthorizedError(OperatorHttpError):
    """The operator answered 401."""


class OperatorRateLimitedError(OperatorHttpError):
    """The operator answered 429.

    Attributes:
        retry_after_s: the seconds that the operator asks to wait, or None.
    """

    def __init__(
        self, message: str, http_status: int = 429, api_status: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, http_status, api_status)
        self.retry_after_s = retry_after_s


class OperatorRedirectError(OperatorHttpError):
    """The operator answered 3xx; following would show the API key to whoever it names."""


class OperatorAnswerError(OperatorError):
    """The operator's answer does not hold what the protocol says."""
