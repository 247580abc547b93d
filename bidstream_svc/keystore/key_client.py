"""Fetches keys by the settings of an operator: from its URL, and if there is no answer, from the fallback."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Self

from bidstream_svc.core.errors import (
    BidstreamError,
    OperatorError,
    OperatorHttpError,
    OperatorNetworkError,
    OperatorOversizeError,
)
from bidstream_svc.core.keys import KeyPurpose, KeySnapshot
from bidstream_svc.logs import get_logger
from bidstream_svc.metrics.cells import LABEL_OF_SCOPE
from bidstream_svc.operator.from_settings import make_transport
from bidstream_svc.operator.key_fetch import FetchedKeys, fetch_keys
from bidstream_svc.operator.transport import OperatorTransport, RetryPolicy
from bidstream_svc.operator_settings import OperatorSettings

# An operator that sends to thousands at once sends slowly to each. Who gives up half way wastes what was sent, and
# asks again: then nobody may ever get all of it. An answer of which nothing comes for 10 s is given up all the same.
TOTAL_TIMEOUT_S = 600.0
_log = get_logger(__name__)


class KeyClient:
    """Fetches keys; an asynchronous context manager.

    Args:
        operator: with URL and credentials, and perhaps a fallback.
        retry: how calls are retried; None for the default.
        relay: see `fetch_keys`.
        on_fallback: called after the fallback has answered.

    Raises:
        ConfigurationError: as for `make_transport`.
    """

    def __init__(
        self,
        operator: OperatorSettings,
        retry: RetryPolicy | None = None,
        *,
        relay: str | None = None,
        on_fallback: Callable[[], None] = lambda: None,
    ) -> None:
        self._relay = relay
        self._scope = LABEL_OF_SCOPE[operator.scope]
        self._primary = make_transport(operator, retry, total_timeout_s=TOTAL_TIMEOUT_S)
        self._fallback: OperatorTransport | None = None
        if operator.operator_fallback_url is not None:
            fallback = replace(operator, operator_url=operator.operator_fallback_url)
            self._fallback = make_transport(fallback, retry, total_timeout_s=TOTAL_TIMEOUT_S)
        self._on_fallback = on_fallback
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the sessions."""
        for transport in (self._primary, self._fallback):
            if transport is not None:
                await self._stack.enter_async_context(transport)
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        """Close the sessions."""
        await self._stack.aclose()

    async def fetch(
        self,
        purpose: KeyPurpose = KeyPurpose.BIDSTREAM,
        *,
        previous: KeySnapshot | None = None,
        pause_s: float = 0.0,
        max_age_s: float | None = None,
    ) -> FetchedKeys:
        """Fetch keys; the arguments are those of `fetch_keys`. The fallback is asked after each failure anew.

        Raises:
            OperatorError, EnvelopeError, KeyResponseError: as for `fetch_keys`. If neither answers, the error is the
                fallback's, and the log has that of the other.
        """
        fetch = partial(
            fetch_keys, purpose=purpose, previous=previous, pause_s=pause_s, max_age_s=max_age_s, relay=self._relay
        )
        try:
            return await fetch(self._primary)
        except OperatorError as error:
            if self._fallback is None or not _is_unanswered(error):
                raise
            problem = str(error)
        try:
            fetched = await fetch(self._fallback)
        except BidstreamError:
            _log.warning("neither the operator nor its fallback answers", scope=self._scope, error=problem)
            raise
        _log.warning("the operator's fallback answers", scope=self._scope, error=problem)
        self._on_fallback()
        return fetched


def _is_unanswered(error: OperatorError) -> bool:
    """Whether another operator may do better. One that refuses the credentials or the rate has answered."""
    if isinstance(error, OperatorHttpError):
        return error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(error, OperatorNetworkError) and not isinstance(error, OperatorOversizeError)
