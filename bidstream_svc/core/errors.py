"""Exceptions: faults of the configuration, of the operator and of the caller's input.

An invalid *token* raises nothing. Its outcome is a value, a `DecryptionStatus` (see `status`), because a batch must not
stop at one bad token.

No message contains a key, a secret, a token, a raw uid, a domain or personal data.
"""


class BidstreamError(Exception):
    """Base class of this package's exceptions."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without `__init__`: some subclasses make the message themselves, or have more parameters."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class ConfigurationError(BidstreamError):
    """A setting is invalid or missing. The message names it, and never contains a secret's value."""


class ListenError(BidstreamError):
    """A listening address is in use or not allowed."""


class WorkersError(BidstreamError):
    """A worker process died several times in a row right after its start."""


class ThreadFailedError(BidstreamError):
    """A thread of the service failed, which is a bug in it."""


class IdentityError(BidstreamError, ValueError):
    """An e-mail address, a phone number or a hash of one is malformed. The message does not contain it."""


class EnvelopeError(BidstreamError):
    """An encrypted request or response cannot be decrypted, or its nonce does not match."""


class EncryptionError(BidstreamError):
    """What the published SDK raises for a malformed token. Here such a token has the status INVALID_PAYLOAD.

    Nothing raises it. It exists so that code with an `except` for it runs.
    """


class KeyResponseError(BidstreamError):
    """A key response violates the protocol, or is worse than the keys in use."""


class BidRequestError(BidstreamError, ValueError):
    """A bid request is not a JSON object in UTF-8, or is nested more than 64 levels deep."""


class DamagedFileError(BidstreamError):
    """A log is not of its format, truncated or encrypted, or has a damaged row where none may be."""


class BulkOutputError(BidstreamError):
    """Where decrypted logs are written, storage failed or is full."""


class OptOutStoreError(BidstreamError):
    """The opt-out store cannot be used: it is missing, damaged, of another version, or its disk is full."""


class OptOutRecordError(BidstreamError, ValueError):
    """A raw uid, an entry of the stream or a snapshot of opt-outs is malformed. The message does not contain it."""


class OptOutStreamError(BidstreamError):
    """The stream of opt-outs, or a snapshot, cannot be reached or used. The message contains no password."""


class OperatorError(BidstreamError):
    """A call to an operator failed."""


class OperatorNetworkError(OperatorError):
    """No complete answer arrived: connection refused or reset, a TLS failure.

    Attributes:
        may_have_arrived: False only if the request cannot have reached the operator.
    """

    def __init__(self, message: str, *, may_have_arrived: bool = True) -> None:
        super().__init__(message)
        self.may_have_arrived = may_have_arrived


class OperatorTimeoutError(OperatorNetworkError):
    """No complete answer arrived in time."""


class OperatorOversizeError(OperatorNetworkError):
    """The answer is larger than the limit."""


class OperatorHttpError(OperatorError):
    """The operator answered with a status other than 200.

    Attributes:
        http_status: the HTTP status code.
        api_status: the `status` in the answer's JSON (`client_error`, ...), or None without one.
    """

    def __init__(self, message: str, http_status: int, api_status: str | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.api_status = api_status


class OperatorUnauthorizedError(OperatorHttpError):
    """The operator answered 401 or 403: the API key is invalid or lacks the role."""


class OperatorRateLimitedError(OperatorHttpError):
    """The operator answered 429: too many requests.

    Attributes:
        retry_after_s: seconds to wait, from the `Retry-After` header, or None.
    """

    def __init__(
        self, message: str, http_status: int = 429, api_status: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, http_status, api_status)
        self.retry_after_s = retry_after_s


class OperatorRedirectError(OperatorHttpError):
    """The operator answered 3xx. Redirects are not followed: the target would receive the API key."""


class OperatorAnswerError(OperatorError):
    """A decrypted answer violates the protocol."""


class InsufficientUserConsentError(OperatorError, ValueError):
    """The user's TCF consent string does not permit what a token is for, so no token was generated.

    Also a ValueError, which is what the published SDK raises.

    Attributes:
        api_status: the `status` in the operator's answer, which has HTTP status 200.
    """

    api_status = "insufficient_user_consent"

    def __init__(self) -> None:
        super().__init__("the user's consent is not sufficient for a token (insufficient_user_consent)")
