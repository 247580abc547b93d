"""One part: read, decrypted, written aside and renamed. Both engines call this."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bidstream_svc.bulk.batch_keys import BatchKeys
from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.parts import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    """What became of a part. Plain values only; it is the part's record in JSON, too.

    Attributes:
        name: of the part's output file.
        url: of its input file.
        rows: read, damaged ones included.
        written: rows in the output file.
        statuses: how many of these have each status.
        damaged_rows: rows that could not be read, or have a null status.
        damage: of the first few of these, such as "row 17: the time is unreadable". They contain no values.
        problem: why the file is damaged, in which case there is no output file; None if it is not.
        output_bytes: size of the output file.
    """

    name: str
    url: str
    rows: int = 0
    written: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    damaged_rows: int = 0
    damage: tuple[str, ...] = ()
    problem: str | None = None
    output_bytes: int = 0


class StoppedError(Exception):
    """`stop` said so; the part has no output file."""


def process_part(
    part: Part,
    output: str,
    keys: BatchKeys,
    options: BatchOptions,
    now_ms: int,
    *,
    strict: bool = False,
    stop: Callable[[int], bool] = lambda _done_bytes: False,
) -> PartResult:
    """Decrypt a part: writes `output/_bulk/tmp/UNIQUE`, then the part's record, and renames the file to its name.

    May be done again, and by two at once: the later one replaces the file by the same.

    Args:
        part: what to read, and the name of what to write.
        output: path or URL of the output directory, which `run.open_run` has prepared.
        keys: any number of threads may share them.
        options: of the decryption.
        now_ms: Unix ms, the same for all parts of a run.
        strict: whether the first damaged row raises.
        stop: called between batches with the bytes of the part that are done; True to stop.

    Returns:
        What became of it. A damaged file is no exception, but a result with a `problem`.

    Raises:
        ConfigurationError: the options do not fit the columns.
        DamagedFileError: under `strict`, a row or the file is damaged.
        StoppedError: `stop` said so.
        OSError: storage failed, or is full. There is no output file, and nothing is left aside.
    """
    raise NotImplementedError
