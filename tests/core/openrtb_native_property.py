"""The specification of the native shortcut for bid requests as a property.

`python -m tests.core.openrtb_native_property --inputs N` runs it at length.

1. Whenever the shortcut answers, Python gives the same bytes, and counts the same tokens.
2. It answers every plain bid request whose tokens are all good.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import Pool
from random import Random
from typing import Any
from unittest.mock import patch

from bidstream_svc.core import kernel
from bidstream_svc.core.decrypt import BoundDecrypt, Verdict, bind_decrypt
from bidstream_svc.core.errors import BidRequestError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import BidRequests, build_bid_requests, build_kernel
from bidstream_svc.core.openrtb import SOURCES, BidRequestDecryptor, ask_kernel_first, finish_if_steps
from bidstream_svc.core.status import DecryptionStatus
from tests.core.openrtb_cases import DIRECTORY
from tests.core.openrtb_compare import KEYS
from tests.core.openrtb_native_inputs import damaged, plain_bid_request
from tests.vectors.inputs import NOW_MS

_PART = 5_000  # inputs


class Checked:
    """Python, and two shortcuts: one that knows the registered names, and one that learns from what Python decides."""

    def __init__(self) -> None:
        self._kernels = [build_kernel(keys) for keys in KEYS]
        self.native = _bind([build_kernel(keys) for keys in KEYS])
        self.learning = _bind(self._kernels)
        self._counts = Counter[IdentityScope]()
        decrypt = {keys.scope: self._count(keys.scope, bind_decrypt(keys)) for keys in KEYS}
        self._python = BidRequestDecryptor(decrypt)
        self._teacher = BidRequestDecryptor(
            {
                keys.scope: ask_kernel_first(kernel, decrypt[keys.scope])
                for keys, kernel in zip(KEYS, self._kernels, strict=True)
            }
        )

    def check(self, body: bytes) -> str:
        """Check a body; returns what became of it."""
        with patch.object(kernel, "is_usual_text", return_value=False):  # it is of the same scanner
            return self._check(body)

    def _check(self, body: bytes) -> str:
        is_answered = [self._check_one(body, native) for native in (self.native, self.learning)]
        try:
            finish_if_steps(self._teacher.find(body, NOW_MS))
        except BidRequestError:
            return "refused"
        return "answered" if is_answered[0] else "left to Python"

    def _check_one(self, body: bytes, native: BidRequests) -> bool:
        found, rewritten = native.find(body, NOW_MS), native.rewrite(body, NOW_MS)
        assert (found is None) == (rewritten is None), body
        pairs: list[tuple[Callable[..., Any], object]] = [
            (self._python.answer, found),
            (self._python.rewrite, rewritten),
        ]
        for ask, given in pairs:
            self._counts.clear()
            try:
                answer = finish_if_steps(ask(body, NOW_MS))
            except BidRequestError:
                assert given is None, body
                return False
            if given is not None:
                counts = tuple(self._counts[scope] for scope in IdentityScope)
                assert given == (answer[0], len(answer[1]), counts), body
                assert set(answer[1]) <= {DecryptionStatus.SUCCESS}, body
        return found is not None

    def _count(self, scope: IdentityScope, decrypt: BoundDecrypt) -> BoundDecrypt:
        def decrypt_and_count(token: object, names: object, now_ms: int) -> Verdict:
            self._counts[scope] += 1
            return decrypt(token, names, now_ms)

        return decrypt_and_count


def _bind(kernels: list[Any]) -> BidRequests:
    native = build_bid_requests(kernels, SOURCES)
    assert native is not None
    return native


def run(seed: int, count: int) -> Counter[str]:
    """Check so many inputs from a seed; returns counts by outcome."""
    random, checked, counts = Random(seed), Checked(), Counter[str]()  # noqa: S311 - not for secrets
    files = [path.read_bytes() for path in sorted(DIRECTORY.iterdir()) if path.suffix in {".request", ".refused"}]
    for _ in range(count):
        body = plain_bid_request(random)
        outcome = checked.check(body)
        counts[f"plain: {outcome}"] += 1
        assert outcome == "answered", body
        counts[f"damaged: {checked.check(damaged(random, body))}"] += 1
        counts[f"damaged file: {checked.check(damaged(random, random.choice(files)))}"] += 1
    return counts


def main() -> None:
    """Run it, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    parts = -(-options.inputs // _PART)
    counts, began = Counter[str](), time.monotonic()
    with Pool(options.processes) as pool:
        for part in pool.starmap(run, [(options.seed + number, _PART) for number in range(parts)]):
            counts += part
    for outcome, number in sorted(counts.items()):
        print(f"{number:>12,}  {outcome}")  # noqa: T201
    print(f"{counts.total():>12,}  inputs in {time.monotonic() - began:.0f} s, no disagreement")  # noqa: T201


if __name__ == "__main__":
    main()
