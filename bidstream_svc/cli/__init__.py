"""The command line: parse, call one thing, print."""

from bidstream_svc.cli.main import main

__all__ = ["main"]
