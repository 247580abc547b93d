"""Input that commands read from stdin or a file, because every user of a host can read arguments."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import click
import msgspec

from bidstream_svc.cli.line_reader import InputError, LineReader
from bidstream_svc.cli.people import parse_person
from bidstream_svc.cli.streams import tell
from bidstream_svc.core.errors import ConfigurationError, OperatorAnswerError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.core.lenient import decode_base64

if TYPE_CHECKING:
    from bidstream_svc.operator import IdentityTokens

_Command = TypeVar("_Command", bound=Callable[..., Any])

STDIN = Path("-")  # as the path of an INPUT_FILE
_STDIN_OPTION = f"{__name__}.stdin"  # in the `meta` of a context: the option that names stdin
_AN_IDENTITY = "an identity in JSON as `token generate` prints it"


class RefreshPair(NamedTuple):
    """A refresh token, and the AES key that decrypts the answer to it (empty if the answer is not encrypted)."""

    refresh_token: str
    response_key: bytes

    def __repr__(self) -> str:
        """Without token and key."""
        return "RefreshPair()"


class _RefreshFields(msgspec.Struct):
    refresh_token: str
    refresh_response_key: str | None = None


class _Wrapped(msgspec.Struct):
    body: msgspec.Raw


class _InputFile(click.Path):
    """A path for `open_input`. One option of a command may be `-`, for stdin."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        if path == STDIN and param is not None and ctx is not None:
            option = param.opts[0]
            if ctx.meta.setdefault(_STDIN_OPTION, option) != option:
                self.fail(f"stdin is read for {ctx.meta[_STDIN_OPTION]} already; name a file", param, ctx)
        return path


INPUT_FILE = _InputFile()


def refuse_arguments(advice: str) -> Callable[[_Command], _Command]:
    """Make a command reject positional arguments with `advice`, which does not repeat them."""

    def refuse(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> None:
        if values:
            raise click.UsageError(advice)

    return click.argument("refused", nargs=-1, metavar="", expose_value=False, callback=refuse)


def kind_option(*kinds: IdentityKind) -> Callable[[_Command], _Command]:
    """The option `--kind`: one of `kinds` (of all four if none is listed), by default `email`."""
    return click.option(
        "--kind",
        type=click.Choice([kind.value for kind in kinds or IdentityKind]),
        default=IdentityKind.EMAIL.value,
        show_default=True,
        help="what the input holds; hashes are the base64 of the SHA-256 of a normalised address or number",
    )


@contextmanager
def open_input(path: Path | None) -> Iterator[BinaryIO]:
    """A file, closed at the end of the `with`; or stdin for None or `-`, with a hint on stderr if it is a terminal.

    Raises:
        ConfigurationError: the file cannot be opened.
        click.UsageError: stdin is wanted for None, and an option names it.
        InputError: stdin is closed.
    """
    if path is not None and path != STDIN:
        with _open_file(path) as file:
            yield file
        return
    context = click.get_current_context(silent=True)
    if path is None and context is not None and (option := context.meta.get(_STDIN_OPTION)):
        raise click.UsageError(f"stdin cannot hold all of the input; name a file in {option}")
    if sys.stdin is None:  # the process was started with stdin closed
        raise InputError("stdin is closed")
    if sys.stdin.isatty():
        tell("reading the terminal; Ctrl-D ends the input")
    yield sys.stdin.buffer


def read_bytes(path: Path | None) -> bytes:
    """All of a file, or of stdin for None.

    Raises:
        ConfigurationError, InputError: as for `open_input`, or a read fails.
    """
    with open_input(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise _cannot_read(path, error) from None


def read_any_text(path: Path | None) -> str:
    """The text of a file, or of stdin for None, as LineReader reads it.

    Raises:
        ConfigurationError, InputError: it cannot be read.
    """
    return LineReader(io.BytesIO(read_bytes(path))).read()


def read_unicode(path: Path | None) -> str:
    """As `read_any_text`; it must be valid in its encoding.

    Raises:
        ConfigurationError, InputError: it cannot be read, or is not UTF-8.
    """
    text = read_any_text(path)
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise InputError(f"{_name(path)} is not text in UTF-8")
    return text


def read_text(path: Path | None, what: str) -> str:
    """As `read_unicode`, without surrounding whitespace.

    Args:
        path: of the file.
        what: a description of the expected text, for the error if there is none.

    Raises:
        ConfigurationError, InputError: it cannot be read, is not UTF-8, or is empty.
    """
    text = read_unicode(path).strip()
    if not text:
        raise InputError(f"{_name(path)} is empty; {what} is needed")
    return text


def read_identity(kind: str, path: Path | None) -> Identity:
    """One user's address, number or hash from a file or stdin.

    Raises:
        ConfigurationError, InputError: as for `read_text`, or more than one line.
        IdentityError: it is malformed.
    """
    text = read_text(path, f"one line with the user's {kind}")
    if "\n" in text:
        raise InputError(f"{_name(path)} holds more than one line; one user is needed")
    return parse_person(IdentityKind(kind), text)


def read_tokens(path: Path | None) -> "IdentityTokens":
    """An identity in JSON as `token generate` prints it, or as the `body` of an operator's answer.

    Raises:
        ConfigurationError, InputError: as for `read_text`, or the text is not such an identity.
    """
    return _parse_tokens(read_text(path, _AN_IDENTITY), path)


def read_advertising_token(path: Path | None) -> str:
    """An advertising token, alone or in an identity in JSON.

    Raises:
        ConfigurationError, InputError: as for `read_text`, or a text that begins with `{` is not such an identity.
    """
    text = read_text(path, "an advertising token")
    return _parse_tokens(text, path).advertising_token if text.startswith("{") else text


def read_refresh_pair(path: Path | None) -> RefreshPair:
    """A refresh token and its response key, from an identity in JSON or on two lines in this order.

    Raises:
        ConfigurationError, InputError: as for `read_tokens`, or the key is not base64.
    """
    text = read_text(path, "an identity in JSON, or a refresh token and its refresh_response_key, one a line,")
    try:
        if text.startswith("{"):
            fields = msgspec.json.decode(_unwrap(text), type=_RefreshFields)
            token, key = fields.refresh_token, fields.refresh_response_key or ""
        else:
            token, key = text.split()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise InputError(
            f"{_name(path)} holds neither an identity in JSON nor two lines, a refresh token and its "
            "refresh_response_key"
        ) from None
    try:
        return RefreshPair(token, decode_base64(key))
    except ValueError:
        raise InputError("refresh_response_key is not base64") from None


def _parse_tokens(text: str, path: Path | None) -> "IdentityTokens":
    from bidstream_svc.operator import IdentityTokens  # noqa: PLC0415 - with aiohttp, which few commands need

    try:
        return IdentityTokens.from_json(_unwrap(text))
    except OperatorAnswerError:
        raise InputError(f"{_name(path)} does not hold {_AN_IDENTITY}") from None


def _unwrap(text: str) -> bytes:
    """The `body` of an operator's answer, or the text itself."""
    try:
        return bytes(msgspec.json.decode(text, type=_Wrapped).body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text.encode()


def _name(path: Path | None) -> str:
    return "stdin" if path is None or path == STDIN else str(path)


def _open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _cannot_read(path, error) from None


def _cannot_read(path: Path | None, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot read {_name(path)}: {error.strerror}")
