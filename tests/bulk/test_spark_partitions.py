"""What Spark's workers do with a partition, without Spark."""

import pyarrow as pa
import pytest

from bidstream_svc.bulk import BatchOptions
from bidstream_svc.bulk.shipped_keys import ShippedKeys
from bidstream_svc.bulk.spark import _Decrypt
from bidstream_svc.core.errors import ConfigurationError
from tests.bulk.logs import keys
from tests.vectors.inputs import NOW_MS


def written_rows(*bid_requests: str) -> int:
    options = BatchOptions(bid_request_column="bid")
    decrypt = _Decrypt(ShippedKeys(keys().snapshots), options, None, withholds=False, now_ms=NOW_MS)
    return sum(piece.num_rows for piece in decrypt(iter([pa.record_batch({"bid": list(bid_requests)})])))


def test_damaged_rows_among_bid_requests_without_tokens_are_no_wrong_column() -> None:
    damaged = ["["] * 1_000
    assert written_rows("{}", *damaged) == 1_000
    with pytest.raises(ConfigurationError, match="no valid value in 'bid'"):
        written_rows(*damaged)
