"""The small records of the routing log: what refers to a row, what it got after the fact, what its processes share."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from typing import Any, Literal

Origin = Literal["audit", "feedback", "review", "rejection", "judge"]


@dataclass(frozen=True, slots=True)
class RowRef:
    """A row before its number is known. id: its Decision's; at: UTC seconds since 1970, to the microsecond."""

    id: str
    at: float


@dataclass(frozen=True, slots=True)
class RowLabel:
    """A label that a logged row got after the fact.

    label: None where only `score` or `outcome` are known. origin: where it comes from; only "audit" labels are of a
    random sample, all others are for fitting. labelled_by, prompt_id: whose label. confidence: the labeller's own, in
    [0, 1]. score, outcome: what feedback said. weight: at least 0. cost_usd: US dollars paid for it.
    at: UTC seconds since 1970; 0: the log's clock, when it is added.
    number: from 1 upwards in the order in which the log stored them; seq: the row's, 0 where the log has no such row;
    request_id: the row's id. These three are filled in by the log.
    """

    label: str | None
    origin: Origin
    labelled_by: str | None = None
    prompt_id: str | None = None
    confidence: float | None = None
    score: float | None = None
    outcome: str | None = None
    weight: float = 1.0
    cost_usd: float = 0.0
    at: float = 0.0
    number: int = 0
    seq: int = 0
    request_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """The label as a JSON object; its time in ISO 8601."""
        return asdict(self) | {"at": iso(self.at)}


@dataclass(frozen=True, slots=True)
class State:
    """A value that all processes of a log share.

    value: JSON. version: 1 when it is first set, one more each time. at: UTC seconds since 1970.
    """

    key: str
    value: Any
    version: int
    at: float


def iso(at: float) -> str:
    """UTC seconds since 1970 as ISO 8601 with microseconds and Z."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
