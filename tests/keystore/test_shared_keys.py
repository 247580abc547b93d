"""The key response that workers leave for their successors: what is read, what is ignored, and that nothing waits."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pybase64
import pytest
from structlog.testing import capture_logs

from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.keystore.key_cache import KeyCache
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.shared_keys import SharedKeys, make_shared_file
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.key_fetch import FetchedKeys, fetch_keys
from bidstream_svc.operator.transport import OperatorTransport
from tests.support.operator import running_operator

LOCK = """
import fcntl, sys, time
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator() as running:
        yield running


@pytest.fixture
async def fetched(operator: DevOperator) -> FetchedKeys:
    credentials = Credentials.from_base64(operator.state.api_key, operator.state.client_secret)
    async with OperatorTransport(operator.url, credentials) as transport:
        return await fetch_keys(transport)


@pytest.fixture
def secret(operator: DevOperator) -> bytes:
    return pybase64.b64decode(operator.state.client_secret)


@pytest.fixture
def shared(secret: bytes) -> SharedKeys:
    return SharedKeys(make_shared_file(), lambda: secret)


def content_of(shared: SharedKeys) -> bytes:
    return os.pread(shared._descriptor, 1 << 20, 0)


def is_ignored(shared: SharedKeys) -> bool:
    with capture_logs() as log:
        assert shared.load() is None
    return [line["event"] for line in log] == ["keys of other workers ignored"]


def test_what_one_leaves_another_finds_sealed_as_it_came(
    shared: SharedKeys, fetched: FetchedKeys, secret: bytes
) -> None:
    assert shared.load() is None
    shared.save(fetched.wire * 2)
    shared.save(fetched.wire)
    assert content_of(shared) == fetched.wire
    found = SharedKeys(shared._descriptor, lambda: secret).load()
    assert found is not None
    assert found.wire == fetched.wire
    assert found.snapshot.keys.keys() == fetched.snapshot.keys.keys()


def test_a_half_written_response_and_another_secret_are_ignored(shared: SharedKeys, fetched: FetchedKeys) -> None:
    shared.save(fetched.wire)
    assert is_ignored(SharedKeys(shared._descriptor, lambda: bytes(32)))
    for torn in (fetched.wire[:-9], fetched.wire + b"left of a longer one", b"AAAA" * 9 + fetched.wire[36:]):
        shared.save(torn)
        assert is_ignored(shared)


def test_a_stopped_writer_blocks_nobody(shared: SharedKeys, fetched: FetchedKeys) -> None:
    shared.save(fetched.wire)
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(shared._descriptor)],
        stdout=subprocess.PIPE,
        pass_fds=[shared._descriptor],
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"locked\n"
        writer.send_signal(signal.SIGSTOP)
        shared.save(b"another")
        assert content_of(shared) == fetched.wire
        writer.kill()
    shared.save(b"another")
    assert content_of(shared) == b"another", "the lock of a dead writer is gone"


async def test_a_refresher_leaves_each_response_and_begins_with_what_was_left(
    shared: SharedKeys, fetched: FetchedKeys
) -> None:
    async def fetch() -> FetchedKeys:
        return fetched

    first, second = (
        KeyRefresher(fetch, store, MetricCells(), shared=shared, interval_s=3600) for store in (KeyStore(), KeyStore())
    )
    assert await first.refresh()
    assert content_of(shared) == fetched.wire
    await second._load_cache()
    assert second._store.snapshot is not None
    assert (second._store.keys.kernel is not None) == IS_NATIVE
    assert second._store.is_from_cache


async def test_the_key_cache_is_read_where_nothing_good_was_left(
    shared: SharedKeys, fetched: FetchedKeys, secret: bytes, tmp_path: Path
) -> None:
    cache, store = KeyCache(tmp_path / "keys", lambda: secret), KeyStore()
    assert cache.save(fetched.wire)
    shared.save(fetched.wire[:-9])
    with capture_logs():
        await KeyRefresher(_no_fetch, store, MetricCells(), cache=cache, shared=shared, interval_s=3600)._load_cache()
    assert store.snapshot is not None
    assert content_of(shared) == fetched.wire, "what the others read is there for the next, too"


async def _no_fetch() -> FetchedKeys:
    raise AssertionError
