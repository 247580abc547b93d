"""Finds out which sites the tokens are of that were not decrypted, from the sample that the hot path takes."""

import asyncio
import re
import time
from collections.abc import Sequence

from bidstream_svc.core.domains import normalise_domain
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.programmes import Programme
from bidstream_svc.core.token_details import read_site_id
from bidstream_svc.keystore.store import KeyStores
from bidstream_svc.metrics.failure_sample import Failure, FailureSample
from bidstream_svc.metrics.failure_slots import FailureRow, FailureWriter
from bidstream_svc.metrics.site_failures import Site, SitedFailure

_FAILURES_PER_ITERATION = 4  # a name may take 0.3 ms to normalise
_MAX_NAME_BYTES = 255
# Of a domain or app name, without what makes an address, a token or markup. The labels of tokens are longer.
_LABEL = r"[a-z0-9_\-\x80-\U0010ffff]{1,63}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


class FailureRecorder:
    """Records the failures of a worker. For the thread of its loop.

    Args:
        stores: the keys of all programmes, with which sites are read.
        row: takes the result.

    Attributes:
        sample: takes what is recorded.
    """

    def __init__(self, stores: KeyStores, row: FailureRow) -> None:
        self._stores = stores
        self._writer = FailureWriter(row, time.monotonic())
        self.sample = FailureSample()

    async def record(self) -> None:
        """Record the period since the last call, a few failures per loop iteration. No token is kept."""
        period = self.sample.take()
        if not period.failures:
            return
        sited: list[SitedFailure] = []
        for start in range(0, len(period.sample), _FAILURES_PER_ITERATION):
            programmes = self._stores.current.programmes
            sited += [_find_site(each, programmes) for each in period.sample[start : start + _FAILURES_PER_ITERATION]]
            await asyncio.sleep(0)
        self._writer.add(period.failures, sited, time.monotonic())


def _find_site(failure: Failure, programmes: Sequence[Programme]) -> SitedFailure:
    reason, scope, token, name = failure
    return SitedFailure(reason, _site_of(token, scope, programmes), _shown_name(name))


def _site_of(token: str, scope: IdentityScope | None, programmes: Sequence[Programme]) -> Site | None:
    for programme in programmes:
        if programme.keys is not None and programme.keys.scope is scope:
            site_id = read_site_id(token, programme.keys, programme.open_natively)
            return None if site_id is None else Site(site_id, programme.keys.scope)
    return None


def _shown_name(name: str | None) -> str | None:
    """Normalise a name. Returns None for what does not look like one, because it is going to be shown."""
    normalised = normalise_domain(name or "")
    if not normalised.isprintable() or not _NAME.fullmatch(normalised):
        return None
    return normalised if len(normalised.encode()) <= _MAX_NAME_BYTES else None
