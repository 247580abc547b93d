"""`bidstream-svc request`: one call to any endpoint, with the output format of the reference script uid2_request.py."""

import asyncio
import json
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click

from bidstream_svc.cli.inputs import INPUT_FILE, read_refresh_pair, read_unicode, refuse_arguments
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.streams import emit
from bidstream_svc.clock import wall_clock_ms
from bidstream_svc.config import env_name, load_settings
from bidstream_svc.core.crypto import GCM_IV_LENGTH, NONCE_LENGTH
from bidstream_svc.core.errors import OperatorAnswerError
from bidstream_svc.operator import OperatorTransport
from bidstream_svc.operator.from_settings import credentials_reader
from bidstream_svc.operator.messages import (
    Endpoint,
    HttpAnswer,
    OperatorRequest,
    build_plain_request,
    build_request,
    raise_for_status,
    read_answer,
    read_plain_answer,
)
from bidstream_svc.operator_settings import OperatorSettings, check_operator_url

_ENDPOINT = Endpoint("")  # the URL is complete


@click.command()
@click.argument("url")
@click.option(
    "--refresh-token",
    "is_refresh",
    is_flag=True,
    help="send a refresh token; read it and its refresh_response_key from stdin or --identity, "
    "as an identity in JSON or one per line",
)
@click.option("--identity", type=INPUT_FILE, help="with --refresh-token: file to read instead of stdin")
@click.option("--json", "only_json", is_flag=True, help="print only the answer's JSON, on one line")
@click.option("--echo", is_flag=True, help="print the request, too; it may contain personal data")
@refuse_arguments(
    "API keys, client secrets and refresh tokens are not taken from the command line, where every user of this host "
    f"can read them; use {env_name('api_key')} and {env_name('client_secret')} or their _FILE variants, "
    "and stdin or --identity for a refresh token"
)
@setting_options("allow_insecure_operator", "api_key_file", "client_secret_file")
def request(*, url: str, is_refresh: bool, identity: Path | None, only_json: bool, echo: bool, **flags: Any) -> None:
    """Encrypt JSON from stdin, post it, decrypt and print the answer.

    URL is that of an endpoint, such as https://prod.euid.eu/v2/token/generate. There are no retries.
    """
    if identity is not None and not is_refresh:
        raise click.UsageError("--identity requires --refresh-token")
    operator = load_settings(**provided(flags)).only_operator
    url = check_operator_url("URL", url, allow_insecure=operator.allow_insecure_operator)
    prepared, notice = _prepare_refresh(operator, url, identity) if is_refresh else _prepare(operator, url, echo=echo)
    if not only_json:
        emit(notice)
    answer = asyncio.run(_post(operator, url, prepared))
    if answer.status != HTTPStatus.OK:
        if not only_json:
            _print_error(answer)
        raise_for_status(answer)
    opened = read_plain_answer(answer, prepared) if is_refresh else read_answer(answer, prepared)
    try:
        value = json.loads(opened)
    except (ValueError, RecursionError):
        raise OperatorAnswerError("operator's decrypted answer is not JSON") from None
    emit(json.dumps(value) if only_json else "Response JSON:\n" + json.dumps(value, indent=4))


def _prepare(operator: OperatorSettings, url: str, *, echo: bool) -> tuple[OperatorRequest, str]:
    """Build the request from stdin, which may be empty, and the notice that the script prints."""
    credentials = credentials_reader(operator)()
    payload = read_unicode(None).encode()
    nonce, iv = os.urandom(NONCE_LENGTH), os.urandom(GCM_IV_LENGTH)
    sealed = build_request(_ENDPOINT, payload, credentials, now_ms=wall_clock_ms(), nonce=nonce, iv=iv)
    # With the line end, so that the output has as many lines as the script's.
    shown = payload.decode() if echo else f"[{len(payload)} bytes]\n"
    return sealed, f"\nRequest: Encrypting and sending to {url} : {shown}"


def _prepare_refresh(operator: OperatorSettings, url: str, identity: Path | None) -> tuple[OperatorRequest, str]:
    """Build the request from an identity. The API key is sent if credentials are configured: they are not required."""
    pair = read_refresh_pair(identity)
    credentials = credentials_reader(operator)() if operator.has_credentials else None
    prepared = build_plain_request(_ENDPOINT, pair.refresh_token.encode(), pair.response_key, credentials)
    return prepared, f"\nRequest: Sending refresh_token to {url}\n"


async def _post(operator: OperatorSettings, url: str, prepared: OperatorRequest) -> HttpAnswer:
    insecure = operator.allow_insecure_operator
    async with OperatorTransport(url, credentials_reader(operator), allow_insecure=insecure) as transport:
        return await transport.post(prepared)


def _print_error(answer: HttpAnswer) -> None:
    advice = ", check api_key" if answer.status == HTTPStatus.UNAUTHORIZED else ""
    emit(f"Response: Error HTTP status code {answer.status}{advice}")
    emit(answer.body.decode("utf-8", "replace"))
