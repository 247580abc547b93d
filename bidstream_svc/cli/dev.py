"""`bidstream-svc serve --dev`: the sidecar with an embedded operator. Prints curl commands to try it."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable
from shlex import quote
from typing import Any

import orjson

from bidstream_svc.addresses import BoundAddress, UnixAddress
from bidstream_svc.cli.streams import emit
from bidstream_svc.config import Settings, env_name, load_settings
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import Service
from bidstream_svc.server.service import serve as serve_sidecar
from bidstream_svc.server.sockets import open_listeners_each

_TERMINAL_PERIOD_S = 1.0


async def serve_dev(flags: dict[str, Any], prepare: Callable[[Settings], None]) -> None:
    """Serve until a signal, with an operator in the same process.

    Args:
        flags: settings from the command line; operator and credentials are replaced.
        prepare: called with the settings first.
    """
    state = OperatorState()
    async with DevOperator(state) as operator:
        embedded = {
            "operator_url": operator.url,
            "api_key": state.api_key,
            "client_secret": state.client_secret,
            "api_key_file": None,
            "client_secret_file": None,
        }
        settings = load_settings(**{**flags, **embedded})
        prepare(settings)
        if settings.workers > 1:
            raise ConfigurationError(f"{env_name('workers')}: --dev supports one worker only")
        stop_signals = _stop_signals()
        (listeners,) = open_listeners_each(settings, 1)
        watching = asyncio.create_task(_watch_terminal(sys.stdout.fileno()))
        try:
            await serve_sidecar(
                settings,
                listeners,
                MetricCells(labels_of(ROUTES)),
                stop_signals=stop_signals,
                on_started=lambda service: emit(_banner(service, operator, settings)),
            )
        finally:
            watching.cancel()
            listeners.close()


def _stop_signals() -> set[signal.Signals]:
    """SIGHUP means that the terminal was closed. nohup ignores it, so that a program survives that."""
    signals = {signal.SIGTERM, signal.SIGINT}
    return signals if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else {*signals, signal.SIGHUP}


async def _watch_terminal(descriptor: int) -> None:
    """Send this process SIGHUP once its terminal is closed.

    The kernel sends it to the leader of the terminal's session only. If that is make, it waits for this process.
    """
    if not os.isatty(descriptor):
        return
    terminal = select.poll()
    terminal.register(descriptor, 0)  # POLLHUP is always reported
    while not terminal.poll(0):  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(_TERMINAL_PERIOD_S)
    os.kill(os.getpid(), signal.SIGHUP)


def _banner(service: Service, operator: DevOperator, settings: Settings) -> str:
    state = operator.state
    data = service.data_addresses[0]
    site_id, domain = next((site.site_id, site.domain_names[0]) for site in state.sites.values() if site.domain_names)
    samples = {
        "a valid token": (state.mint_token(site_id=site_id), None),
        "an expired token": (state.mint_token(site_id=site_id, lifetime_s=-60), None),
        f"a token generated on the client side, valid on {domain}": (
            state.mint_token(site_id=site_id, client_side=True),
            domain,
        ),
        "a token of a user who had opted out when it was generated": (
            state.mint_token(site_id=site_id, client_side=True, opted_out=True),
            domain,
        ),
    }
    lines = [
        "",
        f"data plane    {', '.join(str(address) for address in service.data_addresses)}",
        f"admin plane   {', '.join(str(address) for address in service.admin_addresses) or 'off'}",
        f"operator      {operator.url} (embedded; its keys and tokens are lost when this process ends)",
    ]
    for title, (token, domain_of_token) in samples.items():
        lines += ["", f"# {title}", _curl(data, settings, token, domain_of_token)]
    return "\n".join([*lines, "", "Press Ctrl-C to stop.", ""])


def _curl(address: BoundAddress, settings: Settings, token: str, domain: str | None) -> str:
    """Format a curl command. It reads the bearer token from its file and contains no secret."""
    options = ""
    scheme = "http"
    if isinstance(address, UnixAddress):
        options = f" --unix-socket {quote(str(address.path))}"
        host = "localhost"
    else:
        host = str(address)
        if settings.tls_cert is not None:
            scheme, options = "https", " --insecure"
    if settings.auth_token_file is not None:
        options += f' -H "Authorization: Bearer $(cat {quote(str(settings.auth_token_file))})"'
    body = orjson.dumps({"token": token, "domain": domain}).decode()
    return f"curl -s{options} -H 'Content-Type: application/json' {scheme}://{host}/decrypt -d '{body}'"
