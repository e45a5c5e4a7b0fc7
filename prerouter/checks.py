"""What `prerouter doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prerouter.errors import PreRouterError

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report: what was looked at, its state, what was found and what to do."""

    name: str
    state: State
    found: str
    next: str | None = None

    def to_json(self) -> dict[str, str | None]:
        return {"name": self.name, "state": self.state, "found": self.found, "next": self.next}


def problem(name: str, error: PreRouterError) -> Check:
    """An error as a check that failed."""
    return Check(name, "problem", error.what + (f" ({error.where})" if error.where else ""), error.next_step or None)
