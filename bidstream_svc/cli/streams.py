"""The standard streams of a command: closed ones, full ones, and output that cannot be written."""

import errno
import io
import os
import re
import sys
from contextlib import suppress
from typing import NoReturn

import click

from bidstream_svc.core.errors import BidstreamError

_STDOUT, _STDERR = 1, 2
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class OutputError(BidstreamError):
    """Stdout cannot be written, for another reason than a closed pipe."""


def prepare_streams() -> None:
    """Make stdout and stderr accept any text, and open /dev/null for the standard streams that are closed.

    Otherwise a socket would get one of their descriptors, and libuv aborts the process when it closes such a socket.
    Stdout is opened for reading only, so that output fails and does not vanish. What is written to a closed stderr is
    dropped. `sys.stdin` stays None, so that a command that reads it can report an error.
    """
    for descriptor in range(_STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            # Returns the lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_WRONLY if descriptor == _STDERR else os.O_RDONLY)
    sys.stdout = sys.stdout or os.fdopen(_STDOUT, "w")
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr is from the start
        sys.stdout.reconfigure(errors="backslashreplace")


def emit(text: str | bytes) -> None:
    """Print a line on stdout.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: its reader has closed the pipe.
    """
    try:
        click.echo(text)
    except OSError as error:
        raise_output_error(error)


def tell(text: str) -> None:
    """Print a line on stderr. A failure is ignored: there is no other place to report it.

    Control characters, which names of files may have, are escaped: they would make further lines, or steer a terminal.
    """
    with suppress(OSError):
        click.echo(_CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text), err=True)


def message_of(error: BidstreamError) -> str:
    """Return the message of an error behind its notes, which tell the operator or the file that it is about."""
    return ": ".join([*getattr(error, "__notes__", ()), str(error)])


def raise_output_error(error: OSError) -> NoReturn:
    """Raise the exception for a failed write to stdout: a BrokenPipeError itself, OutputError for all others.

    What is still buffered for stdout is discarded, so that the interpreter does not try to write it when it exits.
    """
    discard_output()
    if isinstance(error, BrokenPipeError):
        raise error
    raise OutputError(f"cannot write the output: {describe(error)}") from None


def describe(error: OSError) -> str:
    """The reason of a failed write to stdout."""
    return "stdout is closed" if error.errno == errno.EBADF else error.strerror or type(error).__name__


def finish_output() -> None:
    """Flush stdout.

    Raises:
        OutputError, BrokenPipeError: as for `emit`.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        raise_output_error(error)


def finish_errors() -> None:
    """Flush stderr, or discard what cannot be written; the interpreter would exit with a status of its own."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(_STDERR)


def discard_output() -> None:
    """Send what is still buffered for stdout, and all further output, to /dev/null."""
    _discard(_STDOUT)


def _discard(stream: int) -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream)
    os.close(descriptor)
