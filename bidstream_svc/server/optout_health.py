"""The state of opt-outs, as the admin plane tells it: of a sidecar's store, and of a receiver."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bidstream_svc._version import __version__
from bidstream_svc.clock import iso_time, wall_clock_ms
from bidstream_svc.config import Settings
from bidstream_svc.core.units import MS_PER_S
from bidstream_svc.metrics import MetricCells
from bidstream_svc.metrics.cells import (
    ACCEPTING,
    OPTOUT_APPLIED_MS,
    OPTOUT_EPOCH,
    OPTOUT_GAP,
    OPTOUT_IS_LEVEL,
    OPTOUT_OWED,
    OPTOUT_SEQUENCE,
    OPTOUT_STREAM_CONNECTED,
    OPTOUT_STREAM_LAST_CONTACT_MS,
    OPTOUTS,
)
from bidstream_svc.server.health import Report, report_loop

if TYPE_CHECKING:
    from bidstream_svc.optouts.optout_reader import OptOutReader

_WORD_BYTES = 8


def describe_optouts(settings: Settings, metrics: MetricCells) -> dict[str, object] | None:
    """Return what `/info` tells of the opt-out store; None without one. No id is in it.

    Everything comes from the cells of the process of the store, so that any other process can tell it.
    """
    if settings.optout_store is None:
        return None
    row = metrics.optout_row
    last_contact_ms = row[OPTOUT_STREAM_LAST_CONTACT_MS] if row[OPTOUT_IS_LEVEL] else 0
    has_stream = settings.optout_stream is not None
    epoch = b"".join(row[cell].to_bytes(_WORD_BYTES, "big", signed=True) for cell in OPTOUT_EPOCH.values())
    return {
        "count": row[OPTOUTS],
        "position": {"epoch": epoch.hex(), "sequence": row[OPTOUT_SEQUENCE]} if any(epoch) else None,
        "applied": _iso(row[OPTOUT_APPLIED_MS]),
        "stream": _describe_stream(row) if has_stream else None,
        "last_contact": _iso(last_contact_ms),
        "stale": has_stream and wall_clock_ms() > last_contact_ms + settings.optout_max_age * MS_PER_S,
    }


def check_optouts(settings: Settings) -> None:
    """Open the store that the settings name, if any, which is created if it does not exist, and close it again.

    Raises:
        OptOutStoreError: it is damaged, of another version, or cannot be created.
    """
    if settings.optout_store is not None:
        from bidstream_svc.optouts.optout_store import check_store  # noqa: PLC0415 - as below

        check_store(settings.optout_store)


def open_optouts(settings: Settings, *, is_required: bool) -> "OptOutReader | None":
    """Open the store that the settings name, for look-ups; None if they name none. See OptOutReader."""
    if settings.optout_store is None:
        return None
    from bidstream_svc.optouts.optout_reader import OptOutReader  # noqa: PLC0415 - a service without does not need LMDB

    withholds = settings.optout_when_stale == "withhold"
    return OptOutReader(settings.optout_store, withholds=withholds, is_required=is_required)


def optouts_problem(settings: Settings, optouts: "OptOutReader | None") -> str | None:
    """Return why raw uids cannot be answered, or should not yet be; None if they can."""
    if optouts is None:
        return None
    if not optouts.is_usable:
        return "the opt-out store cannot be used"
    if settings.optout_stream is not None and not optouts.was_synced:
        return "the opt-out store is new and has not been synced yet"
    return None


@dataclass(slots=True)
class ReceiverHealth:
    """The state of a receiver.

    Attributes:
        settings: the settings.
        metrics: the row of this process tells its state.
        is_draining: True after SIGTERM.
        started_s: the monotonic clock when the process started, in seconds.
    """

    settings: Settings
    metrics: MetricCells
    is_draining: bool = False
    started_s: float = field(default_factory=time.monotonic)

    def alive(self) -> Report:
        """See HealthReports."""
        return report_loop(self.metrics, self.settings.hang_timeout)

    def started(self) -> Report:
        """See HealthReports."""
        is_open = self.metrics.row[ACCEPTING]
        return Report(None if is_open else "the opt-out store is not open yet", "the opt-out store is open")

    def ready(self) -> Report:
        """See HealthReports. A receiver that is not level with the stream receives all the same."""
        if self.is_draining:
            return Report("draining", "")
        return self.started()

    def info(self) -> dict[str, object]:
        """See HealthReports."""
        return {
            "version": __version__,
            "uptime_s": round(time.monotonic() - self.started_s, 3),
            "draining": self.is_draining,
            "optouts": describe_optouts(self.settings, self.metrics),
        }


def _describe_stream(row: memoryview) -> dict[str, object]:
    return {
        "connected": bool(row[OPTOUT_STREAM_CONNECTED]),
        "owed": row[OPTOUT_OWED],
        "gap": bool(row[OPTOUT_GAP]),
    }


def _iso(time_ms: int) -> str | None:
    return iso_time(time_ms) if time_ms else None
