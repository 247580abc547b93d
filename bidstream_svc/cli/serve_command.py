"""`bidstream-svc serve`: the sidecar."""

from typing import Any

import click

from bidstream_svc.cli.check_command import check_files
from bidstream_svc.cli.dev import serve_dev
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.cli.serving import begin_log, end_serving, is_stopped_early
from bidstream_svc.config import Settings, load_settings
from bidstream_svc.server.running import run
from bidstream_svc.server.workers import run_service


@click.command()
@click.option("--dev", is_flag=True, help="run on embedded operators, one for UID2 and one for EUID, with made-up keys")
@setting_options()
def serve(*, dev: bool, **flags: Any) -> None:
    """Run the sidecar, which decrypts tokens and bid requests.

    It answers POST /decrypt, /decrypt/batch, /openrtb and /openrtb/rewrite. Metrics and health are on a separate port.
    """
    if dev:
        run(serve_dev(provided(flags), _prepare))
    else:
        settings = load_settings(**provided(flags))
        _prepare(settings)
        if is_stopped_early():
            return
        run_service(settings)
    end_serving()


def _prepare(settings: Settings) -> None:
    check_files(settings)
    begin_log(settings)
