"""Read the files of this directory."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from bidstream_svc.core.decrypt import CheckOptOut
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.core.status import FailureReason

DIRECTORY = Path(__file__).parent


@cache
def load(file_name: str) -> Any:
    return json.loads((DIRECTORY / file_name).read_text())


def key_response(name: str | None) -> tuple[Any, str]:
    """The operator's JSON (None for no keys loaded) and what it was fetched for."""
    if name is None:
        return None, "bidstream"
    entry = load("keys.json")[name]
    return entry["response"], entry["purpose"]


@cache
def key_snapshot(name: str | None) -> KeySnapshot | None:
    response, purpose = key_response(name)
    return None if response is None else parse_key_response(json.dumps(response), KeyPurpose(purpose))


def optout_check(optouts: Any) -> CheckOptOut | None:
    """What looks up the `optouts` of a vector; None if it has none."""

    def check(scope: IdentityScope, uid: str, _now_ms: int) -> FailureReason | None:
        if optouts == "not synced":
            return FailureReason.OPTOUTS_NOT_SYNCED
        return FailureReason.OPTED_OUT if uid in optouts.get(scope.name, []) else None

    return None if optouts is None else check
