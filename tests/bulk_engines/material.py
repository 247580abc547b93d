"""A million rows with tokens of two programmes, of every version and failure, and what `/decrypt` says of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import parquet

from bidstream_svc.core.token import decode_text
from bidstream_svc.devoperator import OperatorState
from tests.core.assemble import spellings
from tests.support.optouts import OptedOut
from tests.support.raw_http import Connection

ROWS, FILES = 1_000_000, 24
_USERS = 500
_DAY_S = 24 * 3600
_BATCH = 1_000
_DOMAINS = (
    *[None, "example.com", "example.org", "com.example.app"] * 5,
    *("EXAMPLE.com", "www.example.com", " example.com.", "example.net", "bücher.de", "xn--bcher-kva.de", "", "co.uk"),
    *("a" * 300, "\u2028", "exam\u00adple.com", "123456789"),
)
_VERDICT = ("status", "uid", "established")


@dataclass(frozen=True)
class Logs:
    """Logs in a directory, and the opted-out raw uids of their users.

    Attributes:
        secrets: what must be in no log file: keys, credentials and raw uids.
    """

    directory: Path
    tokens: list[str | None]
    domains: list[str | None]
    optouts: list[OptedOut]
    secrets: list[bytes]


def write_logs(directory: Path, states: Sequence[OperatorState]) -> Logs:
    random = Random(17)  # noqa: S311 - not for secrets
    minted = [each for state in states for each in _mint(state)]
    tokens = [_token(random, minted) for _ in range(ROWS)]
    domains = [random.choice(_DOMAINS) for _ in range(ROWS)]
    directory.mkdir()
    size = -(-ROWS // FILES)
    for number in range(FILES):
        rows = range(number * size, min(ROWS, (number + 1) * size))
        columns = {
            "id": pa.array(rows, pa.int64()),
            "token": pa.array([tokens[row] for row in rows], pa.string()),
            "domain": pa.array([domains[row] for row in rows], pa.string()),
            "price": pa.array([None if row % 7 == 0 else row / 8 for row in rows], pa.float64()),
        }
        parquet.write_table(pa.table(columns), directory / f"part-{number:03}.parquet")
    uids = [(state.scope, state.raw_uid(_user(number))) for state in states for number in range(_USERS)]
    return Logs(directory, tokens, domains, uids[::10], [*_secrets(states), *(uid.encode() for _, uid in uids)])


def table_of(directory: Path, *, pattern: str = "*.parquet") -> pa.Table:
    """The rows of an output, in the order of their ids; each id once."""
    found = pa.concat_tables(
        parquet.read_table(path, partitioning=None) for path in sorted(directory.glob(pattern)) if path.name[0] != "_"
    ).sort_by("id")
    assert found.column("id").to_pylist() == list(range(len(found)))
    return found


def ask_sidecar(address: str, logs: Logs) -> pa.Table:
    """The verdicts of /decrypt/batch."""
    answers: list[Mapping[str, Any]] = []
    with Connection(address) as connection:
        for body in _bodies(logs):
            response = connection.ask("/decrypt/batch", body)
            assert response.status == 200, response.body
            answers += orjson.loads(response.body)["results"]
    types = (pa.string(), pa.string(), pa.int64())
    return pa.table(
        {name: pa.array([each[name] for each in answers], kind) for name, kind in zip(_VERDICT, types, strict=True)}
    )


def leaks(secrets: Sequence[bytes], files: Iterator[Path]) -> list[str]:
    """Names of files with one of the secrets, after a look into each."""
    found = []
    for path in files:
        content = path.read_bytes()
        if any(secret in content for secret in secrets):
            found.append(str(path))
    return found


def _user(number: int) -> str:
    return f"user-{number}@example.com"


def _mint(state: OperatorState) -> list[str]:
    """Tokens of each kind. None of their verdicts changes within a day."""
    now_ms = state.now_ms()
    unlisted = state.make_unlisted_key()
    usual = {"lifetime_s": 2 * _DAY_S, "generated_ms": now_ms - 3_600_000}
    kinds: list[dict[str, Any]] = [
        *[{}] * 4,
        {"client_side": True},
        {"client_side": True, "site_id": 102},
        {"client_side": True, "site_id": 103},
        {"lifetime_s": 60, "generated_ms": now_ms - _DAY_S * 1000},
        {"lifetime_s": 20 * _DAY_S},
        {"opted_out": True},
        {"master_key": unlisted},
        {"site_key": unlisted},
        {"generated_ms": now_ms + 2 * _DAY_S * 1000},
    ]
    return [
        state.mint_token(version, identity=_user(number), **{**usual, "established_ms": now_ms - number, **kind})
        for number in range(_USERS)
        for version in (2, 3, 4)
        for kind in (kinds[(number + version) % len(kinds)], {})
    ]


def _token(random: Random, minted: Sequence[str]) -> str | None:
    """A token as it is, in another spelling, damaged, or none at all."""
    token = random.choice(minted)
    chance = random.random()
    if chance < 0.6:
        return token
    if chance < 0.8:
        return random.choice([*spellings(decode_text(token)).values()])
    if chance < 0.9:
        place = random.randrange(len(token))
        return token[:place] + random.choice('ABCz09-_+/=!é" \\\n') + token[place + 1 :]
    if chance < 0.95:
        return token[: random.randrange(len(token))]
    return random.choice((None, "", "no token", "A" * 700, "====", "\U0001f600"))


def _bodies(logs: Logs) -> Iterator[dict[str, Any]]:
    # A column has nulls, which /decrypt does not take; both an empty text and a null are no token.
    rows = [{"token": token or "", "domain": domain} for token, domain in zip(logs.tokens, logs.domains, strict=True)]
    return ({"requests": rows[start : start + _BATCH]} for start in range(0, len(rows), _BATCH))


def _secrets(states: Sequence[OperatorState]) -> Iterator[bytes]:
    for state in states:
        yield state.api_key.encode()
        yield state.client_secret.encode()
        for key in state.keys.all():
            yield key.secret
            yield from (spelled.encode() for spelled in spellings(key.secret).values())
