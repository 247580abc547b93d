"""Judges rows in Python: all of them without a kernel, else those that it leaves."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from bidstream_svc.core.decrypt import (
    FAILURES,
    CheckDomain,
    CheckOptOut,
    Verdict,
    bind_check_domain,
    bind_decrypt,
    bind_judge,
)
from bidstream_svc.core.domains import MAX_CHARACTERS
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token import CLIENT_SIDE_GENERATED, OpenedToken

if TYPE_CHECKING:
    from bidstream_svc.core.kernel import Kernel, OpenedRow

_MAX_NAMES = 2**15  # about 8 MB


class AskedKernel(NamedTuple):
    """A kernel that decrypts columns, the keys that it is of, and what checks the domains of tokens that it opens."""

    kernel: "Kernel"
    keys: KeySnapshot
    check_domain: CheckDomain


class RowDecryptor:
    """`bind_programmes` with two times: that of the row for the token, and the current one for opt-outs.

    Only one thread may use it.

    Args:
        snapshots: of each programme.
        asked: the kernels that have been asked before, in their order.
        check_optout: looks up opt-outs, if there is a store.

    Attributes:
        now_ms: the current time, Unix ms; to be set before rows are judged.
    """

    def __init__(
        self,
        snapshots: Sequence[KeySnapshot],
        asked: Sequence[AskedKernel],
        check_optout: CheckOptOut | None = None,
    ) -> None:
        self.now_ms = 0
        self._check_optout = check_optout
        self._asked = asked
        self._judges = [bind_judge(each.keys, each.check_domain) for each in asked]
        check = None if check_optout is None else self._check_now
        self._decrypt = bind_programmes([Programme(keys.scope, keys, None, check) for keys in snapshots])
        # The programme of a failing token, which takes time to find, does not count here.
        self._decrypt_by_only = bind_decrypt(snapshots[0], None, check) if len(snapshots) == 1 else None

    def decrypt(self, token: str | None, domain: str | None, scope: IdentityScope | None, at_ms: int) -> Verdict:
        """Judge a token as of `at_ms`, as `/decrypt` does."""
        if scope is None and self._decrypt_by_only is not None:
            return self._decrypt_by_only(token, domain, at_ms)
        return self._decrypt(token, domain, scope, at_ms)[0]

    def judge(self, rows: "Iterable[OpenedRow]") -> Iterator[tuple[int, Verdict]]:
        """Judge rows whose tokens the kernels have opened: (row, verdict). A domain that passes is remembered there."""
        judges = self._judges
        for row, place, token, domain, at_ms in rows:
            verdict = judges[place](token, domain, at_ms)
            yield row, self._admit(verdict, place, token, domain) if verdict[3] is None else verdict

    def _admit(self, verdict: Verdict, place: int, token: OpenedToken, domain: str | None) -> Verdict:
        """Return the verdict on a token that is good, opt-outs apart."""
        kernel, keys, _ = self._asked[place]
        _, _, site_id, privacy_bits, _, raw_uid = token
        if domain is not None and privacy_bits & CLIENT_SIDE_GENERATED and keys.checks_domains:
            kernel.note_name(site_id, domain)
        reason = None if self._check_optout is None else self._check_optout(keys.scope, raw_uid, self.now_ms)
        return verdict if reason is None else FAILURES[reason]

    def _check_now(self, scope: IdentityScope, uid: str, _at_ms: int) -> FailureReason | None:
        assert self._check_optout is not None
        return self._check_optout(scope, uid, self.now_ms)


def remember_domains(keys: KeySnapshot) -> CheckDomain:
    """Bind the function that checks domains, and remembers what it has found. Any thread may use it."""
    check_domain = bind_check_domain(keys)
    check_name = lru_cache(_MAX_NAMES)(check_domain)

    def check(domain: object, site_id: int) -> Verdict | None:
        is_name = isinstance(domain, str) and len(domain) <= MAX_CHARACTERS
        return check_name(domain, site_id) if is_name else check_domain(domain, site_id)

    return check
