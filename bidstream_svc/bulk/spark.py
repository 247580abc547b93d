"""Logs on Spark: a DataFrame with tokens in, the same rows with status, uid and time out."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bidstream_svc.bulk.batch_decryption import decrypt_batch, decrypt_in_pieces
from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.shipped_keys import ShippedKeys
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import load_settings
from bidstream_svc.core.errors import ConfigurationError, OptOutStoreError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_merge import merge_by_programme
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.keystore.key_files import read_key_files
from bidstream_svc.keystore.key_source import fetch_once
from bidstream_svc.operator_settings import OPERATOR_FIELDS
from bidstream_svc.optouts.optout_reader import OptOutReader

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

# Of a partition in which each row is damaged. A few may be by chance; of so many, a column is the wrong one.
_MIN_DAMAGED_ROWS = 1_000

KeySource = str | os.PathLike[str] | KeySnapshot


def decrypt(
    df: "DataFrame",
    keys: KeySource | Iterable[KeySource] | None = None,
    options: BatchOptions | None = None,
    *,
    optouts: str | os.PathLike[str] | None = None,
    now_ms: int | None = None,
) -> "DataFrame":
    """Decrypt the tokens of a DataFrame, of classic Spark or Spark Connect, in its Python workers.

    Keys are read or fetched here, once, and go to the workers within the function that they run; no plan, log or page
    of Spark shows them. The environment's settings (`BIDSTREAM_*`) count here, and not on workers.

    Args:
        df: rows with tokens or bid requests.
        keys: files with key responses in JSON, which are merged, or snapshots; None for the operators of the settings.
        options: which columns say what; None for the usual names, and the sources of eids of the settings.
        optouts: directory of an opt-out store on every worker; a relative one may also be what `--files` or
            `--archives` have brought. None for that of the settings.
        now_ms: the current time, Unix ms; None for that of this call. It is the same for all rows, however late they
            are computed, or computed again.

    Returns:
        The columns of `decrypt_batch`. With a bid request column, `row` is the number of the row within its partition.

    Raises:
        ConfigurationError: settings or key files cannot be used, a column is missing, or the extra `spark` is.
        BidstreamError: a call to an operator failed.
    """
    settings = load_settings() if keys is None else load_settings(**dict.fromkeys(_OPERATORS))
    if optouts is None:
        optouts = settings.optout_store
    if optouts is None:
        warnings.warn("no opt-out store is given: users who have opted out are decrypted, too", stacklevel=2)
    options = BatchOptions(sources=dict(settings.eid_sources)) if options is None else options
    snapshots = [fetch_once(operator) for operator in settings.operators] if keys is None else _read(keys)
    function = _Decrypt(
        ShippedKeys(snapshots),
        options,
        None if optouts is None else os.fspath(optouts),
        withholds=settings.optout_when_stale == "withhold",
        now_ms=wall_clock_ms() if now_ms is None else now_ms,
    )
    return df.mapInArrow(function, _output_schema(df, function))


class _Decrypt:
    """What Python workers run. It is pickled; its repr, which plans and logs may show, has nothing that is secret."""

    __name__ = "decrypt"

    def __init__(
        self, keys: ShippedKeys, options: BatchOptions, optouts: str | None, *, withholds: bool, now_ms: int
    ) -> None:
        self._keys = keys
        self._options = options
        self._optouts = optouts
        self._withholds = withholds
        self._now_ms = now_ms
        self._id = os.urandom(16)

    def __repr__(self) -> str:
        """Show counts only."""
        return f"decrypt({self._keys!r})"

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Decrypt the batches of a partition."""
        keys = self._open()
        rows = damaged_rows = 0
        for batch in batches:
            for piece in decrypt_in_pieces(batch, keys, self._options, now_ms=self._now_ms, first_row=rows):
                damaged_rows += piece.column("status").null_count
                yield piece
            rows += batch.num_rows  # those of bid requests without tokens, too, which give no row
        if damaged_rows == rows >= _MIN_DAMAGED_ROWS:
            columns = filter(
                None, [self._options.time_column, self._options.scope_column, self._options.bid_request_column]
            )
            raise ConfigurationError(
                f"no row of a partition can be judged: there is no valid value in {' or '.join(map(repr, columns))}"
            )

    def decrypt_none(self, schema: pa.Schema) -> pa.RecordBatch:
        """Decrypt a batch without rows, for its schema."""
        return decrypt_batch(
            pa.RecordBatch.from_pylist([], schema), BatchKeys(self._keys.snapshots), self._options, now_ms=self._now_ms
        )

    def _open(self) -> BatchKeys:
        """Return the keys of this process, which a worker uses for one partition after another."""
        if self._id not in _opened:
            for _, earlier in _opened.values():
                if earlier is not None:
                    earlier.close()
            _opened.clear()
            store = self._open_store()
            _opened[self._id] = BatchKeys(self._keys.snapshots, store), store
        return _opened[self._id][0]

    def _open_store(self) -> OptOutReader | None:
        if self._optouts is None:
            return None
        try:
            return OptOutReader(_find_store(self._optouts), withholds=self._withholds)
        except OptOutStoreError as error:
            raise OptOutStoreError(f"{error}; this directory has to be on every worker") from None


# Of the last `decrypt`, by its id.
_opened: dict[bytes, tuple[BatchKeys, OptOutReader | None]] = {}
_OPERATORS = [
    f"{prefix}{name}"
    for prefix in ("", *(f"{scope.name.lower()}_" for scope in IdentityScope))
    for name in OPERATOR_FIELDS
]


def _find_store(directory: str) -> Path:
    """Where a store is on a worker: there, or where Spark has put what was shipped."""
    path = Path(directory)
    if path.is_absolute() or path.is_dir():
        return path
    from pyspark import SparkFiles  # noqa: PLC0415

    return Path(SparkFiles.get(directory))


def _read(keys: KeySource | Iterable[KeySource]) -> list[KeySnapshot]:
    sources: Sequence[Any] = [keys] if isinstance(keys, str | os.PathLike | KeySnapshot) else list(keys)
    snapshots = [each for each in sources if isinstance(each, KeySnapshot)]
    files = [Path(each) for each in sources if not isinstance(each, KeySnapshot)]
    return merge_by_programme([*snapshots, *read_key_files(files)])


def _output_schema(df: "DataFrame", function: _Decrypt) -> "StructType":
    """The own columns as they are in Spark, and those that are added."""
    from pyspark.sql import types  # noqa: PLC0415

    own = {field.name: field for field in df.schema.fields}
    added = {pa.string(): types.StringType(), pa.int64(): types.LongType()}
    arrow = pa.schema([(name, _arrow_type(field.dataType.simpleString())) for name, field in own.items()])
    fields = function.decrypt_none(arrow).schema
    return types.StructType([own.get(each.name) or types.StructField(each.name, added[each.type]) for each in fields])


def _arrow_type(spark_type: str) -> pa.DataType:
    """The Arrow type of a Spark type that may decide; of all others, one that may not, with Spark's name in it."""
    if spark_type.startswith(("varchar", "char")):
        return pa.string()
    if spark_type.startswith("decimal("):
        precision, scale = spark_type.removeprefix("decimal(").removesuffix(")").split(",")
        return pa.decimal128(int(precision), int(scale))
    return _ARROW_TYPES.get(spark_type) or pa.struct([(spark_type, pa.null())])


_ARROW_TYPES = {
    "void": pa.null(),
    "string": pa.string(),
    "binary": pa.binary(),
    "timestamp": pa.timestamp("us", "UTC"),
    "timestamp_ntz": pa.timestamp("us"),
    "date": pa.date32(),
    "bigint": pa.int64(),
    "int": pa.int32(),
    "smallint": pa.int16(),
    "tinyint": pa.int8(),
    "double": pa.float64(),
    "float": pa.float32(),
}
