"""Judges a single row in Python: all rows without a kernel, else those that it leaves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bidstream_svc.core.decrypt import CheckOptOut, Verdict
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.core.status import FailureReason

if TYPE_CHECKING:
    from bidstream_svc.core.kernel import Kernel


class RowDecryptor:
    """`bind_programmes` with two times: that of the row for the token, and the current one for opt-outs.

    Only one thread may use it.

    Args:
        snapshots: of each programme.
        kernels: of each snapshot, None if there is none.
        check_optout: looks up opt-outs, if there is a store.

    Attributes:
        now_ms: the current time, Unix ms; to be set before rows are judged.
    """

    def __init__(
        self,
        snapshots: Sequence[KeySnapshot],
        kernels: "Sequence[Kernel | None]",
        check_optout: CheckOptOut | None = None,
    ) -> None:
        self.now_ms = 0
        self._check_optout = check_optout
        check = None if check_optout is None else self._check_now
        self._kernel_of = {keys.scope: kernel for keys, kernel in zip(snapshots, kernels, strict=True)}
        self._decrypt = bind_programmes(
            [
                Programme(keys.scope, keys, None if kernel is None else kernel.open, check)
                for keys, kernel in zip(snapshots, kernels, strict=True)
            ]
        )

    def decrypt(self, token: str | None, domain: str | None, scope: IdentityScope | None, at_ms: int) -> Verdict:
        """Judge a token as of `at_ms`, as `/decrypt` does, and remember a domain that passes."""
        verdict, of_scope = self._decrypt(token, domain, scope, at_ms)
        if verdict[3] is None and domain is not None and of_scope is not None:
            kernel = self._kernel_of.get(of_scope)
            if kernel is not None:
                kernel.note_success(token, domain, at_ms)
        return verdict

    def _check_now(self, scope: IdentityScope, uid: str, _at_ms: int) -> FailureReason | None:
        assert self._check_optout is not None
        return self._check_optout(scope, uid, self.now_ms)
