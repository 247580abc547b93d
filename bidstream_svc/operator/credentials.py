"""What an operator knows a participant by."""

import re
from dataclasses import dataclass, field
from typing import Self

import pybase64

from bidstream_svc.core.errors import ConfigurationError

CLIENT_SECRET_LENGTH = 32  # AES-256
_API_KEY = re.compile(r"[!-~]+")  # what an HTTP header takes, without blanks


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API key and the client secret that belongs to it; a repr shows neither.

    Attributes:
        api_key: the bearer text.
        client_secret: 32 bytes.

    Raises:
        ConfigurationError: the API key is empty or holds what no header takes, or the secret is not 32 bytes long.
    """

    api_key: str = field(repr=False)
    client_secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check both."""
        if not _API_KEY.fullmatch(self.api_key):
            raise ConfigurationError("API key is empty or holds blanks or other characters that no HTTP header takes")
        if len(self.client_secret) != CLIENT_SECRET_LENGTH:
            raise ConfigurationError(
                f"client secret is {len(self.client_secret)} bytes long; {CLIENT_SECRET_LENGTH} are needed"
            )

    @classmethod
    def from_base64(cls, api_key: str, client_secret: str) -> Self:
        """Read a pair as it is handed out: the secret in standard base64; blanks around either are dropped.

        Raises:
            ConfigurationError: the secret is not base64, and as for the class; the message repeats neither value.
        """
        try:
            secret = pybase64.b64decode(client_secret.strip(), validate=True)
        except ValueError:
            # Not chained: the traceback of the other would show the call's argument in some reporters.
            raise ConfigurationError("client secret is not base64") from None
        return cls(api_key.strip(), secret)
