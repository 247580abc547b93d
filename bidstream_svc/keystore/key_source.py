"""Keys from an operator, once, for commands and jobs."""

import asyncio

from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.keystore.key_client import KeyClient
from bidstream_svc.keystore.refresher import require_scope
from bidstream_svc.operator_settings import OperatorSettings


def fetch_once(operator: OperatorSettings) -> KeySnapshot:
    """Fetch keys from an operator, or from its fallback.

    Raises:
        BidstreamError: settings are missing or invalid, the call failed, or the keys are of another programme than the
            settings name. It has a note with the programme if the settings name one.
    """

    async def fetch() -> KeySnapshot:
        async with KeyClient(operator) as client:
            return (await client.fetch()).snapshot

    try:
        snapshot = asyncio.run(fetch())
        require_scope(snapshot, operator.scope)
    except BidstreamError as error:
        if operator.scope is not None:
            error.add_note(operator.scope.name)
        raise
    return snapshot
