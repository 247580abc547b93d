"""A run: what is to be done and what is done already, so that a run that was stopped goes on."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import msgspec

from bidstream_svc.bulk.batch_options import BatchOptions
from bidstream_svc.bulk.output_directory import OutputDirectory
from bidstream_svc.bulk.part_work import PartResult
from bidstream_svc.bulk.parts import Part, find_parts
from bidstream_svc.bulk.storage import absolute, describe
from bidstream_svc.core.errors import BulkOutputError, ConfigurationError

_VERSION = 1
# What the command calls them, where that is not the name with dashes.
_OPTIONS = {"inputs": "LOGS", "at_ms": "--at", "sources": "--eid-sources", "version": "version", "options": "options"}


class Run:
    """A run, while it has its output directory for itself.

    Attributes:
        now_ms: Unix ms, as of which its parts are judged: when it was started first.
        todo: parts that have no output yet.
        kept: what became of the others, and of those whose input is gone.
    """

    def __init__(self, directory: OutputDirectory, state: dict[str, Any], parts: Sequence[Part]) -> None:
        self._directory = directory
        self._state = state
        self.now_ms: int = state["now_ms"]
        self.todo: list[Part] = []
        self.kept: list[PartResult] = []
        self._compare(parts)

    def finish(self) -> None:
        """Note that all is done: what is added to the inputs later is judged as of then."""
        self._directory.write_run({**self._state, "is_finished": True})

    def _compare(self, parts: Sequence[Part]) -> None:
        """Compare the parts with the records of those that are done, and discard what has another input now."""
        sizes = self._directory.sizes()
        wanted = {part.name: part for part in parts}
        # Of what cannot be read any longer, the output stays, as of what is gone: a link may outlive its file.
        urls = {part.url for part in parts if part.problem is None}
        recorded = set()
        for name, record in self._directory.read_records():
            recorded.add(name)
            part, result = _parse(record)
            is_gone = part is not None and part.url not in urls and name not in wanted
            is_same = part is not None and wanted.get(name) == part
            if result is not None and result.output_bytes == sizes.get(name) and (is_same or is_gone):
                self.kept.append(result)
                wanted.pop(name, None)
            else:
                self._directory.discard(name)
        self.todo = list(wanted.values())
        for part in self.todo:
            if part.name in sizes and part.name not in recorded:
                raise ConfigurationError(
                    f"{self._directory.place.join(part.name).path} exists, and no run has written it; choose another "
                    "directory"
                )


@contextmanager
def open_run(
    inputs: Sequence[str], output: str, options: BatchOptions, *, output_format: str | None, now_ms: int
) -> Iterator[Run]:
    """Begin a run, or go on with one that was stopped. If the `with` ends without an error, all is done.

    Args:
        inputs: paths and URLs of files and directories.
        output: path or URL of the output directory.
        options: of the decryption.
        output_format: one of `formats.FORMATS`; None for that of each input.
        now_ms: the current time, Unix ms.

    Raises:
        ConfigurationError: an input is missing; the directory has a run with other inputs or options, another run
            writes to it, or a file that no run has written is in the way.
        BulkOutputError: storage failed, or is full.
    """
    directory = OutputDirectory(output)
    parts = find_parts(inputs, output_format, output)
    if not parts:
        raise ConfigurationError(f"{', '.join(inputs)}: no files")
    with ExitStack() as stack:
        with _output_errors(output):
            directory.prepare()
            stack.enter_context(directory.lock())
            directory.clear_temporary()
            run = Run(directory, _begin(directory, inputs, options, output_format, now_ms), parts)
        yield run
        with _output_errors(output):
            run.finish()


@contextmanager
def _output_errors(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BulkOutputError(f"cannot write to {output}: {describe(error)}") from None


def _begin(
    directory: OutputDirectory, inputs: Sequence[str], options: BatchOptions, output_format: str | None, now_ms: int
) -> dict[str, Any]:
    own = {
        "version": _VERSION,
        "inputs": [absolute(url) for url in inputs],
        "format": output_format,
        "options": msgspec.to_builtins(asdict(options)),
    }
    earlier = directory.read_run()
    if earlier is not None and _same(earlier, own):
        if not earlier.get("is_finished"):
            return earlier
    elif earlier is not None and next(directory.read_records(), None) is not None:
        names = ", ".join(
            sorted(_OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in _differences(earlier, own))
        )
        raise ConfigurationError(
            f"{directory.place.path} has the output of a run with other options ({names}); choose another directory"
        )
    # A run without any output has failed at once, by a wrong column for example: other options may be right.
    begun = {**own, "now_ms": now_ms, "is_finished": False}
    directory.write_run(begun)
    return begun


def _same(earlier: dict[str, Any], own: dict[str, Any]) -> bool:
    return isinstance(earlier.get("now_ms"), int) and not _differences(earlier, own)


def _differences(earlier: dict[str, Any], own: dict[str, Any]) -> set[str]:
    names = {name for name, value in own.items() if name != "options" and earlier.get(name) != value}
    options = earlier.get("options")
    if not isinstance(options, dict):
        return names | {"options"}
    return names | {name for name, value in own["options"].items() if options.get(name) != value}


def _parse(record: dict[str, Any]) -> tuple[Part | None, PartResult | None]:
    try:
        return msgspec.convert(record.get("part"), Part), msgspec.convert(record.get("result"), PartResult)
    except msgspec.ValidationError:  # of another version
        return None, None
