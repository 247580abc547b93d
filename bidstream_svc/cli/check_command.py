"""`bidstream-svc check`."""

import os
from typing import Any

import click

from bidstream_svc.cli.key_source import fetch_once
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.config import Settings, load_settings, unknown_variables
from bidstream_svc.operator.from_settings import credentials_reader
from bidstream_svc.server.auth import BearerToken
from bidstream_svc.server.sockets import make_tls_context
from bidstream_svc.tracing import require_opentelemetry


@click.command()
@click.option("--online", is_flag=True, help="also fetch keys from the operator")
@setting_options()
def check(*, online: bool, **flags: Any) -> None:
    """Check the configuration of `serve`."""
    settings = load_settings(**provided(flags))
    check_files(settings)
    for name, nearest in unknown_variables(os.environ).items():
        hint = f"; did you mean {nearest}?" if nearest else ""
        tell(f"warning: {name} is not a setting{hint}")
    emit("configuration is good")
    if online:
        snapshot = fetch_once(**provided(flags))
        emit(f"operator is good: {len(snapshot.keys)} keys, {len(snapshot.sites)} sites, {snapshot.scope.name}")


def check_files(settings: Settings) -> None:
    """Check that an operator, credentials, and the files and packages that the settings need are there and valid.

    Raises:
        ConfigurationError: one of these is missing, or a file is unreadable or invalid.
    """
    settings.require_operator()
    credentials_reader(settings)()
    if settings.auth_token_file is not None:
        BearerToken(settings.auth_token_file)
    if settings.tls_cert is not None and settings.tls_key is not None:
        make_tls_context(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if settings.otlp_endpoint is not None:
        require_opentelemetry()
