"""An operator to develop and test against: every endpoint, seeded or random keys, faults on request.

It speaks the real protocol over a real socket, with real encryption; only its data is made up. Its state is in memory::

    state = OperatorState(seed=1)
    async with DevOperator(state) as operator:
        ...  # operator.url, state.api_key, state.client_secret

Endpoints are plain functions, `(state, body) -> answer`, in a module per role (`key_endpoints`, `publisher`,
`advertiser`); `app` wraps them in envelopes and HTTP. Not for production: anyone who knows the seed knows the keys.
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
