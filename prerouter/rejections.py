"""A request that its specialist gave back, as the log keeps it: what was decided, and what it should have been."""

from __future__ import annotations

from prerouter.logrecords import RowLabel, RowRef
from prerouter.records import Decision
from prerouter.routelog import RouteLog


def rejection_tags(rejected: Decision | None, followed: Decision) -> dict[str, str]:
    """Tags of the row, which holds the Decision that was given back."""
    return {"rejected_for": followed.label} if rejected else {}


def note_rejection(log: RouteLog, row: RowRef, rejected: Decision | None, followed: Decision) -> None:
    """Tell `log` that the row's label should have been the one that was followed."""
    if rejected and rejected.label != followed.label:
        log.add_label(row, RowLabel(followed.label, "rejection"))
