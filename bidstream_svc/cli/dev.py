"""`bidstream-svc serve --dev`: the sidecar on an embedded operator, and something to paste."""

from collections.abc import Callable
from shlex import quote
from typing import Any

import click
import orjson

from bidstream_svc.addresses import BoundAddress, UnixAddress
from bidstream_svc.config import Settings, env_name, load_settings
from bidstream_svc.core.errors import ConfigurationError
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.metrics import MetricCells
from bidstream_svc.server.routes import ROUTES, labels_of
from bidstream_svc.server.service import Service
from bidstream_svc.server.service import serve as serve_sidecar
from bidstream_svc.server.sockets import open_listeners_each


async def serve_dev(flags: dict[str, Any], prepare: Callable[[Settings], None]) -> None:
    """Serve until a signal, with an operator in the same process.

    Args:
        flags: settings given on the command line; operator and credentials are ours.
        prepare: called with the settings before anything else.
    """
    state = OperatorState()
    async with DevOperator(state) as operator:
        ours = {
            "operator_url": operator.url,
            "api_key": state.api_key,
            "client_secret": state.client_secret,
            "api_key_file": None,
            "client_secret_file": None,
        }
        settings = load_settings(**{**flags, **ours})
        prepare(settings)
        if settings.workers > 1:
            raise ConfigurationError(f"{env_name('workers')}: with --dev there is one worker, and no more")
        (listeners,) = open_listeners_each(settings, 1)
        try:
            await serve_sidecar(
                settings,
                listeners,
                MetricCells(labels_of(ROUTES)),
                on_started=lambda service: click.echo(_banner(service, operator, settings)),
            )
        finally:
            listeners.close()


def _banner(service: Service, operator: DevOperator, settings: Settings) -> str:
    state = operator.state
    data = service.data_addresses[0]
    site_id, domain = next((site.site_id, site.domain_names[0]) for site in state.sites.values() if site.domain_names)
    samples = {
        "a good token": (state.mint_token(site_id=site_id), None),
        "an expired one": (state.mint_token(site_id=site_id, lifetime_s=-60), None),
        f"one generated on the client side, good on {domain}": (
            state.mint_token(site_id=site_id, client_side=True),
            domain,
        ),
    }
    lines = [
        "",
        f"data plane    {', '.join(str(address) for address in service.data_addresses)}",
        f"admin plane   {', '.join(str(address) for address in service.admin_addresses) or 'off'}",
        f"operator      {operator.url} (embedded; keys and tokens are made up and gone with this process)",
    ]
    for title, (token, domain_of_token) in samples.items():
        lines += ["", f"# {title}", _curl(data, settings, token, domain_of_token)]
    return "\n".join([*lines, "", "Ctrl-C ends it.", ""])


def _curl(address: BoundAddress, settings: Settings, token: str, domain: str | None) -> str:
    """A command to paste; options that the settings ask for come as shell variables, never as secrets."""
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
