"""An embedded operator for development and tests: every endpoint, seeded or random keys, fault injection.

It implements the protocol with encryption over a socket. Its data is synthetic and in memory::

    state = OperatorState(seed=1)
    async with DevOperator(state) as operator:
        ...  # operator.url, state.api_key, state.client_secret

Endpoints are plain functions, `(state, body, client) -> answer`, in one module per role: `key_endpoints`,
`token_endpoints`, `identity_endpoints`, `optout_endpoints`. `endpoints` lists them; `app` adds envelopes and HTTP. Not
for production: the seed determines the keys.
"""

from bidstream_svc.devoperator.clients import ApiClient, Role
from bidstream_svc.devoperator.faults import Fault, Faults
from bidstream_svc.devoperator.key_ring import OperatorKey
from bidstream_svc.devoperator.server import DevOperator
from bidstream_svc.devoperator.state import Lifetimes, OperatorSite, OperatorState

__all__ = [
    "ApiClient",
    "DevOperator",
    "Fault",
    "Faults",
    "Lifetimes",
    "OperatorKey",
    "OperatorSite",
    "OperatorState",
    "Role",
]
