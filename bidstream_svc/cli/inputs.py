"""What commands are told elsewhere than in argv, which every user of a host can read: on stdin, or in a file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import click
import msgspec
import pybase64

from bidstream_svc.core.errors import BidstreamError, ConfigurationError, OperatorAnswerError
from bidstream_svc.core.identity import Identity, IdentityKind
from bidstream_svc.operator import IdentityTokens

_Command = TypeVar("_Command", bound=Callable[..., Any])

_AN_IDENTITY = "an identity in JSON as `token generate` prints it"


class InputError(BidstreamError):
    """What a command was given to read will not do; the message does not repeat it."""


class RefreshPair(NamedTuple):
    """A refresh token, and the key (AES; empty if there is none) that opens the answer to it."""

    refresh_token: str
    response_key: bytes

    def __repr__(self) -> str:
        """Neither."""
        return "RefreshPair()"


class _RefreshFields(msgspec.Struct):
    refresh_token: str
    refresh_response_key: str | None = None


class _Wrapped(msgspec.Struct):
    body: msgspec.Raw


def refuse_arguments(advice: str) -> Callable[[_Command], _Command]:
    """Let a command refuse what is left in argv, without repeating it, and say where it belongs."""

    def refuse(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> None:
        if values:
            raise click.UsageError(advice)

    return click.argument("refused", nargs=-1, metavar="", expose_value=False, callback=refuse)


def kind_option(*kinds: IdentityKind) -> Callable[[_Command], _Command]:
    """`--kind`, one of some kinds (all four if none is named), by default an e-mail address."""
    return click.option(
        "--kind",
        type=click.Choice([kind.value for kind in kinds or IdentityKind]),
        default=IdentityKind.EMAIL.value,
        show_default=True,
        help="what is given; hashes are base64 of the SHA-256 of a normalised address or number",
    )


def open_stdin() -> BinaryIO:
    """Stdin in bytes; says on a terminal that it is being read."""
    if sys.stdin is None:  # started with it closed
        raise InputError("stdin is closed")
    if sys.stdin.isatty():
        click.echo("reading the terminal; Ctrl-D ends the input", err=True)
    return sys.stdin.buffer


def read_bytes(path: Path | None) -> bytes:
    """All of a file, or of stdin for None.

    Raises:
        ConfigurationError: the file cannot be read.
        InputError: stdin cannot.
    """
    if path is None:
        return open_stdin().read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None


def read_text(path: Path | None, what: str) -> str:
    """The text of a file, or of stdin for None, without byte order mark and blanks around it; `what` is told if empty.

    Raises:
        ConfigurationError, InputError: it cannot be read, is no UTF-8, or is empty.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError(f"{_name(path)} is not text in UTF-8") from None
    if not text:
        raise InputError(f"{_name(path)} is empty; {what} is needed")
    return text


def read_identity(kind: str, path: Path | None) -> Identity:
    """One person's address, number or hash out of a file or stdin.

    Raises:
        ConfigurationError, InputError: as for `read_text`, or more than one line.
        IdentityError: it is malformed.
    """
    text = read_text(path, f"one line with the user's {kind}")
    if "\n" in text:
        raise InputError(f"{_name(path)} holds more than one line; one user is needed")
    return Identity.parse(IdentityKind(kind), text)


def read_tokens(path: Path | None) -> IdentityTokens:
    """An identity in JSON as `token generate` prints it, or as `body` of an operator's answer.

    Raises:
        ConfigurationError, InputError: as for `read_text`, or there is no such thing in it.
    """
    return _parse_tokens(read_text(path, _AN_IDENTITY), path)


def read_advertising_token(path: Path | None) -> str:
    """An advertising token, alone or in an identity as `read_tokens` reads it; raises the same."""
    text = read_text(path, "an advertising token")
    return _parse_tokens(text, path).advertising_token if text.startswith("{") else text


def read_refresh_pair(path: Path | None) -> RefreshPair:
    """A refresh token and its response key: as `read_tokens` reads them, or one a line in this order.

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
    except (msgspec.MsgspecError, ValueError):
        raise InputError(
            f"{_name(path)} holds neither an identity in JSON nor two lines, a refresh token and its "
            "refresh_response_key"
        ) from None
    try:
        return RefreshPair(token, pybase64.b64decode(key, validate=True))
    except ValueError:
        raise InputError("refresh_response_key is not base64") from None


def _parse_tokens(text: str, path: Path | None) -> IdentityTokens:
    try:
        return IdentityTokens.from_json(_unwrap(text))
    except OperatorAnswerError:
        raise InputError(f"{_name(path)} does not hold {_AN_IDENTITY}") from None


def _unwrap(text: str) -> bytes:
    """The `body` of an operator's answer, or the text itself."""
    try:
        return bytes(msgspec.json.decode(text, type=_Wrapped).body)
    except (msgspec.MsgspecError, ValueError):
        return text.encode()


def _name(path: Path | None) -> str:
    return "stdin" if path is None else str(path)
