"""`bidstream-svc token`: calls for publishers."""

from pathlib import Path
from typing import Any

import click

from bidstream_svc.cli.calls import call_operator
from bidstream_svc.cli.inputs import (
    INPUT_FILE,
    kind_option,
    read_advertising_token,
    read_identity,
    read_text,
    read_tokens,
    refuse_arguments,
)
from bidstream_svc.cli.options import ONLY_OPERATOR_FIELDS, setting_options
from bidstream_svc.cli.streams import emit
from bidstream_svc.core.errors import BidstreamError
from bidstream_svc.core.identity import Identity
from bidstream_svc.operator import IdentityTokens, PublisherClient

_TEST_ADDRESS = "validate@example.com"  # operators before 2025-11-28 answer true for this one only
_NOT_IN_ARGV = "is not taken from the command line, where every user of this host can read it; use stdin or"


@click.group()
def token() -> None:
    """Calls for publishers: generate, refresh and validate tokens.

    Addresses, numbers and tokens are read from stdin or files, never from the command line, where every user of this
    host could read them and the shell would store them.
    """


@token.command()
@kind_option()
@click.option("--user-file", type=INPUT_FILE, help="file with the user's address, number or hash, instead of stdin")
@click.option("--tcf-consent-file", type=INPUT_FILE, help="file with the user's TCF consent string")
@refuse_arguments(f"a user's address, number or hash {_NOT_IN_ARGV} --user-file")
@setting_options(*ONLY_OPERATOR_FIELDS)
def generate(*, kind: str, user_file: Path | None, tcf_consent_file: Path | None, **flags: Any) -> None:
    """Generate tokens for the user whose identity is on stdin.

    The identity is an e-mail address, a phone number or a hash of one; only a hash is sent. Prints the tokens as one
    line of JSON, for `token refresh`. If the user has opted out, or the consent string does not permit a token, the
    exit status is 1 and there is no output.
    """
    user = read_identity(kind, user_file)
    consent = None if tcf_consent_file is None else read_text(tcf_consent_file, "a TCF consent string")
    _print(
        call_operator(
            flags, lambda transport: PublisherClient(transport).generate_token(user, tcf_consent_string=consent)
        )
    )


@token.command()
@click.option("--identity", type=INPUT_FILE, help="file with the identity, instead of stdin")
@refuse_arguments(f"an identity {_NOT_IN_ARGV} --identity")
@setting_options(*ONLY_OPERATOR_FIELDS)
def refresh(*, identity: Path | None, **flags: Any) -> None:
    """Exchange the tokens on stdin for fresh ones.

    The input is JSON as `token generate` prints it. If the user has opted out, the exit status is 1 and there is no
    output. A refused refresh token is reported as expired or invalid.
    """
    tokens = read_tokens(identity)
    _print(call_operator(flags, lambda transport: PublisherClient(transport).refresh_token(tokens)))


@token.command()
@kind_option()
@click.option("--user-file", type=INPUT_FILE, help=f"file with the user, instead of {_TEST_ADDRESS}")
@refuse_arguments(f"a token {_NOT_IN_ARGV} --user-file for the user")
@setting_options(*ONLY_OPERATOR_FIELDS)
def validate(*, kind: str, user_file: Path | None, **flags: Any) -> None:
    """Tell whether a token, expired or not, was generated for a user.

    The token is on stdin, alone or in JSON as `token generate` prints it. The user is validate@example.com, the
    operators' test address, unless --user-file names another. The exit status is 1 for false. The operator answers for
    the tokens of your own site only: another site's token, or one that cannot be decrypted, is an error. Operators
    before 2025-11-28 answer false for any user but validate@example.com.
    """
    advertising_token = read_advertising_token(None)
    user = Identity.from_email(_TEST_ADDRESS) if user_file is None else read_identity(kind, user_file)
    is_valid = call_operator(
        flags, lambda transport: PublisherClient(transport).validate_token(advertising_token, user)
    )
    emit("true" if is_valid else "false")
    if not is_valid:
        raise BidstreamError("the token was not generated for this user")


def _print(tokens: IdentityTokens | None) -> None:
    if tokens is None:
        raise BidstreamError("the user has opted out")
    emit(tokens.json)
