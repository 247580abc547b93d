"""`bidstream-svc operator`: the embedded operator by itself."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import click
import orjson

from bidstream_svc.addresses import TcpAddress, parse_listen_addresses
from bidstream_svc.cli.streams import emit, tell
from bidstream_svc.core.errors import ListenError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.devoperator.clients import ALL_ROLES, ApiClient, Role
from bidstream_svc.server.listen_errors import describe_listen_error
from bidstream_svc.server.running import handle_signals, run

_NO_ROLE = "none"
_NEXT_KEYS_ACTIVATE_IN_S = 24 * 3600


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
@click.option(
    "--scope",
    type=click.Choice([scope.name for scope in IdentityScope], case_sensitive=False),
    default="UID2",
    show_default=True,
    help="the programme of its keys and tokens",
)
@click.option(
    "--role",
    "roles",
    type=click.Choice([*Role, _NO_ROLE], case_sensitive=False),
    multiple=True,
    help=f"a role of the API key; may be repeated; {_NO_ROLE} for a key without any; by default it has all",
)
@click.option("--all-keys", is_flag=True, help="print further API keys, and the client-side public key")
def operator(*, listen: TcpAddress, seed: int | None, scope: str, roles: Sequence[str], all_keys: bool) -> None:
    """Run the embedded operator by itself, for development and tests. Not for production.

    Prints {"url", "api_key", "client_secret"} as one line of JSON once it listens. It answers and refuses what a real
    operator does, in the same words. An API key without the role that an endpoint requires gets 401, as does an
    unknown one: generator for /v2/token/generate and validate, mapper for /v2/identity/* and /v3/identity/map, bidder
    for /v2/key/bidstream and latest, sharer or bidder for /v2/key/sharing, mapper, sharer or bidder for
    /v2/optout/status, optout for /v2/token/logout. Other endpoints require none.

    With --all-keys the line has two more fields: "other_keys", by role, has an API key with this role only, and under
    "none" one without roles; "client_side" has the subscription id and the public key for /v2/token/client-generate,
    which pages of example.com and example.org may use.

    Each key set in its key responses has a second key, which becomes active a day after its start. A client must not
    encrypt with it before.
    """
    if _NO_ROLE in roles and len(set(roles)) > 1:
        raise click.BadParameter(f"{_NO_ROLE} excludes all others", param_hint="--role")
    if not listen.is_local:
        tell(f"warning: {listen} is open to the network; this operator is for development only")
    granted = {Role(role) for role in roles if role != _NO_ROLE} if roles else ALL_ROLES
    state = OperatorState(seed, scope=IdentityScope[scope], roles=granted)
    state.rotate_keys(activates_in_s=_NEXT_KEYS_ACTIVATE_IN_S)
    run(_serve(state, listen, all_keys=all_keys))


def _describe(url: str, state: OperatorState, *, all_keys: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"url": url} | _credentials(state.clients.main)
    if all_keys:
        others = {str(role): client for role, client in state.clients.with_one_role.items()}
        others[_NO_ROLE] = state.clients.without_role
        line["other_keys"] = {name: _credentials(client) for name, client in others.items()}
        keys = state.client_side
        line["client_side"] = {"subscription_id": keys.subscription_id, "public_key": keys.public_key}
    return line


def _credentials(client: ApiClient) -> dict[str, str]:
    return {"api_key": client.api_key, "client_secret": client.client_secret}


async def _serve(state: OperatorState, listen: TcpAddress, *, all_keys: bool) -> None:
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(handle_signals([signal.SIGTERM, signal.SIGINT], stopping.set))
        try:
            server = await stack.enter_async_context(DevOperator(state, listen.host, listen.port))
        except OSError as error:
            raise ListenError(f"--listen: {describe_listen_error(listen, error, '--listen')}") from None
        emit(orjson.dumps(_describe(server.url, state, all_keys=all_keys)))
        await stopping.wait()
