"""Fuzz targets: each takes bytes, runs the code with them, and raises on an error.

An error is any exception other than the documented one, and any disagreement: of the verdict with the plain reference,
of the fast path with aiohttp.
"""

import asyncio
import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from bidstream_svc.config import SETTINGS, load_settings
from bidstream_svc.core.crypto import (
    CBC_BLOCK_LENGTH,
    GCM_IV_LENGTH,
    cbc_encrypt,
    open_gcm,
    open_request,
    open_response,
    seal_gcm,
)
from bidstream_svc.core.decrypt import decrypt
from bidstream_svc.core.errors import BidstreamError, ConfigurationError, EnvelopeError, KeyResponseError
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.operator.messages import HttpAnswer, raise_for_status
from tests.core.assemble import standard
from tests.core.openrtb_compare import compare as compare_bid_request
from tests.core.openrtb_strategies import TOKENS
from tests.core.reference import reference_verdict
from tests.fastpath.support import FastPathSide, Side
from tests.fastpath.test_any_requests import compare
from tests.vectors.load import key_response, key_snapshot, load

_KEYS = "uid2"
_NOW_MS = 1_700_000_000_000
_MASTER_KEY_ID, _SITE_KEY_ID = 101, 202
_MAX_STREAM_BYTES = 8_192
_MAX_CUTS = 8
_HEAD_END = b"\r\n\r\n"


def _agree(token: str, domain: str | None) -> None:
    response, purpose = key_response(_KEYS)
    expected = reference_verdict(token, domain, response, _NOW_MS, purpose=purpose)
    verdict = decrypt(token, domain, key_snapshot(_KEYS), _NOW_MS)
    assert verdict == (expected.status, expected.uid, expected.established_ms, expected.reason)


def fuzz_token(data: bytes) -> None:
    """`token LF domain`, in UTF-8 as far as it is: what a bid request may carry."""
    token, has_domain, domain = data.decode("utf-8", "replace").partition("\n")
    _agree(token, domain if has_domain else None)


@cache
def _keys() -> KeySnapshot:
    keys = key_snapshot(_KEYS)
    assert keys is not None
    return keys


def fuzz_layers(data: bytes) -> None:
    """The plaintext of both layers, sealed as it should be: gets behind the tags, where chance never would.

    First byte: the token's version; second: how long the site layer is, counted from the end.
    """
    if len(data) < 2:
        return
    version, split, layers = data[0] % 3, data[1], data[2:]
    master, site = (_keys().keys[key_id].secret for key_id in (_MASTER_KEY_ID, _SITE_KEY_ID))
    outer, inner = layers[: len(layers) - split], layers[len(layers) - split :]
    if version == 0:
        iv = bytes(CBC_BLOCK_LENGTH)
        sealed = cbc_encrypt(master, iv, outer + iv + cbc_encrypt(site, iv, inner))
        raw = struct.pack(">BI", 2, _MASTER_KEY_ID) + iv + sealed
    else:
        iv = bytes(GCM_IV_LENGTH)
        head = struct.pack(">BBI", 3, 112 if version == 1 else 128, _MASTER_KEY_ID)
        raw = head + seal_gcm(master, iv, outer + seal_gcm(site, iv, inner))
    _agree(standard(raw), "example.com")


def fuzz_key_response(data: bytes) -> None:
    """A key response's JSON: a snapshot that answers, or a KeyResponseError."""
    for purpose in KeyPurpose:
        try:
            keys = parse_key_response(data, purpose)
        except KeyResponseError:
            continue
        for site_id in keys.sites:
            assert isinstance(keys.domain_names[site_id], frozenset)
        for token in _tokens():
            assert decrypt(token, "example.com", keys, _NOW_MS) == decrypt(token, "example.com", keys, _NOW_MS)


@cache
def _tokens() -> list[str]:
    """One of each version, under keys that a response may well name."""
    vectors = {vector["token"][:2]: vector["token"] for vector in load("own.json") if vector["status"] == "SUCCESS"}
    return list(vectors.values())


def fuzz_envelope(data: bytes) -> None:
    """What an operator answers, in place of an envelope and inside of one: an EnvelopeError or the body."""
    secret, nonce = bytes(32), bytes(8)
    for opening in (
        lambda: open_response(secret, data, nonce),
        lambda: open_response(secret, data, None, binary=True),
        lambda: open_request(secret, data),
        lambda: open_request(secret, data, binary=True),
        lambda: open_gcm(secret, data),
        lambda: open_response(secret, seal_gcm(secret, bytes(GCM_IV_LENGTH), data), None, binary=True),
    ):
        try:
            opening()
        except EnvelopeError:
            continue
    _check_refusal(300 + (data[0] if data else 0), data[1:])


def _check_refusal(status: int, body: bytes) -> None:
    """Every status but 200 is an error of ours, as short as a line in a log should be."""
    said = ""
    try:
        raise_for_status(HttpAnswer(status, "application/json", body))
    except BidstreamError as error:
        said = str(error)
    assert 0 < len(said) < 400


class _Sides(NamedTuple):
    runner: asyncio.Runner
    fast_path: FastPathSide
    aiohttp: Side


@cache
def _sides() -> _Sides:
    async def make() -> tuple[FastPathSide, Side]:
        return FastPathSide(), Side()

    runner = asyncio.Runner()
    return _Sides(runner, *runner.run(make()))


def fuzz_http(data: bytes) -> None:
    """A stream of requests in pieces to the fast path and to aiohttp alone: the same answers, and no exception.

    First byte: how many of the following byte pairs say where the stream is cut.
    """
    cuts = min(data[0] if data else 0, _MAX_CUTS)
    offsets = {int.from_bytes(data[1 + 2 * n : 3 + 2 * n], "big") % 3_000 for n in range(cuts)}
    stream = data[1 + 2 * cuts :][:_MAX_STREAM_BYTES]
    if stream:
        # Half a bad head is refused by the one at once, by the other when the rest has come or takes too long.
        stream += _HEAD_END
        runner, fast_path, aiohttp = _sides()
        runner.run(compare(fast_path, aiohttp, stream, offsets))


def fuzz_settings(data: bytes) -> None:
    """`name=value` lines: settings, or a ConfigurationError that repeats no secret."""
    secret = "PoSeCrEt"
    flags: dict[str, object] = {"api_key": secret, "client_secret": secret}
    for line in data.decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition("=")
        if name in SETTINGS:
            flags[name] = value
    try:
        settings = load_settings(**flags)
    except ConfigurationError as error:
        shown = str(error)
    else:
        shown = repr(settings)
    assert secret not in shown


def fuzz_openrtb(data: bytes) -> None:
    """A bid request: what the plain implementation finds and refuses, and the same bytes but for the ids.

    `@NAME@` stands for a token, which chance would not find.
    """
    for name, token in TOKENS.items():
        data = data.replace(b"@%b@" % name.encode(), token.encode())
    compare_bid_request(data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "token": fuzz_token,
    "layers": fuzz_layers,
    "key_response": fuzz_key_response,
    "envelope": fuzz_envelope,
    "openrtb": fuzz_openrtb,
    "http": fuzz_http,
    "settings": fuzz_settings,
}
