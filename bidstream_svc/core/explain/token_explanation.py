"""Explains the verdict of a token, which is that of `bind_programmes`; nothing here decides."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from bidstream_svc.core.explain.advice import RUNBOOK, advise
from bidstream_svc.core.explain.content_steps import (
    say_clock_skew,
    say_generated_by,
    say_lifetime,
    say_name,
    say_optout,
    say_site,
)
from bidstream_svc.core.explain.explanation import Explanation, Outcome, Step
from bidstream_svc.core.explain.layer_steps import (
    Case,
    Said,
    say_encoding,
    say_expiry,
    say_keys,
    say_master_key,
    say_master_layer,
    say_scope,
    say_site_key,
    say_site_layer,
    say_version,
)
from bidstream_svc.core.explain.token_reading import judging_keys, opens_with, read_token
from bidstream_svc.core.identity import IdentityScope
from bidstream_svc.core.programmes import Programme, bind_programmes
from bidstream_svc.core.status import FailureReason

# (programme, raw uid) -> (when the opt-out arrived, when the user opted out or None), Unix s; None if it is not there.
FindOptOut: TypeAlias = Callable[[IdentityScope, str], tuple[int, int | None] | None]

_Reason = FailureReason
_SAY: Mapping[str, Callable[[Case], Said | None]] = {
    "keys": say_keys,
    "encoding": say_encoding,
    "version": say_version,
    "scope": say_scope,
    "master_key": say_master_key,
    "master_layer": say_master_layer,
    "expiry": say_expiry,
    "site_key": say_site_key,
    "site_layer": say_site_layer,
    "site": say_site,
    "generated_by": say_generated_by,
    "name": say_name,
    "lifetime": say_lifetime,
    "clock_skew": say_clock_skew,
    "optout": say_optout,
}
STEP_NAMES = tuple(_SAY)
STEP_OF: Mapping[FailureReason, str] = {
    _Reason.NO_KEYS: "keys",
    _Reason.KEYS_EXPIRED: "keys",
    _Reason.NOT_A_TOKEN: "encoding",
    _Reason.BAD_ENCODING: "encoding",
    _Reason.VERSION_UNKNOWN: "version",
    _Reason.IDENTITY_SCOPE: "scope",
    _Reason.MASTER_KEY_UNKNOWN: "master_key",
    _Reason.MASTER_LAYER: "master_layer",
    _Reason.EXPIRED: "expiry",
    _Reason.SITE_KEY_UNKNOWN: "site_key",
    _Reason.SITE_LAYER: "site_layer",
    _Reason.DOMAIN_MISSING: "name",
    _Reason.SITE_UNKNOWN: "site",
    _Reason.DOMAIN_NOT_LISTED: "name",
    _Reason.LIFETIME_TOO_LONG: "lifetime",
    _Reason.GENERATED_IN_FUTURE: "clock_skew",
    _Reason.OPTED_OUT_AT_GENERATION: "optout",
    _Reason.OPTED_OUT: "optout",
    _Reason.OPTOUTS_NOT_SYNCED: "optout",
}


def explain_token(  # noqa: PLR0917 - what a verdict depends on
    token: object,
    domain: object,
    programmes: Sequence[Programme],
    requested: IdentityScope | None,
    now_ms: int,
    find_optout: FindOptOut | None = None,
) -> Explanation:
    """Explain why a token gets its verdict. No token raises.

    Args:
        token: as of `decrypt`.
        domain: as of `decrypt`, but not a NameCandidates.
        programmes: as of `bind_programmes`; at least one.
        requested: the programme that the request names.
        now_ms: the time as of which the token is judged, Unix ms.
        find_optout: looks up when an opt-out arrived; called only for a raw uid that is in the store.
    """
    names = [("domain", domain)]
    return explain_with_names(token, domain, programmes, requested, now_ms, find_optout, names=names)


def explain_with_names(  # noqa: PLR0917 - as of explain_token
    token: object,
    domain: object,
    programmes: Sequence[Programme],
    requested: IdentityScope | None,
    now_ms: int,
    find_optout: FindOptOut | None,
    *,
    names: Sequence[tuple[str, object]],
    configured: Sequence[Programme] | None = None,
) -> Explanation:
    """`explain_token` for a bid request, too, where `domain` is a NameCandidates.

    `names` are (field, name) as they came. `configured` are the programmes that there are, if the token is one in a bid
    request, whose source chooses the programme; else None.
    """
    looked_up: list[tuple[IdentityScope, str]] = []
    watched = [_watch(programme, looked_up) for programme in programmes]
    verdict, scope = bind_programmes(watched)(token, domain, requested, now_ms)
    status, raw_uid, established_ms, reason = verdict
    reading = read_token(token, judging_keys(programmes, scope, now_ms, requested))
    judges = programmes if configured is None else configured
    is_found = reason is _Reason.OPTED_OUT and find_optout is not None and looked_up
    case = Case(
        token=token,
        names=names,
        requested=requested,
        is_scope_of_source=configured is not None,
        programmes=[each.known_scope for each in judges],
        reason=reason,
        scope=scope,
        reading=reading,
        now_ms=now_ms,
        opens_with=None if requested is None else opens_with(token, reading, judges),
        has_store=bool(looked_up),
        optout_times_s=find_optout(*looked_up[-1]) if is_found and find_optout is not None else None,
    )
    return Explanation(
        status=status,
        reason=reason,
        scope=scope,
        steps=_steps_of(case),
        advice=advise(case),
        runbook="" if reason is None else RUNBOOK[reason],
        raw_uid=raw_uid,
        established_ms=established_ms,
    )


def _watch(programme: Programme, looked_up: list[tuple[IdentityScope, str]]) -> Programme:
    """Let a programme note which raw uids it looks up."""
    check = programme.check_optout
    if check is None:
        return programme

    def check_and_note(scope: IdentityScope, raw_uid: str, now_ms: int) -> FailureReason | None:
        looked_up.append((scope, raw_uid))
        return check(scope, raw_uid, now_ms)

    return programme._replace(check_optout=check_and_note)


def _steps_of(case: Case) -> tuple[Step, ...]:
    failed = len(STEP_NAMES) if case.reason is None else STEP_NAMES.index(STEP_OF[case.reason])
    return tuple([_step(name, say(case), place - failed) for place, (name, say) in enumerate(_SAY.items())])


def _step(name: str, said: Said | None, place: int) -> Step:
    """Make a step; `place` is negative before the one that failed and positive behind it."""
    if said is None:
        return Step(name, Outcome.NOT_REACHED)
    outcome = Outcome.NOTE if place > 0 or said.is_note else Outcome.PASSED
    return Step(name, Outcome.FAILED if place == 0 else outcome, said.text, said.facts)
