"""Every vector gets the verdict that is stated in it."""

from collections import Counter
from typing import Any

import pytest

from bidstream_svc.core.decrypt import bind_decrypt, decrypt, decrypt_without_keys
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from tests.vectors.generate import contents
from tests.vectors.load import DIRECTORY, key_snapshot, load, optout_check

OWN: list[dict[str, Any]] = load("own.json")
PUBLISHED: list[dict[str, Any]] = load("published_client.json")


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in OWN + PUBLISHED])
def test_verdict(vector: dict[str, Any]) -> None:
    keys = key_snapshot(vector["keys"])
    check_optout = optout_check(vector.get("optouts"))
    verdict = decrypt(vector["token"], vector["domain"], keys, vector["now_ms"], check_optout)
    assert verdict == (vector["status"], vector["uid"], vector["established"], vector["reason"])
    assert isinstance(verdict[0], DecryptionStatus)
    bound = decrypt_without_keys if keys is None else bind_decrypt(keys, check_optout=check_optout)
    for _ in range(2):
        again = bound(vector["token"], vector["domain"], vector["now_ms"])
        assert again == verdict, "a duplicate of a request gets the same answer, whichever way it is asked"


def test_every_line_reason_and_status_has_a_vector() -> None:
    assert {vector["line"] for vector in OWN} == set(range(1, 15))
    assert {vector["reason"] for vector in OWN} - {None} == {str(reason) for reason in FailureReason}
    assert {vector["status"] for vector in OWN} == {str(status) for status in DecryptionStatus}


def test_names_are_unique_within_a_line() -> None:
    names = Counter((vector["line"], vector["name"]) for vector in OWN)
    assert [name for name, count in names.items() if count > 1] == []


def test_generator_reproduces_the_committed_files() -> None:
    assert [name for name, text in contents().items() if (DIRECTORY / name).read_text() != text] == []
