"""Transports to an operator under test."""

from typing import Any

from bidstream_svc.devoperator import DevOperator, OperatorState
from bidstream_svc.operator import Credentials, OperatorTransport, RetryPolicy

ONCE = RetryPolicy(attempts=1)
FAST_RETRY = RetryPolicy(attempts=3, wait_initial_s=0.001, wait_max_s=0.01, wait_jitter_s=0)


def credentials_of(state: OperatorState) -> Credentials:
    return Credentials.from_base64(state.api_key, state.client_secret)


def transport_to(operator: DevOperator, *, retry: RetryPolicy = ONCE, **options: Any) -> OperatorTransport:
    return OperatorTransport(operator.url, credentials_of(operator.state), retry=retry, **options)
