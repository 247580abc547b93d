"""The credentials of a participant."""

import re
from dataclasses import dataclass, field
from typing import Self

import pybase64

from bidstream_svc.core.errors import ConfigurationError

CLIENT_SECRET_LENGTH = 32  # AES-256
_API_KEY = re.compile(r"[!-~]+")  # printable ASCII without spaces: valid in an HTTP header


@dataclass(frozen=True, slots=True)
class Credentials:
    """An API key and its client secret. The repr shows neither.

    Attributes:
        api_key: the bearer token.
        client_secret: 32 bytes.

    Raises:
        ConfigurationError: the API key is empty or not allowed in a header, or the secret is not 32 bytes long.
    """

    api_key: str = field(repr=False)
    client_secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Validate both."""
        if not _API_KEY.fullmatch(self.api_key):
            raise ConfigurationError("API key is empty or contains whitespace or other characters invalid in a header")
        if len(self.client_secret) != CLIENT_SECRET_LENGTH:
            raise ConfigurationError(
                f"client secret is {len(self.client_secret)} bytes long; {CLIENT_SECRET_LENGTH} are required"
            )

    @classmethod
    def from_base64(cls, api_key: str, client_secret: str) -> Self:
        """Make credentials from text: the secret in standard base64. Surrounding whitespace is ignored.

        Raises:
            ConfigurationError: the secret is not base64, or as for the class. The message contains neither value.
        """
        try:
            secret = pybase64.b64decode(client_secret.strip(), validate=True)
        except ValueError:
            # Not chained: some error reporters show the arguments of the calls in a traceback.
            raise ConfigurationError("client secret is not base64") from None
        return cls(api_key.strip(), secret)
