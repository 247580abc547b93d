"""The command line interface."""

from bidstream_svc.cli.main import main

__all__ = ["main"]
