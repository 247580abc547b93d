"""The kernel's specification as a property; `python -m tests.core.kernel_property --inputs N` runs it at length.

1. Whenever the kernel answers, Python gives the same bytes.
2. Every SUCCESS in the plain spelling is answered by the kernel.
3. The lane reads what is in the plain spelling as Python does.
4. What the kernel opens, Python judges as what it has opened itself.
"""

import argparse
import os
import re
import time
from collections import Counter
from collections.abc import Generator
from mmap import mmap
from multiprocessing import Pool

from bidstream_svc.core.decrypt import BoundDecrypt
from bidstream_svc.core.domains import normalise_domain
from bidstream_svc.core.kernel import Content, Kernel, Lane, LaneCells
from bidstream_svc.core.keys import KeySnapshot
from bidstream_svc.core.status import DecryptionStatus
from bidstream_svc.core.token_details import read_details
from bidstream_svc.server.answers import Answer, verdict_body
from bidstream_svc.server.handlers import BoundKeys, answer_batch, answer_decrypt
from tests.core.kernel_inputs import Input, Inputs

INPUTS_BEFORE_RENEWAL = 50_000
INPUTS_A_BATCH = 20  # every so many inputs, one is put into a batch

_STRING = rb'"([^"\\\x00-\x1f]*)"'
_TOKEN, _DOMAIN = rb'"token"\s*:\s*' + _STRING, rb'"domain"\s*:\s*(?:null|' + _STRING + rb")"
# Of what JSON decodes, all that `\s` matches are the blanks of JSON.
_PLAIN = re.compile(rb"\s*\{\s*(?:%b(?:\s*,\s*%b)?|%b\s*,\s*%b)\s*\}\s*" % (_TOKEN, _DOMAIN, _DOMAIN, _TOKEN))
_UID = re.compile(rb'\{"status":"SUCCESS","uid":"[ !#-\[\]-~]*","established":-?\d+\}')
_RESPONSE_START = b"HTTP/1.1 200 OK\r\nContent-Length: "
_IS_SUCCESS = b'{"status":"SUCCESS",'


class Counted:
    """Decryption as the server binds it: `keys`, and `counts` of the verdicts by status."""

    def __init__(self, decrypt: BoundDecrypt, kernel: Kernel | None = None) -> None:
        self.keys = BoundKeys(self._decrypt_to_json, () if kernel is None else (kernel,), self._count_successes)
        self.counts = Counter[str]()
        self._decrypt = decrypt

    def _decrypt_to_json(self, token: str, domain: str | None, _scope: str | None, now_ms: int) -> bytes:
        verdict = self._decrypt(token, domain, now_ms)
        self.counts[verdict[0]] += 1
        if verdict[0] is DecryptionStatus.SUCCESS:
            for kernel in self.keys.kernels:
                kernel.note_success(token, domain, now_ms)  # as the server does
        return verdict_body(verdict)

    def _count_successes(self, count: int, _kernel: int) -> None:
        self.counts[DecryptionStatus.SUCCESS] += count


class LaneAlone:
    """A lane without a kernel, which asks Python for every verdict."""

    def __init__(self) -> None:
        self._lane: Lane[str] = Lane(
            memoryview(mmap(-1, 64)).cast("q"), LaneCells(0, 1, 2, 3, 4, 5, 6), lambda: self._keys
        )
        self._lane.learn("", [(b"POST / HTTP/1.1\r\nContent-Length: ", 0)], b"\r\n\r\n", 2**30, Content.TOKEN, 0)
        self._lane.set_response_start(_RESPONSE_START)
        self._keys = BoundKeys(lambda _token, _domain, _scope, _now_ms: b"")

    def answer(self, keys: BoundKeys, body: bytes, now_ms: int) -> bytes | None:
        """Return what the lane answers to a body at a time; None if it leaves it to Python."""
        self._keys = BoundKeys(lambda token, domain, scope, _: keys.decrypt_to_json(token, domain, scope, now_ms))
        taken = self._lane.take(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), self._keys)
        if isinstance(taken, tuple):
            assert taken == ("", body)
            return None
        assert taken is not None
        assert taken.startswith(_RESPONSE_START)
        return taken.partition(b"\r\n\r\n")[2]


_LANE = LaneAlone()


def check(input_: Input) -> str:
    """Check all sentences; returns what became of the input."""
    scenario, body, now_ms = input_.scenario, input_.body, input_.now_ms
    python, both = Counted(scenario.decrypt), Counted(scenario.decrypt, scenario.kernel)
    answer = answer_decrypt(python.keys, body, now_ms)
    assert isinstance(answer, tuple)
    given = scenario.kernel.answer(body, now_ms)
    assert answer_decrypt(both.keys, body, now_ms) == answer
    assert both.counts == python.counts
    opened = Counted(scenario.decrypt_opened)
    assert answer_decrypt(opened.keys, body, now_ms) == answer, (input_.kind, body, now_ms)
    assert opened.counts == python.counts
    of_lane = _LANE.answer(python.keys, body, now_ms)
    assert (answer[1] if answer[0] == 200 and _is_plain(body) else None) == of_lane, (input_.kind, body, now_ms)
    if given is not None:
        assert answer == (200, given), (input_.kind, body, now_ms)
        return "answered"
    status, expected = answer[:2]
    if status != 200:
        return "bad request"
    if not expected.startswith(_IS_SUCCESS):
        return "failure"
    assert may_be_left(body, expected, scenario.snapshot), (input_.kind, body, now_ms)
    return "success, left to Python"


def _is_plain(body: bytes) -> bool:
    """Whether a body that JSON decodes is in the plain spelling."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return _PLAIN.fullmatch(body) is not None


def may_be_left(body: bytes, expected: bytes, keys: KeySnapshot) -> bool:
    """Whether the second sentence leaves this SUCCESS to Python."""
    match = _PLAIN.fullmatch(body)
    if match is None or not _UID.fullmatch(expected):
        return True
    if {len(key.secret) for key in keys.keys.values()} == {24}:
        return True  # no AES-192 in GCM
    token, domain = (match[1] or match[4]).decode(), match[2] or match[3]
    details = read_details(token, keys)
    assert details is not None
    if not details.is_client_side_generated or not keys.checks_domains:
        return False
    name = domain.decode()
    return not is_listed_as_given(name, keys.domain_names[details.site_id or 0])


def is_listed_as_given(name: str, names: frozenset[str]) -> bool:
    """Whether a name is among those of a site, without normalisation."""
    is_ours = name.isascii() and name.isprintable() and "xn--" not in name
    return is_ours and normalise_domain(name) == name and name in names


def check_batch(kernel: Kernel, decrypt: BoundDecrypt, body: bytes, now_ms: int) -> str:
    """Check the first sentence for a batch: with the gaps filled, the answer is Python's."""
    python, both = Counted(decrypt), Counted(decrypt, kernel)
    expected = finish(answer_batch(python.keys, body, now_ms))
    assert finish(answer_batch(both.keys, body, now_ms)) == expected, (body, now_ms)
    assert both.counts == python.counts
    answer = kernel.answer_batch(body, now_ms)
    if answer is None:
        return "batch, left to Python" if expected[0] == 200 else "bad batch"
    _, answered, left = answer
    assert expected[0] == 200
    assert answered + len(left) == expected[1].count(b'{"status"')
    return "batch, answered" if not left else "batch, answered in part"


def finish(answer: Answer | Generator[None, None, Answer]) -> Answer:
    """Run the steps of an answer."""
    while not isinstance(answer, tuple):
        try:
            next(answer)
        except StopIteration as end:
            answer = end.value
    return answer


def run(seed: int, count: int) -> Counter[str]:
    """Check so many inputs from a seed; returns counts by kind and outcome."""
    inputs, counts = Inputs(seed), Counter[str]()
    for number in range(count):
        if number % INPUTS_BEFORE_RENEWAL == INPUTS_BEFORE_RENEWAL - 1:
            inputs.renew()
        input_ = inputs.input()
        counts[f"{input_.kind}: {check(input_)}"] += 1
        if number % INPUTS_A_BATCH == 0:
            scenario = input_.scenario
            counts[check_batch(scenario.kernel, scenario.decrypt, inputs.batch(input_), input_.now_ms)] += 1
    return counts


def _run_part(part: tuple[int, int]) -> Counter[str]:
    return run(*part)


def main() -> None:
    """Run it, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    parts = [
        (options.seed + number, INPUTS_BEFORE_RENEWAL) for number in range(-(-options.inputs // INPUTS_BEFORE_RENEWAL))
    ]
    counts, began = Counter[str](), time.monotonic()
    with Pool(options.processes) as pool:
        for part in pool.imap_unordered(_run_part, parts):
            counts += part
    for outcome, number in sorted(counts.items()):
        print(f"{number:>12,}  {outcome}")  # noqa: T201
    total = sum(number for outcome, number in counts.items() if "batch" not in outcome)
    print(f"{total:>12,}  inputs in {time.monotonic() - began:.0f} s, no disagreement")  # noqa: T201


if __name__ == "__main__":
    main()
