"""The application that the service is compared with: FastAPI around the published SDK."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel
from uid2_client import BidstreamClient

client = BidstreamClient(os.environ["UID2_BASE_URL"], os.environ["UID2_API_KEY"], os.environ["UID2_SECRET_KEY"])


class Request(BaseModel):
    """A token, and the domain or app on which it was received."""

    token: str
    domain: str | None = None


class Answer(BaseModel):
    """The verdict; `established` is in Unix milliseconds."""

    status: str
    uid: str | None
    established: int | None


@asynccontextmanager
async def fetch_keys(_: FastAPI) -> AsyncIterator[None]:
    refreshed = client.refresh()
    if not refreshed.success:
        raise RuntimeError(f"no keys: {refreshed.reason}")
    yield


app = FastAPI(lifespan=fetch_keys)


@app.post("/decrypt")
async def decrypt(request: Request) -> Answer:
    # Not in a thread: decryption is pure computation, and switching threads costs more than it saves.
    result = client.decrypt_token_into_raw_uid(request.token, request.domain)
    established_ms = None if result.established is None else round(result.established.timestamp() * 1000)
    return Answer(status=result.status.name, uid=result.uid2, established=established_ms)
