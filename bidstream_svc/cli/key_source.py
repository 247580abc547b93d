"""Sources of keys for commands: a file, or the operator."""

from pathlib import Path

from bidstream_svc.cli.calls import call_operator
from bidstream_svc.cli.inputs import read_text
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.operator import fetch_keys


def read_key_file(path: Path) -> KeySnapshot:
    """Read keys from a file that contains a key response in JSON.

    Raises:
        ConfigurationError, InputError: as for `read_text`.
        KeyResponseError: its content is not a valid key response.
    """
    return parse_key_response(read_text(path, "a key response in JSON").encode())


def fetch_once(**flags: object) -> KeySnapshot:
    """Fetch keys from the configured operator.

    Raises:
        BidstreamError: the settings are invalid, or the call failed.
    """
    return call_operator(flags, fetch_keys).snapshot
