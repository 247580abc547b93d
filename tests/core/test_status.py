"""Statuses and reasons: names that callers, dashboards and alerts rely on."""

import copy
import pickle

from bidstream_svc.core import errors
from bidstream_svc.core.errors import (
    BidstreamError,
    InsufficientUserConsentError,
    OperatorHttpError,
    OperatorNetworkError,
    OperatorRateLimitedError,
    OperatorTimeoutError,
    OperatorUnauthorizedError,
)
from bidstream_svc.core.status import DecryptionStatus, FailureReason
from tests.vectors.record import STATUS_OF_REASON

# The rows of the table "Decryption Response Statuses", one that the published SDK for .NET has besides, and our own.
STATUSES = {
    "SUCCESS",
    "NOT_AUTHORIZED_FOR_KEY",
    "NOT_INITIALIZED",
    "INVALID_PAYLOAD",
    "EXPIRED_TOKEN",
    "KEYS_NOT_SYNCED",
    "VERSION_NOT_SUPPORTED",
    "DOMAIN_NAME_CHECK_FAILED",
    "INVALID_TOKEN_LIFETIME",
    "USER_OPTED_OUT",
    "OPTOUTS_NOT_SYNCED",
}


def test_statuses_are_those_of_the_protocol() -> None:
    assert {status.name for status in DecryptionStatus} == STATUSES
    assert all(status.value == status.name for status in DecryptionStatus)


def test_reasons_and_their_statuses() -> None:
    assert {str(reason): str(reason.status) for reason in FailureReason} == STATUS_OF_REASON
    assert len(FailureReason) < 20, "values of a metric's label"
    assert {reason.status for reason in FailureReason} == set(DecryptionStatus) - {DecryptionStatus.SUCCESS}


def test_reasons_are_their_text() -> None:
    for reason in FailureReason:
        assert f"{reason}" == reason.value == reason.name.lower()
        assert pickle.loads(pickle.dumps(reason)) is reason  # noqa: S301 - our own bytes
        assert copy.deepcopy(reason) is reason


def test_operator_errors_carry_what_the_operator_said() -> None:
    error = OperatorUnauthorizedError("no", 401, "unauthorized")
    assert isinstance(error, OperatorHttpError)
    assert (str(error), error.http_status, error.api_status) == ("no", 401, "unauthorized")
    assert OperatorHttpError("bad gateway", 502).api_status is None
    limited = OperatorRateLimitedError("slow down", retry_after_s=1.5)
    assert (str(limited), limited.http_status, limited.api_status) == ("slow down", 429, None)
    assert limited.retry_after_s == 1.5
    assert OperatorRateLimitedError("slow down", 429, "limited").api_status == "limited"
    lost = OperatorNetworkError("reset")
    assert (str(lost), lost.may_have_arrived) == ("reset", True)
    assert not OperatorTimeoutError("refused", may_have_arrived=False).may_have_arrived


def test_every_error_has_the_common_base() -> None:
    raised = [each for each in vars(errors).values() if isinstance(each, type)]
    assert all(issubclass(each, errors.BidstreamError) for each in raised)


def test_every_error_can_be_sent_to_another_process() -> None:
    """A pool of processes breaks down if an exception of one cannot be unpickled."""
    classes = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BidstreamError)}
    special = {
        InsufficientUserConsentError: InsufficientUserConsentError(),
        OperatorNetworkError: OperatorNetworkError("no", may_have_arrived=False),
        OperatorRateLimitedError: OperatorRateLimitedError("no", 429, "limited", retry_after_s=1.5),
    }
    for each in classes:
        usual = each("no", 402, "client_error") if issubclass(each, OperatorHttpError) else None
        error = special.get(each) or usual or each("no")
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301 - our own
            assert (type(again), str(again), again.args, vars(again)) == (each, str(error), error.args, vars(error))
