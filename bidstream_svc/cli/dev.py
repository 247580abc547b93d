"""`bidstream-svc serve --dev`: the sidecar with an embedded operator for each programme. Prints curl commands."""

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from shlex import quote
from typing import Any

import orjson

from bidstream_svc.addresses import BoundAddress, UnixAddress
from bidstream_svc.cli.streams import emit
from bidstream_svc.config import Settings, env_name, load_settings
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.openrtb import Sources
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.metrics import MetricCells
from bidstream_svc.operator_settings import OPERATOR_FIELDS
from bidstream_svc.server.optout_health import check_optouts
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import Service
from bidstream_svc.server.service import serve as serve_sidecar
from bidstream_svc.server.sockets import open_listeners_each

_TERMINAL_PERIOD_S = 1.0
_CONSOLE_HINT = "              explains a token or a bid request that you paste there"


async def serve_dev(flags: dict[str, Any], prepare: Callable[[Settings], None]) -> None:
    """Serve both programmes until a signal, with their operators in the same process.

    Args:
        flags: settings from the command line; operators, credentials and key caches are replaced.
        prepare: called with the settings first.
    """
    async with AsyncExitStack() as stack:
        operators = [
            await stack.enter_async_context(DevOperator(OperatorState(scope=scope))) for scope in IdentityScope
        ]
        console = {} if env_name("console") in os.environ else {"console": "1"}
        settings = load_settings(**{**console, **flags, **_embedded(operators)})
        prepare(settings)
        if settings.workers > 1:
            raise ConfigurationError(f"{env_name('workers')}: --dev supports one worker only")
        for name in ("optout_listen", "optout_stream"):
            if getattr(settings, name):
                raise ConfigurationError(
                    f"{env_name(name)}: --dev only reads the opt-out store; run `bidstream-svc optouts serve` beside it"
                )
        check_optouts(settings)
        stop_signals = _stop_signals()
        (listeners,) = open_listeners_each(settings, 1)
        stack.callback(listeners.close)
        watching = asyncio.create_task(_watch_terminal(sys.stdout.fileno()))
        stack.callback(watching.cancel)
        await serve_sidecar(
            settings,
            listeners,
            MetricCells(labels_of(ROUTES)),
            stop_signals=stop_signals,
            on_started=lambda service: emit(_banner(service, operators, settings)),
        )


def _embedded(operators: Iterable[DevOperator]) -> dict[str, str | None]:
    """Return the settings of the embedded operators; those without a programme have no value."""
    settings: dict[str, str | None] = dict.fromkeys(OPERATOR_FIELDS)
    for operator in operators:
        state = operator.state
        prefix = f"{state.scope.name.lower()}_"
        settings |= {
            f"{prefix}operator_url": operator.url,
            f"{prefix}operator_fallback_url": None,
            f"{prefix}api_key": state.api_key,
            f"{prefix}api_key_file": None,
            f"{prefix}client_secret": state.client_secret,
            f"{prefix}client_secret_file": None,
            f"{prefix}key_cache": None,  # it would replace that of a real operator
        }
    return settings


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


def _banner(service: Service, operators: Sequence[DevOperator], settings: Settings) -> str:
    data = service.data_addresses[0]
    admin = [address for address in service.admin_addresses if not isinstance(address, UnixAddress)]
    lines = [
        "",
        f"data plane    {', '.join(str(address) for address in service.data_addresses)}",
        f"admin plane   {', '.join(str(address) for address in service.admin_addresses) or 'off'}",
        *([f"console       http://{admin[0]}/console", _CONSOLE_HINT] if admin and settings.console else []),
        *(f"operator      {operator.url} ({operator.state.scope.name})" for operator in operators),
        "              embedded; their keys and tokens are lost when this process ends",
    ]
    bid_request = _bid_request([operator.state for operator in operators], settings.eid_sources)
    lines += ["", "# a bid request with a token of each programme", _curl(data, settings, "/openrtb", bid_request)]
    lines += ["", "# the same, rewritten for a bidder that expects raw uids"]
    lines += [_curl(data, settings, "/openrtb/rewrite", bid_request)]
    for operator in operators:
        for title, (token, domain) in _samples(operator.state).items():
            body = {"token": token, "domain": domain}
            lines += ["", f"# {operator.state.scope.name}: {title}", _curl(data, settings, "/decrypt", body)]
    return "\n".join([*lines, "", "Press Ctrl-C to stop.", ""])


def _site(state: OperatorState) -> tuple[int, str]:
    """Return id and domain of a site."""
    return next((site.site_id, site.domain_names[0]) for site in state.sites.values() if site.domain_names)


def _bid_request(states: Sequence[OperatorState], eid_sources: Sources) -> dict[str, object]:
    """Return a bid request with a token of each programme; that of the first was generated on the client side."""
    site_id, domain = _site(states[0])
    tokens = {state.scope: state.mint_token() for state in states}
    tokens[states[0].scope] = states[0].mint_token(site_id=site_id, client_side=True)
    eids = [{"source": source, "uids": [{"id": tokens[scope], "atype": 3}]} for source, scope in eid_sources.items()]
    return {"id": "1", "site": {"page": f"https://www.{domain}/"}, "user": {"eids": eids}}


def _samples(state: OperatorState) -> dict[str, tuple[str, str | None]]:
    """Return (token, domain) by description."""
    site_id, domain = _site(state)
    return {
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


def _curl(address: BoundAddress, settings: Settings, path: str, body: object) -> str:
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
    text = orjson.dumps(body).decode()
    return f"curl -s{options} -H 'Content-Type: application/json' {scheme}://{host}{path} -d '{text}'"
