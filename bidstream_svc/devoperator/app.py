"""HTTP and envelopes around the endpoints."""

from aiohttp import web

from bidstream_svc.devoperator.state import OperatorState

__all__ = ["make_app"]


def make_app(state: OperatorState) -> web.Application:  # noqa: ARG001
    """The aiohttp application that serves `state`."""
    return web.Application()
