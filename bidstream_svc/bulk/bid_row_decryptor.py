"""Decrypts the ids in a bid request of a log, as `POST /openrtb` does. One thread uses it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from bidstream_svc.core.decrypt import BoundDecrypt, CheckOptOut, bind_decrypt
from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import build_bid_requests
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.openrtb import (
    MAX_BID_REQUEST_BYTES,
    BidRequestDecryptor,
    BidRequestId,
    ask_kernel_first,
    finish_if_steps,
)
from bidstream_svc.core.status import FailureReason

if TYPE_CHECKING:
    from bidstream_svc.core.kernel import Kernel


# Path and source of an id, and its verdict: status, raw uid, established in Unix ms.
IdCells: TypeAlias = tuple[str, str, str, str | None, int | None]


class _FoundId(msgspec.Struct, gc=False):
    path: str
    source: str
    status: str
    uid: str | None
    established: int | None


class _Answer(msgspec.Struct, gc=False):
    ids: list[_FoundId]


_decode_answer = msgspec.json.Decoder(_Answer).decode


class BidRowDecryptor:
    """`BidRequestDecryptor` with two times: that of the row for tokens, and the current one for opt-outs.

    Args:
        snapshots: of each programme.
        kernels: of each snapshot, None if there is none.
        check_optout: looks up opt-outs, if there is a store.
        sources: the programme of each `source` of an eid, in lower case.

    Attributes:
        now_ms: the current time, Unix ms; to be set before rows are judged.
    """

    def __init__(
        self,
        snapshots: Sequence[KeySnapshot],
        kernels: "Sequence[Kernel | None]",
        check_optout: CheckOptOut | None,
        sources: Mapping[str, IdentityScope],
    ) -> None:
        self.now_ms = 0
        self._check_optout = check_optout
        self._native = build_bid_requests([kernel for kernel in kernels if kernel is not None], sources)
        self._decryptor = BidRequestDecryptor(
            {keys.scope: self._bind(keys, kernel) for keys, kernel in zip(snapshots, kernels, strict=True)}, sources
        )

    def find(self, body: bytes, at_ms: int) -> list[IdCells]:
        """Decrypt the ids in a bid request as of `at_ms`.

        Raises:
            BidRequestError: it is not a bid request, or longer than `POST /openrtb` accepts.
        """
        if len(body) > MAX_BID_REQUEST_BYTES:
            raise BidRequestError(f"a bid request has at most {MAX_BID_REQUEST_BYTES // 1024} KiB")
        answer = None if self._native is None else self._native.find(body, at_ms)
        ids: Sequence[_FoundId | BidRequestId]
        if answer is None:
            ids = finish_if_steps(self._decryptor.find(body, at_ms)).ids
        else:
            ids = _decode_answer(answer[0]).ids
        return [(each.path, each.source, each.status, each.uid, each.established) for each in ids]

    def _bind(self, keys: KeySnapshot, kernel: "Kernel | None") -> BoundDecrypt:
        check = None if self._check_optout is None else self._check_now
        if kernel is None:
            return bind_decrypt(keys, check_optout=check)
        return ask_kernel_first(kernel, bind_decrypt(keys, kernel.open, check))

    def _check_now(self, scope: IdentityScope, uid: str, _at_ms: int) -> FailureReason | None:
        assert self._check_optout is not None
        return self._check_optout(scope, uid, self.now_ms)
