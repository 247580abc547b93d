"""Sources of keys for commands: a file, or the operator."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from bidstream_svc.cli.inputs import read_any_text
from bidstream_svc.core.errors import BidstreamError, ConfigurationError, KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.keystore.refresher import require_scope
from bidstream_svc.operator import fetch_keys
from bidstream_svc.operator.from_settings import make_transport
from bidstream_svc.operator_settings import OperatorSettings


def read_key_file(path: Path) -> KeySnapshot:
    """Read keys from a file that contains a key response in JSON.

    Raises:
        ConfigurationError, InputError: the file cannot be read.
        KeyResponseError: its content is not a valid key response.
    """
    text = read_any_text(path)
    try:
        return parse_key_response(text)
    except KeyResponseError as error:
        error.add_note(f"--keys: {path}")
        raise


def read_key_files(paths: Iterable[Path]) -> list[KeySnapshot]:
    """Read keys from files, one for each programme, and return them in the order UID2, EUID.

    Raises:
        ConfigurationError: two files hold keys of the same programme.
        ConfigurationError, InputError, KeyResponseError: as for `read_key_file`.
    """
    snapshots: dict[IdentityScope, KeySnapshot] = {}
    for path in paths:
        snapshot = read_key_file(path)
        if snapshot.scope in snapshots:
            raise ConfigurationError(
                f"--keys: two files hold keys of {snapshot.scope.name}; give one for each programme"
            )
        snapshots[snapshot.scope] = snapshot
    return [snapshots[scope] for scope in sorted(snapshots)]


def fetch_once(operator: OperatorSettings) -> KeySnapshot:
    """Fetch keys from an operator.

    Raises:
        BidstreamError: settings are missing or invalid, the call failed, or the keys are of another programme than the
            settings name. It has a note with the programme if the settings name one.
    """

    async def fetch() -> KeySnapshot:
        async with make_transport(operator) as transport:
            return (await fetch_keys(transport)).snapshot

    try:
        snapshot = asyncio.run(fetch())
        require_scope(snapshot, operator.scope)
    except BidstreamError as error:
        if operator.scope is not None:
            error.add_note(operator.scope.name)
        raise
    return snapshot
