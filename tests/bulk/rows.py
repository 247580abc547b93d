"""Rows for batches: tokens of every version, programme and failure, and what is decided about each in Python alone."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pyarrow as pa

from bidstream_svc.core.decrypt import CheckOptOut
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.core.token import BUILDERS, CLIENT_SIDE_GENERATED, OPTED_OUT
from tests.vectors.inputs import (
    CLOCK_SKEW_MS,
    HOUR_MS,
    MASTER,
    MASTER_LIKE_V3,
    MASTER_LIKE_V4,
    MAX_LIFETIME_MS,
    NOW_MS,
    RAW_UID,
    SITE,
    UNKNOWN,
    UNLISTED_SITE,
    build,
)
from tests.vectors.load import key_snapshot, load

DOMAINS = (
    *("example.com", "example.com", "EXAMPLE.com", "www.example.com", " example.com.", "example.org", "", None),
    *("b\u00fccher.de", "xn--bcher-kva.de", "\u2603.net", "a" * 255, "a" * 5_000, "com.acme.shooter", "\0"),
)
SCOPES = (None, None, None, "UID2", "EUID", "", "uid2", "UID3", "b\u00fccher")
TIMES_MS = (NOW_MS, NOW_MS, NOW_MS, NOW_MS + 2 * HOUR_MS, NOW_MS - 2 * HOUR_MS, 0, NOW_MS + 40 * 24 * HOUR_MS, None)
CHANGED: tuple[dict[str, Any], ...] = (
    {"privacy_bits": CLIENT_SIDE_GENERATED},
    {"privacy_bits": CLIENT_SIDE_GENERATED, "site_id": UNLISTED_SITE},
    {"privacy_bits": OPTED_OUT},
    {"expires_ms": NOW_MS - 1},
    {"expires_ms": NOW_MS + MAX_LIFETIME_MS + HOUR_MS},
    {"generated_ms": NOW_MS + CLOCK_SKEW_MS + 1},
    {"established_ms": -(2**62)},
)
UIDS = [b64encode(bytes([number]) * 32).decode() for number in range(20)]
OPTED_OUT_UIDS = UIDS[:5]


def keys_of(name: str) -> KeySnapshot:
    keys = key_snapshot(name)
    assert keys is not None
    return keys


def with_keys(keys: KeySnapshot, scope: IdentityScope, *key_ids: int) -> KeySnapshot:
    fields = ("sites", "checks_domains", "max_lifetime_ms", "clock_skew_ms")
    own = {key_id: keys.keys[key_id] for key_id in key_ids}
    return KeySnapshot(keys=own, scope=scope, **{field: getattr(keys, field) for field in fields})


UID2, EUID, SHARING = keys_of("uid2"), keys_of("euid"), keys_of("sharing")
# Two programmes without a key in common, as operators have them.
UID2_ALONE = with_keys(UID2, IdentityScope.UID2, MASTER, SITE)
EUID_ALONE = with_keys(UID2, IdentityScope.EUID, MASTER_LIKE_V3, MASTER_LIKE_V4)
PROGRAMMES = {
    "uid2": (UID2,),
    "euid": (EUID,),
    "sharing": (SHARING,),
    "both": (UID2_ALONE, EUID_ALONE),
    "both, other order": (EUID_ALONE, UID2_ALONE),
    "both, with common keys": (EUID, UID2),
    "none in use": (with_keys(UID2, IdentityScope.UID2),),
}


def make_tokens() -> list[str | None]:
    tokens: list[str | None] = [None, "", "abc", "garbage", "b\u00fccher" * 9, "A" * 100_000, "AA==", "\ufffd"]
    for version in BUILDERS:
        for scope in IdentityScope:
            for keys in ((MASTER, SITE), (MASTER_LIKE_V3, MASTER_LIKE_V4), (UNKNOWN, SITE), (MASTER, UNKNOWN)):
                made = [build(version, *keys, scope=scope, raw_uid=uid).token for uid in UIDS]
                made += [build(version, *keys, scope=scope, **changed).token for changed in CHANGED]
                tokens += made
                tokens += [token.rstrip("=") for token in made[:3]]
                tokens += [token.replace("+", "-").replace("/", "_") for token in made[:3]]
                tokens += [made[0][:-9], made[0][:40] + "A" + made[0][41:], made[0][:130] + "AA" + made[0][132:]]
    tokens += [row["token"] for row in load("own.json") if isinstance(row["token"], str)]
    return [
        token for token in tokens if token is None or token.isascii() or token.encode(errors="ignore").decode() == token
    ]


TOKENS = make_tokens()
GOOD = build(4).token, RAW_UID


@dataclass(frozen=True)
class Row:
    token: str | None
    domain: str | None
    scope: str | None
    at_ms: int | None


def make_rows(seed: int, count: int) -> list[Row]:
    random = Random(seed)  # noqa: S311 - repeatable
    rows = [
        Row(random.choice(TOKENS), random.choice(DOMAINS), random.choice(SCOPES), random.choice(TIMES_MS))
        for _ in range(count)
    ]
    return [random.choice(rows) if random.random() < 0.1 else row for row in rows]


def as_batch(rows: Sequence[Row], text: Any = None, **others: Any) -> pa.RecordBatch:
    """All columns, of a type of text; `others` are further ones."""
    columns = {
        name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in ("token", "domain", "scope")
    }
    times = pa.array([row.at_ms for row in rows], pa.int64()).cast(pa.timestamp("ms"))
    if text is not None:
        columns = {name: to_type(column, text) for name, column in columns.items()}
    return pa.record_batch({"first": pa.array(range(len(rows))), **columns, "at": times, **others})


def to_type(column: Any, kind: Any) -> Any:
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type).dictionary_encode()
    return column.cast(kind)


class Expected:
    """What `bind_programmes` says of each row, without a kernel."""

    def __init__(
        self, keys: Sequence[KeySnapshot], check_optout: CheckOptOut | None = None, now_ms: int = NOW_MS
    ) -> None:
        check = None if check_optout is None else lambda scope, uid, _at_ms: check_optout(scope, uid, now_ms)
        self._decrypt = bind_programmes([Programme(snapshot.scope, snapshot, None, check) for snapshot in keys])

    def of(self, row: Row) -> tuple[str | None, str | None, int | None]:
        if row.at_ms is None or row.scope not in {None, "", "UID2", "EUID"}:
            return None, None, None
        scope = IdentityScope[row.scope] if row.scope else None
        (status, uid, established_ms, _), _ = self._decrypt(row.token, row.domain, scope, row.at_ms)
        return status.value, uid, established_ms


def verdicts(batch: pa.RecordBatch) -> list[tuple[str | None, str | None, int | None]]:
    """The last three columns, which are valid."""
    batch.validate(full=True)
    return [*zip(*(batch[name].to_pylist() for name in ("status", "uid", "established")), strict=True)]
