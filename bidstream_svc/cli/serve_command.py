"""`bidstream-svc serve`: the sidecar."""

import os
import signal
import sys
from typing import Any

import click

from bidstream_svc.cli.check_command import check_files
from bidstream_svc.cli.dev import serve_dev
from bidstream_svc.cli.options import provided, setting_options
from bidstream_svc.config import Settings, load_settings, unknown_variables
from bidstream_svc.logs import configure_logging, get_logger
from bidstream_svc.loop_thread import LoopThread
from bidstream_svc.server.service import run
from bidstream_svc.server.workers import run_service

_STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


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
        if signal.sigpending() & _STOP_SIGNALS:
            get_logger(__name__).info("stopped")  # before the start
            return
        run_service(settings)
    if LoopThread.left_behind:
        # At its end, the interpreter would wait for look-ups of names that these threads have started.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _prepare(settings: Settings) -> None:
    check_files(settings)
    configure_logging(settings.log_level, settings.log_format)
    for name, nearest in unknown_variables(os.environ).items():
        get_logger(__name__).warning("unknown setting", variable=name, did_you_mean=nearest)
