"""The refresher of an operator, as the settings want it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.core.keys import KeyPurpose
from bidstream_svc.keystore.key_cache import KeyCache
from bidstream_svc.keystore.key_client import KeyClient
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.shared_keys import SharedKeys
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import KEY_CELLS, LABEL_OF_SCOPE
from bidstream_svc.operator.from_settings import credentials_reader
from bidstream_svc.operator.transport import RetryPolicy
from bidstream_svc.operator_settings import OperatorSettings
from bidstream_svc.tracing import Tracer


@asynccontextmanager
async def open_refresher(
    operator: OperatorSettings,
    store: KeyStore,
    metrics: MetricCells,
    *,
    interval_s: float,
    shared: int | None = None,
    tracer: Tracer | None = None,
    purpose: KeyPurpose = KeyPurpose.BIDSTREAM,
    has_kernel: bool = IS_NATIVE,
    relay: str | None = None,
) -> AsyncIterator[KeyRefresher]:
    """Open a refresher, with the operator's key cache if it has one.

    Args:
        operator: from where the keys are.
        store: receives the keys.
        metrics: see KeyRefresher.
        interval_s: see KeyRefresher.
        shared: descriptor of the file in memory for SharedKeys; None without other workers.
        tracer: see KeyRefresher.
        purpose: of the keys. Only those for a bidstream are cached.
        has_kernel: see KeyRefresher.
        relay: see `fetch_keys`.
    """
    read_credentials = credentials_reader(operator)

    def client_secret() -> bytes:
        return read_credentials().client_secret

    def count_fallback() -> None:
        metrics.add(KEY_CELLS[LABEL_OF_SCOPE[store.scope]].fallbacks)

    cache = None
    if operator.key_cache is not None and purpose is KeyPurpose.BIDSTREAM:
        cache = KeyCache(operator.key_cache, client_secret)
    # One attempt per refresh: the refresher schedules its own retries.
    async with KeyClient(operator, RetryPolicy(attempts=1), relay=relay, on_fallback=count_fallback) as client:
        refresher = KeyRefresher(
            lambda: client.fetch(
                purpose,
                previous=store.snapshot,
                pause_s=store.parsing_pause_s,
                max_age_s=refresher.max_age_s,
            ),
            store,
            metrics,
            cache=cache,
            shared=None if shared is None else SharedKeys(shared, client_secret),
            tracer=tracer,
            interval_s=interval_s,
            has_kernel=has_kernel,
        )
        yield refresher
