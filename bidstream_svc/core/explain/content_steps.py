"""The steps behind the site layer: site, name, times, opt-out."""

from bidstream_svc.core.domains import MAX_CHARACTERS
from bidstream_svc.core.explain.explanation import Fact
from bidstream_svc.core.explain.layer_steps import Case, Said
from bidstream_svc.core.explain.name_check import check_names, has_name
from bidstream_svc.core.explain.plain_words import moment, plural, relative, span, unit_slip
from bidstream_svc.core.status import FailureReason
from bidstream_svc.core.units import MS_PER_S

_MIN_FACT = -(2**63)  # JSON here has numbers of 64 bits; the difference of two has 65


def say_site(case: Case) -> Said | None:
    """Which site the token was issued for, and whether its names are known."""
    details, keys = case.reading.details, case.reading.keys
    if details is None or keys is None or details.site_id is None:
        return None
    site_id = details.site_id
    facts: dict[str, Fact] = {"site_id": site_id, "known": site_id in keys.sites}
    is_note = not _needs_name(case) or case.reason is FailureReason.DOMAIN_MISSING
    if site_id in keys.sites:
        count = len(keys.domain_names[site_id])
        facts["names"] = count
        return Said(f"{site_id}, which has registered {plural(count, 'name')}", facts, is_note)
    facts["sites"] = len(keys.sites)
    if keys.sites:
        text = f"{site_id}, which is not among the {plural(len(keys.sites), 'site')} with registered names"
    else:
        text = f"{site_id}; the operator's answer has no registered names of any site"
    return Said(text, facts, is_note)


def say_generated_by(case: Case) -> Said | None:
    """Who generated the token."""
    is_client_side = case.reading.is_client_side
    if is_client_side is None or case.reading.keys is None:
        return None
    facts: dict[str, Fact] = {"client_side": is_client_side}
    if not is_client_side:
        return Said("a server of the publisher, so no name is checked", facts, is_note=True)
    if not case.reading.keys.checks_domains:
        return Said("a page or an app; keys for sharing check no names", facts, is_note=True)
    return Said("a page or an app (client side), so the name is checked", facts, is_note=True)


def say_name(case: Case) -> Said | None:
    """Whether a name of the request is registered for the site."""
    reading = case.reading
    if reading.is_client_side is None or reading.keys is None or reading.site_id is None:
        return None
    if not _needs_name(case):
        return Said("none needed", is_note=True)
    if not has_name(case.names):
        return Said(_describe_missing(case))
    if reading.site_id not in reading.keys.sites:
        return None
    return Said(*check_names(case.names, reading.keys.domain_names[reading.site_id]))


def say_lifetime(case: Case) -> Said | None:
    """Whether the token lives for longer than is allowed."""
    reading = case.reading
    if reading.details is None or reading.keys is None or not reading.opens:
        return None
    expires_ms, generated_ms, maximum_ms = (
        reading.details.expires_ms,
        reading.generated_ms,
        reading.keys.max_lifetime_ms,
    )
    lifetime_ms = expires_ms - (case.now_ms if generated_ms is None else generated_ms)
    facts: dict[str, Fact] = {"lifetime_ms": max(lifetime_ms, _MIN_FACT), "max_lifetime_ms": maximum_ms}
    if lifetime_ms < 0:
        text = "none is left" if generated_ms is None else f"it expires {span(lifetime_ms)} before it was generated"
    else:
        text = span(lifetime_ms)
        if generated_ms is None:
            text += " from now, as version 2 does not tell its beginning"
    return Said(text + _limit(lifetime_ms, maximum_ms, "at most"), facts)


def say_clock_skew(case: Case) -> Said | None:
    """Whether the token was generated too far in the future."""
    reading = case.reading
    if not reading.opens or reading.keys is None:
        return None
    if reading.generated_ms is None:
        return Said("version 2 does not tell when it was generated", is_note=True)
    skew_ms = reading.keys.clock_skew_ms
    facts: dict[str, Fact] = {"generated_ms": reading.generated_ms, "clock_skew_ms": skew_ms}
    text = f"generated {relative(reading.generated_ms, case.now_ms)}"
    ahead_ms = reading.generated_ms - case.now_ms
    if ahead_ms > 0:
        text = f"generated {span(ahead_ms)} in the future ({moment(reading.generated_ms)})"
        text += _limit(ahead_ms, skew_ms, "up to")
    if slip := unit_slip(reading.generated_ms):
        text += f"; {slip}"
    return Said(text, facts)


def say_optout(case: Case) -> Said | None:
    """Whether the user has opted out. It is said of good tokens only."""
    match case.reason:
        case FailureReason.OPTED_OUT_AT_GENERATION:
            return Said("the user had opted out when the token was generated: the token says so")
        case FailureReason.OPTED_OUT:
            return _say_opted_out(case)
        case FailureReason.OPTOUTS_NOT_SYNCED:
            return Said("the opt-out store is stale or cannot be read, so it cannot tell")
        case None if case.has_store:
            return Said("neither in the opt-out store nor marked in the token")
        case None:
            return Said("no mark in the token; no opt-out store was asked", is_note=True)
    return None


def _say_opted_out(case: Case) -> Said:
    text = "the raw uid is in the opt-out store"
    if case.optout_times_s is None:
        return Said(text)
    arrived_s, entry_s = case.optout_times_s
    facts: dict[str, Fact] = {
        "arrived_ms": arrived_s * MS_PER_S,
        "opted_out_ms": None if entry_s is None else entry_s * MS_PER_S,
    }
    text += f", where it arrived {relative(arrived_s * MS_PER_S, case.now_ms)}"
    if entry_s is not None:
        text += f"; the user opted out {relative(entry_s * MS_PER_S, case.now_ms)}"
    return Said(text, facts)


def _limit(length_ms: int, maximum_ms: int | None, up_to: str) -> str:
    if maximum_ms is None:
        return "; there is no limit"
    if length_ms <= maximum_ms:
        return f"; {up_to} {span(maximum_ms)} are allowed"
    return f", {span(length_ms - maximum_ms)} more than the {span(maximum_ms)} that are allowed"


def _needs_name(case: Case) -> bool:
    keys = case.reading.keys
    return bool(case.reading.is_client_side) and keys is not None and keys.checks_domains


def _describe_missing(case: Case) -> str:
    given = [name for _, name in case.names if name is not None and name != ""]
    if not given:
        return "no domain or app name was given"
    if not isinstance(given[0], str):
        return "the name given is not a text"
    if len(given[0]) <= MAX_CHARACTERS:
        return "the name given is empty"
    return f"the name given has {len(given[0]):,} characters; one of more than {MAX_CHARACTERS} is none"
