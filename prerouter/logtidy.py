"""Keeps the routing log within its bounds of age and size, in steps short enough to go between two commits."""

from __future__ import annotations

from typing import Literal

from prerouter.logcommit import catch_up
from prerouter.logschema import micros
from prerouter.logstore import Db
from prerouter.logtables import delete_rows, delete_strays
from prerouter.rollups import TagValues
from prerouter.sections import LogSettings

Step = Literal["", "rolled up", "too old", "too large"]
AT_ONCE = 500  # rows deleted in one step
DAY = 86_400


def tidy(db: Db, settings: LogSettings, used: int | None, now: float, values: TagValues) -> Step:
    """Take one step within a transaction; what it did, "" when there was nothing to do.

    used: bytes in use, None where nobody can tell. now: UTC seconds since 1970. Old rows get into the roll-ups before
    any are deleted.
    """
    if catch_up(db, values):
        return "rolled up"
    too_old = micros(now - settings.keep_days * DAY) if settings.keep_days is not None else None
    if too_old is not None and _delete_oldest(db, "at < ? ORDER BY at", too_old):
        return "too old"
    if settings.max_gb is not None and used is not None and used > settings.max_gb * 1e9:
        return "too large" if _delete_oldest(db, "seq > ? ORDER BY seq", 0) else ""
    if too_old is not None:
        delete_strays(db, too_old / 1e6)
    return ""


def _delete_oldest(db: Db, which: str, value: int) -> int:
    return delete_rows(db, f"seq IN (SELECT seq FROM rows WHERE {which} LIMIT {AT_ONCE})", (value,))
