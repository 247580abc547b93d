"""`bidstream-svc operator`: the embedded operator by itself."""

import asyncio
import signal
from contextlib import AsyncExitStack

import click
import orjson

from bidstream_svc.addresses import TcpAddress, parse_listen_addresses
from bidstream_svc.cli.streams import emit
from bidstream_svc.core.errors import ListenError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.server.service import handle_signals, run


def _to_address(_context: click.Context, _parameter: click.Parameter, value: str) -> TcpAddress:
    try:
        addresses = parse_listen_addresses(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if len(addresses) != 1 or not isinstance(addresses[0], TcpAddress):
        raise click.BadParameter("one HOST:PORT is required")
    return addresses[0]


@click.command()
@click.option("--listen", default="127.0.0.1:0", callback=_to_address, help="HOST:PORT; port 0 chooses a free one")
@click.option("--seed", type=int, help="makes keys, credentials and raw uids deterministic")
@click.option("--scope", type=click.Choice([scope.name for scope in IdentityScope]), default="UID2")
def operator(*, listen: TcpAddress, seed: int | None, scope: str) -> None:
    """Run the embedded operator by itself, for development and tests. Not for production.

    Prints {"url", "api_key", "client_secret"} as one line of JSON once it listens.
    """
    run(_serve(OperatorState(seed, scope=IdentityScope[scope]), listen))


async def _serve(state: OperatorState, listen: TcpAddress) -> None:
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(handle_signals([signal.SIGTERM, signal.SIGINT], stopping.set))
        try:
            server = await stack.enter_async_context(DevOperator(state, listen.host, listen.port))
        except OSError as error:
            raise ListenError(f"cannot listen on {listen}: {error.strerror or error}") from None
        line = {"url": server.url, "api_key": state.api_key, "client_secret": state.client_secret}
        emit(orjson.dumps(line))
        await stopping.wait()
