"""The native kernel says what Python says, or nothing; see `make kernel`."""

import copy
import json
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidstream_svc.core.decrypt import bind_decrypt
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.kernel import build_kernel
from bidstream_svc.core.keys import Key, KeySnapshot, Site
from bidstream_svc.core.token import BUILDERS, CLIENT_SIDE_GENERATED, OPTED_OUT, decode_text
from bidstream_svc.server.answers import verdict_body
from bidstream_svc.server.batch_body import STEP_BYTES
from tests.core.assemble import pkcs7, spellings
from tests.core.kernel_inputs import Input, Scenario
from tests.core.kernel_property import check, check_batch, run
from tests.core.strategies import anything, built_tokens, domains, key_names, layered_tokens, nows_ms
from tests.vectors.inputs import (
    LISTED_SITE,
    MASTER,
    NOW_MS,
    SECRETS,
    SITE,
    UNLISTED_SITE,
    build,
    v2_bytes,
    v2_master_layer,
    v2_site_layer,
)
from tests.vectors.load import key_snapshot, load

MANY = 300
ANSWERED = "answered"
VECTORS: list[dict[str, Any]] = load("own.json") + load("published_client.json")


def keys_of(name: str) -> KeySnapshot:
    keys = key_snapshot(name)
    assert keys is not None
    return keys


UID2 = keys_of("uid2")
KERNEL = build_kernel(UID2)


def body_of(token: object, domain: object = None) -> bytes:
    return json.dumps({"token": token, "domain": domain}, ensure_ascii=False, separators=(",", ":")).encode()


def outcome(body: bytes, keys: KeySnapshot = UID2, now_ms: int = NOW_MS) -> str:
    """What becomes of a body; it fails if Python and the kernel disagree."""
    return check(Input("test", Scenario(keys, bind_decrypt(keys), build_kernel(keys), []), body, now_ms))


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS])
def test_vectors(vector: dict[str, Any]) -> None:
    keys = key_snapshot(vector["keys"])
    if keys is None or not isinstance(vector["token"], str):
        return
    try:
        body = body_of(vector["token"], vector["domain"])
    except (TypeError, UnicodeEncodeError):
        return
    outcome(body, keys, vector["now_ms"])


@pytest.mark.parametrize("version", BUILDERS)
@pytest.mark.parametrize("scope", IdentityScope)
def test_a_good_token_is_answered(version: int, scope: IdentityScope) -> None:
    keys = keys_of(scope.name.lower())
    token = build(version, scope=scope).token
    for body in (
        body_of(token),
        body_of(token, "example.com"),
        json.dumps({"token": token}).encode(),
        json.dumps({"domain": "b\u00fccher.de", "token": token}, ensure_ascii=False, indent=4).encode(),
    ):
        assert outcome(body, keys) == ANSWERED


def test_any_scope_of_a_token_that_tells_it() -> None:
    for keys in map(keys_of, ("uid2", "euid")):
        for scope in IdentityScope:
            expected = ANSWERED if scope is keys.scope else "failure"
            assert outcome(body_of(build(4, scope=scope).token), keys) == expected


@pytest.mark.parametrize("version", BUILDERS)
@pytest.mark.parametrize("length", [16, 24, 32])
def test_keys_of_every_length(version: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for key_id in (MASTER, SITE):
        monkeypatch.setitem(SECRETS, key_id, SECRETS[key_id][:length])
    keys = snapshot(keys={key_id: Key(key_id, SECRETS[key_id], NOW_MS // 1000 + 9) for key_id in (MASTER, SITE)})
    is_left = length == 24 and version != 2  # ring has no AES-192 in GCM
    assert outcome(body_of(build(version).token), keys) == ("success, left to Python" if is_left else ANSWERED)


def snapshot(**changed: Any) -> KeySnapshot:
    fields = ("keys", "sites", "scope", "checks_domains", "max_lifetime_ms", "clock_skew_ms")
    return KeySnapshot(**{field: getattr(UID2, field) for field in fields} | changed)


@pytest.mark.parametrize("version", BUILDERS)
def test_a_name_as_it_was_registered_is_answered(version: int) -> None:
    token = build(version, privacy_bits=CLIENT_SIDE_GENERATED).token
    for name in ("example.com", "example.co.uk", "com.acme.shooter"):
        assert outcome(body_of(token, name)) == ANSWERED
        for other in (name.title(), f" {name}", f"{name}."):
            assert outcome(body_of(token, other)) == "success, left to Python"
    for name in ("www.example.com", "b\u00fccher.de", "xn--bcher-kva.de"):
        assert outcome(body_of(token, name)) == "success, left to Python"
    for no_name in ("", None, "example.org", "example", "com"):
        assert outcome(body_of(token, no_name)) == "failure"


@pytest.mark.parametrize("version", BUILDERS)
@pytest.mark.parametrize("name", ["WWW.Example.com", "a.b.example.com", "example.com.", " example.com"])
def test_a_name_that_python_has_decided_about_is_answered(version: int, name: str) -> None:
    kernel, decrypt = build_kernel(UID2), bind_decrypt(UID2)
    token = build(version, privacy_bits=CLIENT_SIDE_GENERATED).token
    body = body_of(token, name)
    verdict = decrypt(token, name, NOW_MS)
    assert kernel.answer(body, NOW_MS) is None
    kernel.note_success(build(version).token, name, NOW_MS)  # of a token that needs no name
    kernel.note_success("abcd", name, NOW_MS)
    kernel.note_success(token, None, NOW_MS)
    assert kernel.answer(body, NOW_MS) is None
    kernel.note_success(token, name, NOW_MS)
    assert kernel.answer(body, NOW_MS) == verdict_body(verdict)
    assert kernel.answer(body_of(token, "other.example.com"), NOW_MS) is None


def test_a_name_is_noted_for_its_site_only() -> None:
    kernel = build_kernel(UID2)
    token = build(4, privacy_bits=CLIENT_SIDE_GENERATED).token
    kernel.note_name(UNLISTED_SITE, "www.example.com")
    assert kernel.decrypt(token, "www.example.com", NOW_MS) is None
    kernel.note_name(LISTED_SITE, "www.example.com")
    assert kernel.decrypt(token, "www.example.com", NOW_MS) is not None


def test_no_name_is_needed_for_keys_that_do_not_check_it() -> None:
    token = build(4, privacy_bits=CLIENT_SIDE_GENERATED, generated_ms=NOW_MS, expires_ms=NOW_MS + 1000).token
    keys = keys_of("sharing")
    assert outcome(body_of(token), keys) == ANSWERED


@pytest.mark.parametrize("version", BUILDERS)
def test_a_user_who_opted_out_is_left_to_python(version: int) -> None:
    assert outcome(body_of(build(version, privacy_bits=OPTED_OUT).token)) == "failure"


def test_an_id_of_version_2_is_not_trusted() -> None:
    for uid in (b'"', b"\\", b"\n", b"\0", b"\x7f", "\u00e9".encode(), b"\xff", b'","uid":"x'):
        token = spellings(v2_bytes(pkcs7(v2_master_layer(pkcs7(v2_site_layer(uid))))))["standard"]
        assert outcome(body_of(token)) != ANSWERED
    token = spellings(v2_bytes(pkcs7(v2_master_layer(pkcs7(v2_site_layer(b"a b/<>&~"))))))["standard"]
    assert outcome(body_of(token)) == ANSWERED


@pytest.mark.parametrize("version", BUILDERS)
def test_every_spelling_of_base64(version: int) -> None:
    # An id of another length, so that there is padding.
    uid = "uid" if version == 2 else "AAAA" * 11 + "AA=="
    made = build(version, raw_uid=uid).token
    for name, token in spellings(decode_text(made)).items():
        is_token = version == 4 or name == "standard" or token == spellings(decode_text(made))["standard"]
        assert outcome(body_of(token)) == (ANSWERED if is_token else "failure")


@pytest.mark.parametrize("version", BUILDERS)
def test_every_truncation_and_every_changed_bit(version: int) -> None:
    scenario = Scenario(UID2, bind_decrypt(UID2), KERNEL, [])
    body = body_of(build(version, privacy_bits=CLIENT_SIDE_GENERATED).token, "example.com")
    for length in range(len(body)):
        assert check(Input("cut", scenario, body[:length], NOW_MS)) == "bad request"
    for place in range(len(body)):
        for bit in range(8):
            changed = body[:place] + bytes([body[place] ^ 1 << bit]) + body[place + 1 :]
            check(Input("changed", scenario, changed, NOW_MS))
    assert check(Input("whole", scenario, body, NOW_MS)) == ANSWERED


@settings(max_examples=MANY)
@given(built_tokens() | layered_tokens(), domains, key_names, nows_ms)
def test_decrypt_says_what_python_says(token: str, domain: object, key_name: str | None, now_ms: int) -> None:
    keys = key_snapshot(key_name)
    if keys is None:
        return
    given_ = build_kernel(keys).decrypt(token, domain, now_ms)
    verdict = bind_decrypt(keys)(token, domain, now_ms)
    assert given_ in {None, verdict[1:3]}
    assert given_ is None or verdict[3] is None


@settings(max_examples=MANY)
@given(anything, anything)
def test_decrypt_takes_anything(token: Any, domain: Any) -> None:
    assert KERNEL.decrypt(token, domain, NOW_MS) is None
    good = build(4).token
    assert KERNEL.decrypt(good, domain, NOW_MS) == bind_decrypt(UID2)(good, domain, NOW_MS)[1:3]


@settings(max_examples=MANY)
@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    outcome(body)
    check_batch(KERNEL, bind_decrypt(UID2), body, NOW_MS)


@settings(max_examples=MANY)
@given(built_tokens() | layered_tokens(), domains, key_names, nows_ms)
def test_any_token_in_a_plain_body(token: str, domain: object, key_name: str | None, now_ms: int) -> None:
    keys = key_snapshot(key_name)
    if keys is not None and (domain is None or (isinstance(domain, str) and domain.isprintable())):
        outcome(body_of(token, domain), keys, now_ms)


def test_many_generated_inputs() -> None:
    counts = run(seed=0, count=10_000)
    for kind in ("plain", "nearly plain", "damaged body"):
        assert counts[f"{kind}: {ANSWERED}"], "the generator reaches what it is for"
        assert counts[f"{kind}: failure"]
        assert counts[f"{kind}: success, left to Python"]
    assert counts["damaged token: failure"]
    for batches in ("batch, answered", "batch, answered in part", "batch, left to Python", "bad batch"):
        assert counts[batches]


def test_a_long_token() -> None:
    for version in (3, 4):
        assert outcome(body_of(build(version, raw_uid="AAAA" * 3_000).token)) == ANSWERED
    assert outcome(body_of(build(2, raw_uid="u" * 9_000).token)) == ANSWERED


def test_a_batch_of_good_tokens_is_answered_at_once() -> None:
    bodies = [body_of(build(version, raw_uid="AAAA" * 11).token, "example.com") for version in BUILDERS]
    decrypt = bind_decrypt(UID2)
    for count in (1, 64, 1_000):
        batch = b'{"requests":[' + b",".join((bodies * 400)[:count]) + b"]}"
        assert check_batch(KERNEL, decrypt, batch, NOW_MS) == "batch, answered"
    for count in (0, 1_001):
        batch = b'{"requests":[' + b",".join((bodies * 400)[:count]) + b"]}"
        assert check_batch(KERNEL, decrypt, batch, NOW_MS) == "bad batch"


def test_threads_share_a_kernel() -> None:
    kernel = build_kernel(UID2)
    bodies = [body_of(build(version).token) for version in BUILDERS]
    batch = b'{"requests":[' + b",".join(bodies * 100) + b"]}"
    expected = [verdict_body(bind_decrypt(UID2)(build(version).token, None, NOW_MS)) for version in BUILDERS]
    wrong: list[object] = []
    start = threading.Barrier(4)

    def use() -> None:
        start.wait()
        for _ in range(200):
            wrong.extend(body for body in bodies if kernel.answer(body, NOW_MS) not in expected)
            answer = kernel.answer_batch(batch, NOW_MS)
            if answer is None or answer[0] != b'{"results":[' + b",".join(expected * 100) + b"]}":
                wrong.append(answer)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("size", [STEP_BYTES - 1, STEP_BYTES, STEP_BYTES + 1, 2 * STEP_BYTES])
def test_an_element_longer_than_python_reads_is_left_to_it(size: int) -> None:
    """Python refuses the whole batch then."""
    good = body_of(build(4).token)
    long = b'{"token":"' + b"A" * (size - 12) + b'"}'
    assert len(long) == size
    for elements in ([long], [long, good], [good, long], [good, long, good]):
        body = b'{"requests":[' + b",".join(elements) + b"]}"
        expected = "batch, answered in part" if size <= STEP_BYTES else "bad batch"
        assert check_batch(KERNEL, bind_decrypt(UID2), body, NOW_MS) == expected


def test_ids_beyond_32_bits_are_those_of_no_token() -> None:
    sites = {2**32 + LISTED_SITE: Site(2**32 + LISTED_SITE, msgspec.Raw(b'["example.com"]')), -1: Site(-1)}
    others = {key_id: Key(key_id, bytes(32), 2**40) for key_id in (2**32 + MASTER, -(2**63), 2**63 - 1)}
    keys = snapshot(keys=UID2.keys | others, sites=sites)
    assert outcome(body_of(build(4).token), keys) == ANSWERED
    assert outcome(body_of(build(4, privacy_bits=CLIENT_SIDE_GENERATED).token, "example.com"), keys) == "failure"


@pytest.mark.parametrize("limit", [None, 0, -(2**63) * 1000, (2**63 - 1) * 1000])
def test_limits_of_any_size(limit: int | None) -> None:
    tokens = [build(version, expires_ms=2**63 - 1, generated_ms=-(2**63)).token for version in BUILDERS]
    for keys in (snapshot(max_lifetime_ms=limit), snapshot(max_lifetime_ms=None, clock_skew_ms=limit or 0)):
        for token in [*tokens, *(build(version).token for version in BUILDERS)]:
            for now_ms in (NOW_MS, -(2**63), 0):
                outcome(body_of(token), keys, now_ms)


@pytest.mark.parametrize("expires_s", [-(2**63), 0, NOW_MS // 1000, NOW_MS // 1000 + 1, 2**63 - 1])
def test_keys_that_expire_at_any_time(expires_s: int) -> None:
    keys = snapshot(keys={key_id: Key(key_id, SECRETS[key_id], expires_s) for key_id in (MASTER, SITE)})
    assert outcome(body_of(build(4).token), keys) == (ANSWERED if expires_s * 1000 > NOW_MS else "failure")


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16, 24 or 32"):
        build_kernel(snapshot(keys={1: Key(1, bytes(31), 2**40)}))


def test_it_takes_bytes_only_and_numbers_of_64_bits() -> None:
    kernel: Any = KERNEL
    for wrong in (None, "text", bytearray(b"{}"), memoryview(b"{}")):
        with pytest.raises(TypeError):
            kernel.answer(wrong, NOW_MS)
    with pytest.raises(OverflowError):
        kernel.answer(b"", 2**63)


def test_it_cannot_be_copied_or_pickled_and_its_repr_shows_no_key() -> None:
    assert "Kernel object" in repr(KERNEL)
    public = {name for name in vars(type(KERNEL)) if not name.startswith("__")}
    own = {"answer", "answer_batch", "decrypt", "note_name", "note_success", "open", "set_optouts", "used_master_keys"}
    assert public == own
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(KERNEL)


def test_the_property_notices_a_kernel_that_is_wrong() -> None:
    class Forgetful:
        def note_success(self, *_success: object) -> None:
            """Nothing."""

        def open(self, _token: object) -> None:
            """Nothing."""

    class Wrong(Forgetful):
        def answer(self, body: bytes, now_ms: int) -> bytes | None:
            answer = KERNEL.answer(body, now_ms)
            return None if answer is None else answer.replace(b"1", b"2")

    class Lazy(Forgetful):
        def answer(self, _body: bytes, _now_ms: int) -> bytes | None:
            return None

    class Misreading(Forgetful):
        def answer(self, body: bytes, now_ms: int) -> bytes | None:
            return KERNEL.answer(body, now_ms)

        def open(self, token: object) -> Any:
            opened = KERNEL.open(token)
            return opened and (0, *opened[1:])

    def with_kernel(kernel: Any) -> Iterator[Input]:
        scenario = Scenario(UID2, bind_decrypt(UID2), kernel, [])
        for version in BUILDERS:
            token = build(version, privacy_bits=CLIENT_SIDE_GENERATED).token
            yield Input("test", scenario, body_of(token, "example.com"), NOW_MS)

    for kernel in (Wrong(), Lazy(), Misreading()):
        for input_ in with_kernel(kernel):
            with pytest.raises(AssertionError):
                check(input_)
