"""`bidstream-svc optouts serve`: the receiver of opt-outs for a fleet."""

from typing import Any

import click

from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.serving import OF_SERVING, begin_log, end_serving, is_stopped_early
from bidstream_svc.config import SETTINGS, load_settings
from bidstream_svc.server.auth import check_optout_secrets
from bidstream_svc.server.optout_process import run_receiver

_OF_OPTOUTS = tuple(name for name in SETTINGS if name.startswith("optout_"))
# There is no data plane, so no address of it can be in the way.
_NO_DATA_PLANE = {"listen": "127.0.0.1:0", "auth_token_file": None}
_USED = (*_OF_OPTOUTS, "allow_unauthenticated", *OF_SERVING)


@click.command()
@setting_options(*_USED)
def serve(**flags: Any) -> None:
    """Run a receiver of opt-outs for a fleet.

    It answers GET and POST requests for the webhook, and GET /snapshot for hosts that begin. Metrics and health are on
    a separate port.
    """
    settings = load_settings(**provided(flags) | _NO_DATA_PLANE)
    check_optout_secrets(settings)
    begin_log(settings, used=_USED)
    if not is_stopped_early():
        run_receiver(settings)
    end_serving()
