"""API keys, and the roles that decide which endpoints a key may call."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum

import pybase64

_API_KEY_LENGTH = 33
_SECRET_LENGTH = 32


class Role(StrEnum):
    """A permission of an API key."""

    GENERATOR = "generator"  # publishers
    BIDDER = "bidder"  # DSPs; operators call it ID_READER
    MAPPER = "mapper"  # advertisers
    SHARER = "sharer"
    OPTOUT = "optout"  # /v2/token/logout; participants do not get it


ALL_ROLES = frozenset(Role)


@dataclass(frozen=True, slots=True)
class ApiClient:
    """A caller: an API key, its client secret (base64 of 32 bytes), its site and its roles."""

    api_key: str = field(repr=False)
    client_secret: str = field(repr=False)
    site_id: int
    roles: frozenset[Role]


class ApiClients:
    """All API keys: a main one, one for each role, one without a role, and those that are added.

    Args:
        randbytes: randomness for the main key.
        other_randbytes: randomness for all others, so that they do not change the main key of a seed.
        prefix: the API keys begin with it and a site id.
        site_id: the site that the keys belong to.
        roles: roles of the main key.
    """

    def __init__(
        self,
        randbytes: Callable[[int], bytes],
        other_randbytes: Callable[[int], bytes],
        *,
        prefix: str,
        site_id: int,
        roles: Collection[Role],
    ) -> None:
        self._randbytes, self._other_randbytes = randbytes, other_randbytes
        self._prefix = prefix
        self.main = self._make(randbytes, site_id, roles)
        self._by_api_key = {self.main.api_key: self.main}
        self.with_one_role = {role: self.add(site_id, {role}) for role in Role}
        self.without_role = self.add(site_id, ())

    def add(self, site_id: int, roles: Collection[Role]) -> ApiClient:
        """Make another API key."""
        client = self._make(self._other_randbytes, site_id, roles)
        self._by_api_key[client.api_key] = client
        return client

    def find(self, api_key: str) -> ApiClient | None:
        """Return the caller with this API key, or None."""
        return self._by_api_key.get(api_key)

    def rotate_main(self) -> None:
        """Replace the main API key and its secret. The old ones are refused from now on."""
        del self._by_api_key[self.main.api_key]
        self.main = self._make(self._randbytes, self.main.site_id, self.main.roles)
        self._by_api_key[self.main.api_key] = self.main

    def _make(self, randbytes: Callable[[int], bytes], site_id: int, roles: Collection[Role]) -> ApiClient:
        api_key = f"{self._prefix}{site_id}-{pybase64.b64encode_as_string(randbytes(_API_KEY_LENGTH))}"
        return ApiClient(api_key, pybase64.b64encode_as_string(randbytes(_SECRET_LENGTH)), site_id, frozenset(roles))
