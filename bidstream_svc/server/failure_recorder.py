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
from bidstream_svc.metrics.failure_sample import FailureSample
from bidstream_svc.metrics.failure_slots import FailureRow, FailureWriter
from bidstream_svc.metrics.site_failures import Site, SitedFailure

_FAILURES_PER_ITERATION = 4
# How many characters are mapped in a period, of names that are not ASCII or in IDNA form: 1 ms of work.
_MAPPED_CHARACTERS = 512
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
        names, sited = PeriodNames(), list[SitedFailure]()
        for start in range(0, len(period.sample), _FAILURES_PER_ITERATION):
            programmes = self._stores.current.programmes
            for reason, scope, token, name in period.sample[start : start + _FAILURES_PER_ITERATION]:
                sited.append(SitedFailure(reason, _site_of(token, scope, programmes), names.normalise(name)))
            await asyncio.sleep(0)
        self._writer.add(period.failures, sited, time.monotonic())


def _site_of(token: str, scope: IdentityScope | None, programmes: Sequence[Programme]) -> Site | None:
    for programme in programmes:
        if programme.keys is not None and programme.keys.scope is scope:
            site_id = read_site_id(token, programme.keys, programme.open_natively)
            return None if site_id is None else Site(site_id, programme.keys.scope)
    return None


class PeriodNames:
    """Normalises the names of a period, those that are mapped up to a limit."""

    def __init__(self) -> None:
        self._left = _MAPPED_CHARACTERS
        self._normalised: dict[str, str | None] = {}

    def normalise(self, name: str | None) -> str | None:
        """Normalise a name. Returns None for what does not look like one, because it is going to be shown."""
        if name is None:
            return None
        if name not in self._normalised:
            self._normalised[name] = self._read(name)
        return self._normalised[name]

    def _read(self, name: str) -> str | None:
        if not name.isascii() or "--" in name:
            if len(name) > self._left:
                return None
            self._left -= len(name)
        return _shown(normalise_domain(name))


def _shown(name: str) -> str | None:
    is_shown = name.isprintable() and _NAME.fullmatch(name) and len(name.encode()) <= _MAX_NAME_BYTES
    return name if is_shown else None
