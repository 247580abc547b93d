"""The verdicts on a batch: from the kernel as far as it answers, and from Python for the rows that it leaves."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from bidstream_svc.bulk.batch_columns import DAMAGED_SCOPE, NO_SCOPE, BatchColumns
from bidstream_svc.bulk.row_decryptor import RowDecryptor
from bidstream_svc.core.decrypt import Verdict
from bidstream_svc.core.errors import DamagedFileError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import IS_NATIVE, LeftRow, NumberBuffers, OpenedRow, TextBuffers
from bidstream_svc.core.status import DecryptionStatus, FailureReason

if IS_NATIVE or TYPE_CHECKING:
    from bidstream_svc.core.kernel import Kernel, decrypt_columns

# The kernel's numbers for what is no status: a damaged row, and one that it leaves to Python.
_DAMAGED, _LEFT = 1, 2
# The reasons that it gives, from the next number on: those of `src/reason.rs`.
_REASONS = (
    FailureReason.NOT_A_TOKEN,
    FailureReason.BAD_ENCODING,
    FailureReason.VERSION_UNKNOWN,
    FailureReason.MASTER_KEY_UNKNOWN,
    FailureReason.MASTER_LAYER,
    FailureReason.EXPIRED,
    FailureReason.SITE_KEY_UNKNOWN,
    FailureReason.SITE_LAYER,
    FailureReason.DOMAIN_MISSING,
    FailureReason.LIFETIME_TOO_LONG,
    FailureReason.GENERATED_IN_FUTURE,
    FailureReason.OPTED_OUT_AT_GENERATION,
)
# By the numbers in the column of statuses; last those that Python writes.
STATUS_NAMES = ["SUCCESS", None, None, *(reason.status.value for reason in _REASONS), *map(str, DecryptionStatus)]
_NUMBERS = {name: number for number, name in enumerate(STATUS_NAMES) if name is not None}
_SCOPES = {**{int(scope): scope for scope in IdentityScope}, NO_SCOPE: None}


class VerdictColumns:
    """Status, raw uid and time of each row, which `fill_natively` and `fill_in_python` write.

    Args:
        columns: of a batch.
        count: how many rows it has.
    """

    def __init__(self, columns: BatchColumns, count: int) -> None:
        self._columns, self._count = columns, count
        self._statuses = bytearray([_LEFT]) * count
        self._uids, self._established = pa.nulls(count, pa.string()), pa.nulls(count, pa.int64())
        self._opened: list[OpenedRow] = []  # rows that are left although their tokens open
        self._left: list[LeftRow] | None = None  # the other rows that are left; None for all

    def fill_natively(self, kernels: "Sequence[Kernel]", now_ms: int) -> None:
        """Let kernels decrypt what they can, without the GIL.

        Raises:
            DamagedFileError: offsets do not fit their buffers.
        """
        columns, count = self._columns, self._count
        try:
            block, lengths, opened, left = decrypt_columns(
                kernels,
                count,
                tokens=_text_buffers(columns.tokens),
                domains=None if columns.domains is None else _text_buffers(columns.domains),
                scopes=_number_buffers(columns.scopes),
                times=_number_buffers(columns.times),
                now_ms=now_ms,
            )
        except ValueError:
            raise _damaged() from None
        except RuntimeError:  # a fault of the kernel, which leaves all rows to Python
            return
        parts, start = [], 0
        for length in lengths:
            parts.append(pa.py_buffer(memoryview(block)[start : start + length]))
            start += length
        established, offsets, validity, statuses, uids = parts
        self._uids = pa.Array.from_buffers(pa.string(), count, [validity, offsets, uids])
        self._established = pa.Array.from_buffers(pa.int64(), count, [validity, established])
        self._statuses, self._opened, self._left = bytearray(statuses), opened, left

    def fill_in_python(self, decryptor: RowDecryptor) -> None:
        """Decide about the rows that are left.

        Raises:
            DamagedFileError: offsets do not fit their buffers.
        """
        left = self._all_rows() if self._left is None else self._left
        statuses = self._statuses
        good: list[tuple[int, str, int]] = []
        verdicts = chain(decryptor.judge(self._opened), self._decrypt(left, decryptor))
        for row, (status, uid, established_ms, _) in verdicts:
            statuses[row] = _NUMBERS[status]
            if uid is not None and established_ms is not None:
                good.append((row, uid, established_ms))
        if good:
            self._put(sorted(good))

    def arrays(self) -> list[Any]:
        """Return the columns status, uid and established."""
        numbers = pa.Array.from_buffers(pa.int8(), self._count, [None, pa.py_buffer(self._statuses)])
        statuses = pa.DictionaryArray.from_arrays(numbers, pa.array(STATUS_NAMES, pa.string()))
        return [statuses.dictionary_decode(), self._uids, self._established]

    def _decrypt(self, rows: Iterable[Any], decryptor: RowDecryptor) -> Iterator[tuple[int, Verdict]]:
        """Decrypt rows whose tokens no kernel has opened. Without a kernel, some may be damaged."""
        decrypt, scopes = decryptor.decrypt, _SCOPES
        for row, token, domain, scope, at_ms in rows:
            if at_ms is None or scope == DAMAGED_SCOPE:
                self._statuses[row] = _DAMAGED
            else:
                yield row, decrypt(token, domain, scopes[scope], at_ms)

    def _all_rows(self) -> Iterable[Any]:
        """Return what the kernel would have handed over, perhaps with damaged times and programmes."""
        columns = self._columns
        for texts in (columns.tokens, columns.domains):
            _check_offsets(texts)
        values = [
            _to_list(column) if isinstance(column, pa.Array) else repeat(column, self._count) for column in columns
        ]
        return zip(range(self._count), *values, strict=True)

    def _put(self, good: Sequence[tuple[int, str, int]]) -> None:
        """Add what Python has found good."""
        bits = bytearray(-(-self._count // 8))
        for row, _, _ in good:
            bits[row >> 3] |= 1 << (row & 7)
        mask = pa.Array.from_buffers(pa.bool_(), self._count, [None, pa.py_buffer(bits)])
        _, uids, established = zip(*good, strict=True)
        self._uids = pc.replace_with_mask(self._uids, mask, pa.array(uids, pa.string()))
        self._established = pc.replace_with_mask(self._established, mask, pa.array(established, pa.int64()))


def _damaged() -> DamagedFileError:
    return DamagedFileError("the columns are damaged: offsets do not fit their data")


def _check_offsets(texts: Any) -> None:
    """Check what the kernel would have checked."""
    if texts is not None:
        try:
            _as_binary(texts).validate(full=True)  # not whether it is UTF-8
        except pa.ArrowInvalid:
            raise _damaged() from None


def _is_large(kind: Any) -> bool:
    return kind in {pa.large_string(), pa.large_binary()}


def _as_binary(texts: Any) -> Any:
    return texts.view(pa.large_binary() if _is_large(texts.type) else pa.binary())


def _text_buffers(array: Any) -> TextBuffers:
    validity, offsets, data = array.buffers()
    return TextBuffers(validity if array.null_count else None, offsets, data, array.offset, _is_large(array.type))


def _number_buffers(column: Any) -> NumberBuffers | int:
    if isinstance(column, int):
        return column
    validity, values = column.buffers()
    return NumberBuffers(validity if column.null_count else None, values, column.offset)


def _to_list(column: Any) -> list[Any]:
    """Return the values. Bytes that are not UTF-8 are no token and no name; they become a text that is neither."""
    if pa.types.is_integer(column.type):
        values: list[Any] = column.to_pylist()
        return values
    try:
        return column.view(pa.large_string() if _is_large(column.type) else pa.string()).to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        values = _as_binary(column).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]
