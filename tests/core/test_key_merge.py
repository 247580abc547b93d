"""Saved key responses of one programme are merged, so that their tokens can be decrypted together."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.key_merge import merge_by_programme, merge_snapshots
from bidstream_svc.core.key_response import parse_key_response
from bidstream_svc.core.keys import KeySnapshot


def key(key_id: int, expires: int = 9, fill: int | None = None) -> Any:
    secret = base64.b64encode(bytes([key_id if fill is None else fill]) * 32).decode()
    return {"id": key_id, "expires": expires, "secret": secret}


def site(site_id: int, *names: str) -> Any:
    return {"id": site_id, "domain_names": list(names)}


def snapshot(keys: list[Any], sites: Sequence[Any] = (), **fields: Any) -> KeySnapshot:
    return parse_key_response(json.dumps({"body": {"keys": keys, "site_data": sites} | fields}))


def test_all_keys_count_and_the_later_one_of_two() -> None:
    merged = merge_snapshots(snapshot([key(1), key(2, 5)]), snapshot([key(2, 7), key(3)]))
    assert {key_id: each.expires_s for key_id, each in merged.keys.items()} == {1: 9, 2: 7, 3: 9}
    assert merged.last_expiry_ms == 9000
    assert merged.master_gcm_ciphers[1] is not None


def test_the_rules_are_those_of_the_later_one() -> None:
    earlier = snapshot([key(1)], max_bidstream_lifetime_seconds=5, allow_clock_skew_seconds=1)
    later = snapshot([key(1)], max_bidstream_lifetime_seconds=7, allow_clock_skew_seconds=2)
    merged = merge_snapshots(earlier, later)
    assert (merged.max_lifetime_ms, merged.clock_skew_ms) == (7000, 2000)


def test_the_names_of_a_site_are_united() -> None:
    earlier = snapshot([key(1)], [site(1, "A.com", "b.com"), site(2, "c.com"), {"id": 4, "domain_names": None}])
    later = snapshot([key(1)], [site(1, "b.com", "d.com"), site(3, "e.com"), site(4, "f.com")])
    merged = merge_snapshots(earlier, later)
    assert {site_id: set(merged.domain_names[site_id]) for site_id in merged.sites} == {
        1: {"a.com", "b.com", "d.com"},
        2: {"c.com"},
        3: {"e.com"},
        4: {"f.com"},
    }
    assert set(earlier.domain_names[1]) == {"a.com", "b.com"}


def test_a_key_with_two_secrets_is_refused_without_showing_them() -> None:
    with pytest.raises(KeyResponseError) as refused:
        merge_snapshots(snapshot([key(1), key(77)]), snapshot([key(77, fill=1)]))
    assert str(refused.value) == (
        "key 77 has different secrets in two key responses, which are therefore of different operators"
    )


def test_what_was_skipped_is_added_up() -> None:
    merged = merge_snapshots(snapshot([key(1), 1]), snapshot([key(1), {}], [1]))
    assert (merged.skipped_keys.count, merged.skipped_sites.count) == (2, 1)
    assert len(merged.skipped_keys.reasons) == 2


def test_each_programme_is_merged_by_itself() -> None:
    euid = snapshot([key(1, fill=9)], identity_scope="EUID")
    uid2, euid = merge_by_programme([euid, snapshot([key(1)]), snapshot([key(2)])])
    assert (uid2.scope, set(uid2.keys)) == (IdentityScope.UID2, {1, 2})
    assert (euid.scope, set(euid.keys)) == (IdentityScope.EUID, {1})
    assert merge_by_programme([]) == []
