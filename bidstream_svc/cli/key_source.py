"""Where a command gets its keys from."""

from pathlib import Path

from bidstream_svc.cli.calls import call_operator
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.operator import fetch_keys


def read_key_file(path: Path) -> KeySnapshot:
    """Keys out of a file that holds a key response in JSON.

    Raises:
        ConfigurationError: it cannot be read.
        KeyResponseError: it holds something else.
    """
    try:
        response = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    return parse_key_response(response)


def fetch_once(**flags: object) -> KeySnapshot:
    """Fetch keys from the operator of the settings.

    Raises:
        BidstreamError: the settings or the call.
    """
    return call_operator(flags, fetch_keys).snapshot
