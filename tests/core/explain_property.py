"""What is true of every explanation; `python -m tests.core.explain_property --tokens N` checks it at length.

1. Verdict and reason are those of `bind_programmes`.
2. Exactly the step of the reason has failed. Those before it have passed or are notes, those behind it notes or not
   reached.
3. Neither the token nor the raw uid is in it, and nothing that a terminal would obey.
"""

import argparse
import json
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from random import Random

from bidstream_svc.core.explain import STEP_NAMES, STEP_OF, Explanation, Outcome, explain_token, to_json
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.token import BUILDERS, TokenContent, TokenKey, decode_text
from tests.core.assemble import spellings
from tests.vectors.inputs import (
    CLOCK_SKEW_MS,
    EXPIRED_MASTER,
    HOUR_MS,
    LISTED_SITE,
    MASTER,
    MAX_LIFETIME_MS,
    NO_NAMES_SITE,
    NOW_MS,
    SECRETS,
    SITE,
    UNKNOWN,
    UNLISTED_SITE,
)
from tests.vectors.load import key_snapshot, optout_check

TIMES_S = 1_699_990_000, 1_699_000_000
_OPTED_OUT = [b64encode(bytes([number]) * 32).decode() for number in range(8)]
_STORES = (None, None, {"UID2": _OPTED_OUT, "EUID": _OPTED_OUT}, "not synced")
_KEYS: tuple[tuple[str | None, ...], ...] = (
    *(("uid2",), ("uid2",), ("euid",), ("uid2", "euid"), ("uid2", "euid"), (None,), ("uid2", None)),
    *(("sharing",), ("all expire now",), ("site_data missing",), ("maximum zero", "euid")),
)
_NAMES: tuple[str | None, ...] = (
    *("example.com", "www.example.com", "com.acme.shooter", "other.org", "exmaple.com", "https://example.com/", None),
    *("bücher.de", "", "a" * 256, "\x1b[2J\u202e.com", "id1234", "example.com:80", "123"),
)
_OFFSETS_MS = (0, HOUR_MS, -HOUR_MS, MAX_LIFETIME_MS, CLOCK_SKEW_MS, -HOUR_MS * 10**6, 2**62, -(2**62))
_SLIPS = (
    '"{}"',
    " {}",
    "{}\n",
    "UID2:{}",
    "{}%3D",
    "{}...",
    "\\{}",
    "{}é",
    "{{{{{}}}}}",
    "{0}{0}",
    "{}\x1b[0m",
    "{}==",
)


def explain_checked(
    token: object, domain: object, programmes: Sequence[Programme], requested: IdentityScope | None, now_ms: int
) -> Explanation:
    """Explain a token, and check what is true of every explanation."""
    explanation = explain_token(token, domain, programmes, requested, now_ms, lambda _scope, _raw_uid: TIMES_S)
    verdict, scope = bind_programmes(programmes)(token, domain, requested, now_ms)
    told = explanation.status, explanation.raw_uid, explanation.established_ms, explanation.reason
    assert told == verdict
    assert explanation.scope is scope
    check_steps(explanation)
    check_privacy(explanation, token)
    return explanation


def check_steps(explanation: Explanation) -> None:
    assert tuple(step.name for step in explanation.steps) == STEP_NAMES
    failed = len(STEP_NAMES)
    if explanation.reason is not None:
        failed = STEP_NAMES.index(STEP_OF[explanation.reason])
        assert explanation.steps[failed].outcome is Outcome.FAILED
        assert explanation.advice.endswith(".")
    assert {step.outcome for step in explanation.steps[:failed]} <= {Outcome.PASSED, Outcome.NOTE}
    assert {step.outcome for step in explanation.steps[failed + 1 :]} <= {Outcome.NOTE, Outcome.NOT_REACHED}
    for step in explanation.steps:
        assert (step.text == "") is (step.outcome is Outcome.NOT_REACHED), step
        assert step.text.isprintable()
        assert len(step.text) < 2500
        assert all(str(fact).isprintable() for fact in step.facts.values())
    assert explanation.advice.isprintable()


def check_privacy(explanation: Explanation, token: object) -> None:
    shown = repr(explanation) + json.dumps(to_json(explanation))
    if isinstance(token, str) and len(token) > 40:
        assert token not in shown
    if explanation.raw_uid is not None:
        assert len(explanation.raw_uid) <= 4 or explanation.raw_uid not in shown
        assert to_json(explanation, reveal=True)["uid"] == explanation.raw_uid


def run(seed: int, count: int) -> Counter[FailureReason | None]:
    """Explain generated tokens, and return how many had each reason."""
    random = Random(seed)  # noqa: S311 - not for secrets
    reasons = Counter[FailureReason | None]()
    for _ in range(count):
        names, store = random.choice(_KEYS), optout_check(random.choice(_STORES))
        programmes = [
            Programme(None if len(names) == 1 else scope, key_snapshot(name), check_optout=store)
            for scope, name in zip(IdentityScope, names, strict=False)
        ]
        requested = random.choice((None, None, None, *IdentityScope))
        now_ms = NOW_MS if random.random() < 0.9 else NOW_MS + random.choice(_OFFSETS_MS) + random.randint(-1, 1)
        explanation = explain_checked(_token(random), random.choice(_NAMES), programmes, requested, now_ms)
        reasons[explanation.reason] += 1
    return reasons


def _token(random: Random) -> str:
    version = random.choice(sorted(BUILDERS))
    is_good = random.random() < 0.5

    def key(usual: int) -> TokenKey:
        key_id = usual if is_good or random.random() < 0.8 else random.choice((UNKNOWN, EXPIRED_MASTER, 2**32 - 1, 0))
        secret = SECRETS[UNKNOWN] if random.random() < 0.02 else SECRETS.get(key_id, SECRETS[UNKNOWN])
        return TokenKey(key_id, secret, random.randbytes(16 if version == 2 else 12))

    text = BUILDERS[version](_content(random, is_good=is_good), key(MASTER), key(SITE))
    damage = random.random()
    if damage < 0.1:
        raw = bytearray(decode_text(text))
        raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
        text = random.choice([*spellings(bytes(raw)).values()])
    elif damage < 0.15:
        text = text[: random.randrange(len(text))]
    elif damage < 0.2:
        text = random.choice(_SLIPS).format(text)
    elif damage < 0.22:
        text = b64encode(random.randbytes(random.randrange(300))).decode()
    elif damage < 0.24:
        text = "".join(map(chr, random.choices(range(0xD7FF), k=random.randrange(80))))
    return text


def _content(random: Random, *, is_good: bool) -> TokenContent:
    def moment(usual_ms: int) -> int:
        is_usual = is_good or random.random() < 0.6
        return usual_ms if is_usual else NOW_MS + random.choice(_OFFSETS_MS) + random.randint(-1, 1)

    opted_out = random.choice(_OPTED_OUT)
    return TokenContent(
        raw_uid=opted_out if random.random() < 0.2 else b64encode(random.randbytes(random.choice((32, 33)))).decode(),
        site_id=random.choice((LISTED_SITE, LISTED_SITE, NO_NAMES_SITE, UNLISTED_SITE)),
        expires_ms=moment(NOW_MS + HOUR_MS),
        established_ms=moment(NOW_MS - 2 * HOUR_MS),
        generated_ms=moment(NOW_MS - HOUR_MS),
        privacy_bits=random.choice((0, 1, 1, 2, 3, 3, 4, 5, 6, 7)),
        scope=random.choice([IdentityScope.UID2, IdentityScope.UID2, IdentityScope.EUID]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.perf_counter()
    reasons = run(options.seed, options.tokens)
    took_s = time.perf_counter() - start
    print(f"{options.tokens:,} tokens in {took_s:.0f} s: every verdict is that of bind_programmes")  # noqa: T201
    for reason, count in reasons.most_common():
        print(f"{count:8,} {reason or 'SUCCESS'}")  # noqa: T201


if __name__ == "__main__":
    main()
