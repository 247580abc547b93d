"""`bidstream-svc check`."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.streams import emit, message_of, tell
from bidstream_svc.clock import iso_time, wall_clock_ms
from bidstream_svc.config import Settings, env_name, load_settings, unknown_variables
from bidstream_svc.core.errors import BidstreamError, ConfigurationError
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.keystore.key_source import fetch_once
from bidstream_svc.operator.from_settings import credentials_reader
from bidstream_svc.operator_settings import OperatorSettings
from bidstream_svc.server.auth import BearerToken, check_optout_secrets
from bidstream_svc.server.descriptors import descriptor_problem
from bidstream_svc.server.path_checks import path_problems
from bidstream_svc.server.tls import load_tls, tls_files
from bidstream_svc.tracing import require_opentelemetry

_MS_PER_DAY = 24 * 3600 * MS_PER_S


@click.command()
@click.option("--online", is_flag=True, help="also fetch keys from each operator")
@setting_options()
def check(*, online: bool, **flags: Any) -> None:
    """Check the configuration of `serve`."""
    settings = load_settings(**provided(flags))
    check_files(settings)
    for name, nearest in unknown_variables(os.environ).items():
        hint = f"; did you mean {nearest}?" if nearest else ""
        tell(f"warning: {name} is not a setting{hint}")
    _check_certificate(settings)
    if (problem := descriptor_problem(settings)) is not None:
        tell(f"warning: {problem}")
    emit("configuration is good")
    if online:
        _check_operators(settings)


def check_files(settings: Settings) -> None:
    """Check that an operator, credentials, and the files and packages that the settings need are there and valid.

    Raises:
        ConfigurationError: one of these is missing, a file is unreadable or invalid, or a path cannot work.
    """
    settings.require_operators()
    if problems := list(path_problems(settings)):
        raise ConfigurationError("; ".join(problems))
    for operator in settings.operators:
        credentials_reader(operator)()
    if settings.auth_token_file is not None:
        BearerToken(settings.auth_token_file)
    check_optout_secrets(settings)
    if (files := tls_files(settings)) is not None:
        load_tls(files)
    if settings.otlp_endpoint is not None:
        require_opentelemetry()


def _check_operators(settings: Settings) -> None:
    """Fetch keys from each operator and each fallback, also after one has failed.

    Raises:
        BidstreamError: of the last one that failed.
    """
    failures: list[BidstreamError] = []
    for operator in (each for named in settings.operators for each in _urls_of(named)):
        try:
            _check_operator(fetch_once(operator))
        except BidstreamError as error:
            failures.append(error)
    for failure in failures[:-1]:
        tell(f"bidstream-svc: {message_of(failure)}")
    if failures:
        raise failures[-1]


def _urls_of(operator: OperatorSettings) -> Iterator[OperatorSettings]:
    """Yield the settings for each URL of an operator, without a fallback, which would hide a failure."""
    for url in (operator.operator_url, operator.operator_fallback_url):
        if url is not None:
            yield replace(operator, operator_url=url, operator_fallback_url=None)


def _check_operator(snapshot: KeySnapshot) -> None:
    emit(f"operator is good: {len(snapshot.keys)} keys, {len(snapshot.sites)} sites, {snapshot.scope.name}")
    skipped_keys, skipped_sites = snapshot.skipped_keys, snapshot.skipped_sites
    if skipped_keys.count or skipped_sites.count:
        reasons = "; ".join([*skipped_keys.reasons, *skipped_sites.reasons])
        counts = f"{skipped_keys.count} malformed keys and {skipped_sites.count} malformed sites"
        tell(f"warning: {counts} are skipped: {reasons}")


def _check_certificate(settings: Settings) -> None:
    """Print when the certificate expires.

    Raises:
        ConfigurationError: it is not valid now. `serve` only logs this, because a Unix socket works without it.
    """
    files = tls_files(settings)
    if files is None:
        return
    validity = load_tls(files).validity
    now_ms = wall_clock_ms()
    if problem := validity.problem(now_ms):
        raise ConfigurationError(f"{env_name('tls_cert')}: {files.certificate} {problem}")
    days = (validity.not_after_ms - now_ms) // _MS_PER_DAY
    emit(f"certificate expires at {iso_time(validity.not_after_ms)}, in {days} days")
