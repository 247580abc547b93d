"""A uniform sample of the tokens that were not decrypted in a period, taken in the hot path.

Most failures cost an addition and a comparison: the sample knows how many to skip until it takes one.

Source: K.-H. Li, "Reservoir-Sampling Algorithms of Time Complexity O(n(1 + log(N/n)))", 1994, algorithm L.
"""

from math import exp, log, log1p
from random import Random
from typing import NamedTuple

from bidstream_svc.core.domains import NameCandidates
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.status import FailureReason

SAMPLE_SIZE = 32
_MAX_TOKEN_CHARACTERS = 2048  # real ones are shorter; bounds the memory
_MAX_NAME_CHARACTERS = 255
_LEAST = 2.0**-53  # what `Random.random` gives is a multiple of it


class Failure(NamedTuple):
    """A token that was not decrypted.

    Attributes:
        scope: its programme; None if that is unknown.
        token: empty if it is longer than any real one.
        name: the domain or app name as it came, or None.
    """

    reason: FailureReason
    scope: IdentityScope | None
    token: str
    name: str | None

    def __repr__(self) -> str:
        """Omit the token and the name."""
        return f"Failure(reason={self.reason!r}, scope={self.scope!r})"


class FailurePeriod(NamedTuple):
    """A period.

    Attributes:
        failures: how many there were.
        sample: all of them, or SAMPLE_SIZE, each with the same probability.
    """

    failures: int
    sample: list[Failure]


class FailureSample:
    """Samples the failures of a period. For one thread.

    Args:
        random: decides which; tests pass a seeded one.

    Attributes:
        skip: how many failures are to be skipped. Who notes one subtracts 1, and calls `keep` if that gives -1; see
            `note`. The hot path does it without a call.
    """

    __slots__ = ("_counted", "_planned", "_random", "_sample", "_weight", "skip")

    def __init__(self, random: Random | None = None) -> None:
        self._random = Random() if random is None else random  # noqa: S311 - a sample, not a secret
        self._begin()

    def _begin(self) -> None:
        self._counted = 0  # without those that are being skipped
        self._planned = 0  # what `skip` was at the beginning
        self.skip = 0
        self._weight = 1.0
        self._sample: list[Failure] = []

    def note(self, reason: FailureReason, scope: IdentityScope | None, token: object, name: object) -> None:
        """Note a token that was not decrypted."""
        self.skip -= 1
        if self.skip < 0:
            self.keep(reason, scope, token, name)

    def keep(self, reason: FailureReason, scope: IdentityScope | None, token: object, name: object) -> None:
        """Take a failure into the sample. `name` is a string, a NameCandidates, or None."""
        failure = _failure(reason, scope, token, name)
        if len(self._sample) < SAMPLE_SIZE:
            self._sample.append(failure)
        else:
            self._sample[int(self._random.random() * SAMPLE_SIZE)] = failure  # half the time of `randrange`
        self._counted += self._planned + 1
        self._planned = self.skip = self._next_skip() if len(self._sample) == SAMPLE_SIZE else 0

    def take(self) -> FailurePeriod:
        """Return the period so far and begin the next one."""
        period = FailurePeriod(self._counted + self._planned - self.skip, self._sample)
        self._begin()
        return period

    def _next_skip(self) -> int:
        # Each failure has a random number, and the sample is of those with the least; `_weight` is the largest of them.
        self._weight = min(self._weight * exp(log(self._uniform()) / SAMPLE_SIZE), 1 - _LEAST)
        return int(log(self._uniform()) / log1p(-self._weight))

    def _uniform(self) -> float:
        """Return a number between 0 and 1, both exclusive."""
        return self._random.random() or _LEAST


def _failure(reason: FailureReason, scope: IdentityScope | None, token: object, name: object) -> Failure:
    if isinstance(name, NameCandidates):
        name = name.first()[1]
    is_token = isinstance(token, str) and len(token) <= _MAX_TOKEN_CHARACTERS
    is_name = isinstance(name, str) and len(name) <= _MAX_NAME_CHARACTERS
    return Failure(reason, scope, str(token) if is_token else "", str(name) if is_name else None)
