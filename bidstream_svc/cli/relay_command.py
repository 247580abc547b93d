"""`bidstream-svc relay`: one fetch of keys for a whole cluster."""

from typing import Any

import click

from bidstream_svc.cli.check_command import check_files
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.serving import OF_SERVING, begin_log, end_serving, is_stopped_early
from bidstream_svc.config import SETTINGS, load_settings
from bidstream_svc.operator_settings import OPERATOR_FIELDS
from bidstream_svc.relay.relay_process import run_relay

_OF_OPERATORS = tuple(name for name in SETTINGS if name.removeprefix("uid2_").removeprefix("euid_") in OPERATOR_FIELDS)
_OF_RELAYS = ("allow_insecure_operator", "refresh_interval", "listen", "tls_cert", "tls_key", "max_connections")
# Every request has the API key, so the listener needs no other token. What only a sidecar does is not checked.
_OF_SIDECARS = {name: None for name in SETTINGS if name.startswith("optout_")} | {
    "allow_unauthenticated": "1",
    "auth_token_file": None,
    "console": None,
    "otlp_endpoint": None,
    "tls_client_ca": None,
}
_USED = (*_OF_OPERATORS, *_OF_RELAYS, *OF_SERVING)


@click.command()
@setting_options(*_USED)
def relay(**flags: Any) -> None:
    """Fetch keys once for a whole cluster of sidecars.

    It asks the operator as a sidecar does, and answers POST /v2/key/bidstream and /v2/key/sharing in the operator's
    place: sidecars have its address in BIDSTREAM_OPERATOR_URL, and the same API key and client secret. Metrics and
    health are on a separate port. See docs/relay.md.
    """
    settings = load_settings(**provided(flags) | _OF_SIDECARS)
    check_files(settings)
    begin_log(settings, used=_USED)
    if not is_stopped_early():
        run_relay(settings)
    end_serving()
