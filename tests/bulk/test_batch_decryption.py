"""A batch of rows gets what each row gets alone."""

import pyarrow as pa
import pytest

from bidstream_svc.bulk import BatchKeys, BatchOptions, decrypt_batch
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme, bind_programmes
from tests.vectors.inputs import NOW_MS
from tests.vectors.load import key_snapshot, load


def keys_of(name: str) -> KeySnapshot:
    keys = key_snapshot(name)
    assert keys is not None
    return keys


UID2 = keys_of("uid2")


def is_text(value: object) -> bool:
    """Whether a column of text can hold it: a string without a lone surrogate, or null."""
    return value is None or (
        isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def test_vectors() -> None:
    rows = [
        row for row in load("own.json") if row["keys"] == "uid2" and all(map(is_text, (row["token"], row["domain"])))
    ]
    batch = pa.record_batch({name: pa.array([row[name] for row in rows]) for name in ("token", "domain", "now_ms")})
    out = decrypt_batch(batch, UID2, BatchOptions(time_column="now_ms"), now_ms=NOW_MS)
    assert out.schema.names == ["domain", "now_ms", "status", "uid", "established"]
    decrypt = bind_programmes([Programme(UID2.scope, UID2)])
    expected = [decrypt(row["token"], row["domain"], None, row["now_ms"])[0] for row in rows]
    assert len(expected) > 50
    assert out["status"].to_pylist() == [verdict[0].value for verdict in expected]
    assert out["uid"].to_pylist() == [verdict[1] for verdict in expected]
    assert out["established"].to_pylist() == [verdict[2] for verdict in expected]


def test_what_cannot_be_used_is_refused() -> None:
    batch = pa.record_batch({"token": ["x"], "uid": [1]})
    with pytest.raises(ConfigurationError, match="'uid'"):
        decrypt_batch(batch, UID2)
    with pytest.raises(ConfigurationError, match="'t'"):
        decrypt_batch(batch.select(["token"]), UID2, BatchOptions(token_column="t"))
    with pytest.raises(ConfigurationError, match="merge"):
        BatchKeys([UID2, UID2])
