"""Base64 in lines of 76 characters is read wherever an operator's answer holds base64."""

from base64 import b64decode, encodebytes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from bidstream_svc.core.identity import Identity
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.devoperator import DevOperator
from bidstream_svc.operator import (
    IdentityMapClient,
    IdentityTokens,
    MappedIdentity,
    OperatorTransport,
    PublisherClient,
    fetch_keys,
    open_cached_keys,
)
from tests.operator.support import ONCE, credentials_of
from tests.support.operator import running_operator

ADDRESS = "someone@example.com"


@asynccontextmanager
async def proxied(operator: DevOperator, line_end: bytes) -> AsyncIterator[OperatorTransport]:
    """A transport to an operator, through a proxy that breaks base64 into lines as RFC 2045 does."""

    async def forward(request: web.Request) -> web.Response:
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        async with (
            aiohttp.ClientSession() as session,
            session.post(operator.url + request.path, data=await request.read(), headers=headers) as answer,
        ):
            body = encodebytes(b64decode(await answer.read(), validate=True)).replace(b"\n", line_end)
            assert body.count(line_end) > 1
            return web.Response(body=body, content_type="text/plain")

    app = web.Application()
    app.router.add_post("/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = "http://127.0.0.1:{1}".format(*runner.addresses[0])
        async with OperatorTransport(url, credentials_of(operator.state), retry=ONCE) as transport:
            yield transport
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b" \r\n\t"])
async def test_every_answer_in_base64(line_end: bytes) -> None:
    async with running_operator() as operator, proxied(operator, line_end) as transport:
        keys, wire, *_ = await fetch_keys(transport)
        assert line_end in wire
        assert open_cached_keys(wire, credentials_of(operator.state).client_secret).snapshot.keys == keys.keys

        publisher = PublisherClient(transport)
        tokens = await publisher.generate_token(Identity.from_email(ADDRESS))
        assert tokens is not None
        assert await publisher.refresh_token(tokens) is not None

        (mapped,) = await IdentityMapClient(transport).map_identities([Identity.from_email(ADDRESS)])
        assert isinstance(mapped, MappedIdentity)


async def test_the_key_of_a_refresh() -> None:
    async with running_operator() as operator, proxied(operator, b"\n") as transport:
        publisher = PublisherClient(transport)
        tokens = await publisher.generate_token(Identity.from_email(ADDRESS))
        assert tokens is not None
        assert tokens.refresh_response_key is not None
        written = tokens.refresh_response_key.replace("=", "=\\n")
        wrapped = IdentityTokens.from_json(tokens.json.replace(tokens.refresh_response_key, written))
        assert wrapped.refresh_response_key != tokens.refresh_response_key
        assert await publisher.refresh_token(wrapped) is not None


def test_the_secret_of_a_key() -> None:
    secret = encodebytes(bytes(range(32))).decode().replace("\n", "\\n")
    response = f'{{"body":{{"keys":[{{"id":7,"expires":9,"secret":"{secret}"}}]}}}}'
    assert parse_key_response(response).keys[7].secret == bytes(range(32))
