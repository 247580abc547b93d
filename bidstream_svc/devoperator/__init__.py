"""An embedded operator for development and tests: every endpoint, seeded or random keys, fault injection.

It implements the protocol with encryption over a socket. Its data is synthetic and in memory::

    state = OperatorState(seed=1)
    async with DevOperator(state) as operator:
        ...  # operator.url, state.api_key, state.client_secret

Endpoints are plain functions, `(state, body) -> answer`, in one module per role: `key_endpoints`, `token_endpoints`,
`identity_endpoints`. `app` adds envelopes and HTTP. Not for production: the seed determines the keys.
"""

from bidstream_svc.devoperator.faults import Fault, Faults
from bidstream_svc.devoperator.key_ring import OperatorKey
from bidstream_svc.devoperator.server import DevOperator
from bidstream_svc.devoperator.state import Lifetimes, OperatorSite, OperatorState

__all__ = [
    "DevOperator",
    "Fault",
    "Faults",
    "Lifetimes",
    "OperatorKey",
    "OperatorSite",
    "OperatorState",
]
