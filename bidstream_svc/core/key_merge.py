"""Several key responses of one programme, merged: with saved ones, tokens of the past can be decrypted."""

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from bidstream_svc.core.errors import KeyResponseError
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.keys import Key, KeySnapshot, Site, Skipped, decode_names


def merge_by_programme(snapshots: Iterable[KeySnapshot]) -> list[KeySnapshot]:
    """Merge the snapshots of each programme, and return them in the order UID2, EUID.

    Raises:
        KeyResponseError: as for `merge_snapshots`.
    """
    of_scope: dict[IdentityScope, KeySnapshot] = {}
    for snapshot in snapshots:
        earlier = of_scope.get(snapshot.scope)
        of_scope[snapshot.scope] = snapshot if earlier is None else merge_snapshots(earlier, snapshot)
    return [of_scope[scope] for scope in sorted(of_scope)]


def merge_snapshots(earlier: KeySnapshot, later: KeySnapshot) -> KeySnapshot:
    """Merge two snapshots of one programme.

    All keys and all registered names count. Of a key in both, and of the rules, those of `later` do.

    Raises:
        KeyResponseError: a key has different secrets, so that the two are of different operators.
    """
    skipped_keys = _add(earlier.skipped_keys, later.skipped_keys)
    skipped_sites = _add(earlier.skipped_sites, later.skipped_sites)
    return replace(
        later,
        keys=_merge_keys(earlier.keys, later.keys),
        sites=_merge_sites(earlier.sites, later.sites),
        skipped_keys=skipped_keys,
        skipped_sites=skipped_sites,
    )


def _merge_keys(earlier: dict[int, Key], later: dict[int, Key]) -> dict[int, Key]:
    for key_id in earlier.keys() & later.keys():
        if earlier[key_id].secret != later[key_id].secret:
            raise KeyResponseError(
                f"key {key_id} has different secrets in two key responses, which are therefore of different operators"
            )
    return earlier | later


def _merge_sites(earlier: dict[int, Site], later: dict[int, Site]) -> dict[int, Site]:
    in_both = earlier.keys() & later.keys()
    return earlier | later | {site_id: _unite(earlier[site_id], later[site_id]) for site_id in in_both}


def _unite(earlier: Site, later: Site) -> Site:
    if earlier.raw_domain_names == later.raw_domain_names:
        return later
    lists = (decode_names(site.raw_domain_names) or () for site in (earlier, later))
    names = dict.fromkeys(name for each in lists for name in each)
    return Site(site_id=later.site_id, raw_domain_names=msgspec.Raw(msgspec.json.encode(list(names))))


def _add(earlier: Skipped, later: Skipped) -> Skipped:
    return Skipped(earlier.count + later.count, earlier.reasons + later.reasons)
