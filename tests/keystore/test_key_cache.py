"""The key cache: what it stores, what it rejects, and that its errors stop nothing."""

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pybase64
import pytest
from structlog.testing import capture_logs

from bidstream_svc.core.crypto import Envelope, seal_response
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.key_endpoints import bidstream_keys
from bidstream_svc.devoperator.state import Lifetimes
from bidstream_svc.keystore.key_cache import MAX_FILE_BYTES, KeyCache
from bidstream_svc.keystore.refresher import KeyRefresher
from bidstream_svc.keystore.store import KeyStore
from bidstream_svc.metrics import MetricCells
from bidstream_svc.operator.credentials import Credentials
from bidstream_svc.operator.key_fetch import fetch_keys
from bidstream_svc.operator.transport import OperatorTransport
from tests.support.metrics_page import scrape
from tests.support.operator import operator_in_thread, running_operator
from tests.support.sidecar import operator_settings, service_in_thread, wait_until


@pytest.fixture
async def operator() -> AsyncIterator[DevOperator]:
    async with running_operator() as running:
        yield running


@pytest.fixture
async def wire(operator: DevOperator) -> bytes:
    """A key response as the operator sealed it."""
    credentials = Credentials.from_base64(operator.state.api_key, operator.state.client_secret)
    async with OperatorTransport(operator.url, credentials) as transport:
        return (await fetch_keys(transport)).wire


@pytest.fixture
def secret(operator: DevOperator) -> bytes:
    return pybase64.b64decode(operator.state.client_secret)


@pytest.fixture
def cache(tmp_path: Path, secret: bytes) -> KeyCache:
    return KeyCache(tmp_path / "keys", lambda: secret)


def test_what_is_saved_is_loaded(cache: KeyCache, wire: bytes, operator: DevOperator) -> None:
    with capture_logs() as log:
        assert cache.save(wire)
        loaded = cache.load()
    assert log == []
    assert loaded is not None
    assert loaded.wire == wire
    assert set(loaded.snapshot.keys) == {key.key_id for key in operator.state.keys.listed(operator.state.now_s())}


def test_the_file_is_the_response_as_received_and_ours_alone(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        cache.save(wire)
    finally:
        os.umask(old_mask)
    assert (tmp_path / "keys").read_bytes() == wire
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "keys"]


def test_no_secret_stands_in_the_file(cache: KeyCache, wire: bytes, operator: DevOperator, tmp_path: Path) -> None:
    cache.save(wire)
    content = (tmp_path / "keys").read_bytes()
    for text in (content, pybase64.b64decode(content)):
        for key in operator.state.keys.listed(operator.state.now_s()):
            assert key.secret not in text
            assert pybase64.b64encode(key.secret) not in text
        assert operator.state.client_secret.encode() not in text
        assert operator.state.api_key.encode() not in text
        assert b"example.com" not in text


def test_a_new_response_replaces_the_old_one_whole(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"older and longer " * 1000)
    with (tmp_path / "keys").open("rb") as reader:
        cache.save(wire)
        assert reader.read() == b"older and longer " * 1000
    assert (tmp_path / "keys").read_bytes() == wire


@pytest.mark.parametrize(("left_ms", "is_used"), [(1, True), (0, False)])
async def test_keys_are_used_until_the_last_expires(cache: KeyCache, wire: bytes, left_ms: int, is_used: bool) -> None:  # noqa: FBT001 - a parameter of the test
    cache.save(wire)
    loaded, store = cache.load(), KeyStore()
    assert loaded is not None
    now_ms = loaded.snapshot.last_expiry_ms - left_ms
    refresher = KeyRefresher(asyncio.Future, store, MetricCells(), cache=cache, interval_s=1, now_ms=lambda: now_ms)
    await refresher._load_cache()
    assert (store.snapshot is not None) == store.is_from_cache == is_used
    assert (store.keys.kernel is not None) == (is_used and IS_NATIVE)


@pytest.mark.parametrize(
    ("scope", "error"),
    [(IdentityScope.UID2, "all its keys have expired"), (IdentityScope.EUID, "its keys are of UID2")],
)
async def test_the_log_tells_whose_keys_are_not_used(
    cache: KeyCache, wire: bytes, scope: IdentityScope, error: str
) -> None:
    cache.save(wire)
    store = KeyStore(scope=scope)
    refresher = KeyRefresher(asyncio.Future, store, MetricCells(), cache=cache, interval_s=1, now_ms=lambda: 2**62)
    with capture_logs() as log:
        await refresher._load_cache()
    (line,) = log
    assert (line["event"], line["scope"]) == ("key cache ignored", scope.name)
    assert error in line["error"]
    assert store.snapshot is None


def is_ignored(cache: KeyCache, level: str = "warning") -> str:
    """Load; one line in the log must say why that gives nothing. Returns the line's event and error."""
    with capture_logs() as log:
        assert cache.load() is None
    (line,) = log
    assert line["log_level"] == level
    return f"{line['event']}: {line.get('error', '')}"


def spoilt(wire: bytes) -> dict[str, bytes]:
    raw = pybase64.b64decode(wire)
    flipped = bytearray(raw)
    flipped[len(raw) // 2] ^= 1
    return {
        "empty": b"",
        "text": b"not a key response\n",
        "binary": bytes(range(256)),
        "base64 of little": pybase64.b64encode(b"x"),
        "truncated": wire[: len(wire) // 2],
        "one character short": wire[:-1],
        "three characters short": wire[:-3],
        "truncated inside": pybase64.b64encode(raw[:-7]),
        "flipped": pybase64.b64encode(bytes(flipped)),
        "doubled": wire + wire,
    }


async def test_invalid_files_are_ignored_with_a_log_line(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    for content in spoilt(wire).values():
        (tmp_path / "keys").write_bytes(content)
        assert is_ignored(cache).startswith("key cache ignored: message ")


def test_a_foreign_response_is_ignored(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    cache.save(wire)
    foreign = KeyCache(tmp_path / "keys", lambda: bytes(32))
    assert "wrong secret" in is_ignored(foreign)


def test_without_the_client_secret_the_cache_is_ignored(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    def no_secret() -> bytes:
        raise ConfigurationError("BIDSTREAM_CLIENT_SECRET: missing")

    cache.save(wire)
    assert is_ignored(KeyCache(tmp_path / "keys", no_secret)) == "key cache ignored: BIDSTREAM_CLIENT_SECRET: missing"


def test_a_missing_file_is_not_logged(cache: KeyCache) -> None:
    assert is_ignored(cache, "info").startswith("key cache is empty")


def test_a_directory_in_its_place_is_ignored(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    assert is_ignored(cache) == "key cache ignored: Is a directory"
    assert not_written(cache, wire) == "Is a directory"
    assert list(tmp_path.iterdir()) == [tmp_path / "keys"]


def test_only_a_regular_file_is_read_and_replaced(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    assert is_ignored(cache) == "key cache ignored: Not a regular file"
    assert not_written(cache, wire) == "Not a regular file"
    assert (tmp_path / "keys").is_fifo()
    assert list(tmp_path.iterdir()) == [tmp_path / "keys"]


def bytes_read() -> int:
    """Bytes that this process has read from files so far."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


@pytest.mark.parametrize("size", [MAX_FILE_BYTES + 1, 3 * 1024**3])
def test_a_huge_file_is_not_read_but_replaced(cache: KeyCache, wire: bytes, tmp_path: Path, size: int) -> None:
    (tmp_path / "keys").touch()
    os.truncate(tmp_path / "keys", size)
    before = bytes_read()
    assert is_ignored(cache) == "key cache ignored: Larger than 67108864 bytes"
    assert bytes_read() - before < 1024 * 1024
    assert cache.save(wire)
    assert (tmp_path / "keys").read_bytes() == wire


@pytest.mark.parametrize("has_target", [False, True])
def test_a_link_is_written_through(
    wire: bytes,
    secret: bytes,
    tmp_path: Path,
    has_target: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    elsewhere, link, second = tmp_path / "elsewhere", tmp_path / "keys", tmp_path / "second"
    elsewhere.mkdir()
    link.symlink_to(second)
    second.symlink_to("elsewhere/keys")
    if has_target:
        (elsewhere / "keys").write_bytes(b"older")
    cache = KeyCache(link, lambda: secret)
    assert cache.save(wire)
    assert link.is_symlink()
    assert second.is_symlink()
    assert (elsewhere / "keys").read_bytes() == wire
    assert cache.load() is not None
    assert list(elsewhere.iterdir()) == [elsewhere / "keys"]


def test_a_link_to_itself_is_neither_read_nor_replaced(cache: KeyCache, wire: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys").symlink_to("keys")
    assert is_ignored(cache) == "key cache ignored: Too many levels of symbolic links"
    assert not_written(cache, wire) == "Too many levels of symbolic links"


def test_a_link_at_the_temporary_name_is_not_followed(
    cache: KeyCache, wire: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"of another user")
    (tmp_path / ".keys.aaaaaaaa.new").symlink_to(other)
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: iter(["aaaaaaaa", "bbbbbbbb"]))
    assert cache.save(wire)
    assert other.read_bytes() == b"of another user"
    assert (tmp_path / "keys").read_bytes() == wire
    assert not (tmp_path / "keys").is_symlink()


def test_processes_with_the_same_id_save_at_the_same_time(
    cache: KeyCache, wire: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In containers that share a directory the ids are usually equal."""
    flush, saved = os.fsync, []

    def save_in_between(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", flush)
        saved.append(cache.save(b"of the other"))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", save_in_between)
    assert cache.save(wire)
    assert saved == [True]
    assert (tmp_path / "keys").read_bytes() == wire
    assert list(tmp_path.iterdir()) == [tmp_path / "keys"]


def test_old_temporary_files_are_removed(wire: bytes, secret: bytes, tmp_path: Path) -> None:
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    (tmp_path / "link").symlink_to(directory / "keys")
    kept = {".other.aaaaaaaa.new", ".keys.aaaaaaaa.new.txt", ".keys.new", "keys.aaaaaaaa.new"}
    for name in kept | {".keys.aaaaaaaa.new"}:
        (directory / name).touch()
        os.utime(directory / name, (1, 1))
    (directory / ".keys.bbbbbbbb.new").touch()  # another process may be writing it
    assert KeyCache(tmp_path / "link", lambda: secret).save(wire)
    assert {path.name for path in directory.iterdir()} == kept | {"keys", ".keys.bbbbbbbb.new"}


def not_written(cache: KeyCache, wire: bytes) -> str:
    with capture_logs() as log:
        assert not cache.save(wire)
    (line,) = log
    assert line["event"] == "key cache not written"
    return str(line["error"])


def test_a_path_that_cannot_be_written_is_not_an_error(tmp_path: Path, wire: bytes, secret: bytes) -> None:
    missing = KeyCache(tmp_path / "missing" / "keys", lambda: secret)
    assert not_written(missing, wire) == "No such file or directory"
    in_a_file = tmp_path / "file"
    in_a_file.touch()
    assert not_written(KeyCache(in_a_file / "keys", lambda: secret), wire) == "Not a directory"
    assert is_ignored(KeyCache(in_a_file / "keys", lambda: secret)) == "key cache ignored: Not a directory"


# The service with a cache.


@pytest.fixture
def cached(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings with a cache that a service has filled; the operator has stopped since."""

    def fill(state: OperatorState) -> dict[str, Any]:
        with operator_in_thread(state) as operator:
            settings = operator_settings(operator) | {"key_cache": str(tmp_path / "keys")}
            with service_in_thread(**settings):
                wait_until((tmp_path / "keys").exists, "the cache to be written")
        return settings

    return fill


def test_a_start_while_the_operator_is_down_serves_from_the_cache(cached: Callable[..., dict[str, Any]]) -> None:
    state = OperatorState(seed=7)
    settings = cached(state)
    with service_in_thread(**settings) as service:
        assert service.decrypt(state.mint_token())["status"] == "SUCCESS"
        assert service.get("/readyz").status == 200
        wait_until(lambda: service.get("/info").json["last_refresh_error"], "the first refresh to fail")
        info = service.get("/info").json
        assert info["keys"]["from_cache"] is True
        assert info["last_refresh"] is None
        assert scrape(service.admin).total("bidstream_keys_from_cache") == 1

        port = int(settings["operator_url"].rpartition(":")[2])
        with operator_in_thread(state, port=port):
            service.reload()
            wait_until(lambda: service.get("/info").json["keys"]["from_cache"] is False, "fresh keys")
            assert scrape(service.admin).total("bidstream_keys_from_cache") == 0


def test_a_cache_whose_keys_have_expired_is_not_used(cached: Callable[..., dict[str, Any]]) -> None:
    # Keys are made an hour old; these have two seconds to live, enough to be fetched.
    state = OperatorState(seed=7, lifetimes=Lifetimes(key_s=3602))
    settings = cached(state)
    wait_until(lambda: not state.keys.listed(state.now_s()), "the keys to expire")
    with capture_logs() as log, service_in_thread(started=False, **settings) as service:
        wait_until(lambda: service.get("/info").json["last_refresh_error"], "the first refresh to fail")
        assert service.decrypt(state.mint_token())["status"] == "NOT_INITIALIZED"
        assert service.get("/info").json["keys"] is None
    assert ("key cache ignored", "all its keys have expired") in [(line["event"], line.get("error")) for line in log]


def test_a_malformed_key_among_good_ones_does_not_stop_the_service(tmp_path: Path) -> None:
    state = OperatorState(seed=7)
    response = bidstream_keys(state, {})
    response["body"]["keys"].insert(1, {"id": 99, "secret": None, "expires": 0})
    envelope = Envelope(0, bytes(8), orjson.dumps(response))
    (tmp_path / "keys").write_bytes(seal_response(pybase64.b64decode(state.client_secret), bytes(12), envelope))
    with operator_in_thread(state) as operator:
        settings = operator_settings(operator) | {"key_cache": str(tmp_path / "keys")}
    with service_in_thread(**settings) as service:
        assert service.decrypt(state.mint_token())["status"] == "SUCCESS"
        assert scrape(service.admin).total("bidstream_keys_skipped") == 1
        keys = service.get("/info").json["keys"]
        assert (keys["skipped_keys"], keys["skipped_sites"]) == (1, 0)
        assert keys["skipped_reasons"] == ["keys[1]: Expected base64 - at `$.secret`"]


def test_a_fifo_as_cache_stops_neither_the_start_nor_the_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with operator_in_thread() as operator:
        settings = operator_settings(operator) | {"key_cache": str(tmp_path / "keys")}
        with service_in_thread(**settings) as service:
            wait_until(
                lambda: scrape(service.admin).total("bidstream_key_cache_writes_total", result="failure"), "a write"
            )
    assert (tmp_path / "keys").is_fifo()
