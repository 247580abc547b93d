"""Decryption of the tokens in bid requests: the native kernel is asked first, and each verdict is counted."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bidstream_svc.core.decrypt import BoundDecrypt, Verdict, bind_decrypt, decrypt_without_keys
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import build_bid_requests
from bidstream_svc.core.openrtb import BidRequestDecryptor, Sources, ask_kernel_first
from bidstream_svc.core.status import FailureReason
from bidstream_svc.keystore.store import CurrentKeys
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import SUCCESS_CELLS

if TYPE_CHECKING:  # it is not there where it was not built
    from bidstream_svc.core.kernel import Kernel

# Called with the reason of a failure, the programme of the token or None, the token, and its name or NameCandidates.
CountFailure = Callable[[FailureReason, IdentityScope | None, object, object], None]


def bind_bid_requests(
    keys: CurrentKeys, sources: Sources, metrics: MetricCells, count_failure: CountFailure
) -> BidRequestDecryptor:
    """Bind decryption of bid requests to the keys of all programmes.

    A token counts for the programme of its eid's source, whose keys judge it. A programme without keys has verdicts,
    too.
    """
    bound = {
        programme.keys.scope: bind_decrypt(programme.keys, programme.open_natively, programme.check_optout)
        for programme in keys.programmes
        if programme.keys is not None
    }
    kernels = dict(zip(keys.kernel_scopes, keys.kernels, strict=True))

    def count_native(tokens: Sequence[int]) -> None:
        for scope, number in zip(IdentityScope, tokens, strict=True):
            metrics.row[SUCCESS_CELLS[scope]] += number

    return BidRequestDecryptor(
        {
            scope: _bind(bound.get(scope, decrypt_without_keys), kernels.get(scope), scope, metrics, count_failure)
            for scope in IdentityScope
        },
        sources,
        build_bid_requests(keys.kernels, sources),
        count_native,
    )


def _bind(
    decrypt: BoundDecrypt,
    kernel: "Kernel | None",
    scope: IdentityScope,
    metrics: MetricCells,
    count_failure: CountFailure,
) -> BoundDecrypt:
    row, success_cell = metrics.row, SUCCESS_CELLS[scope]

    judge = decrypt if kernel is None else ask_kernel_first(kernel, decrypt)

    def decrypt_token(token: object, names: object, now_ms: int) -> Verdict:
        verdict = judge(token, names, now_ms)
        reason = verdict[3]
        if reason is None:
            row[success_cell] += 1
        else:
            count_failure(reason, scope, token, names)
        return verdict

    return decrypt_token
