"""What the calls of the fake Claude come to: scripted outcomes, in order, and standing ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fake_claude_outcomes import Outcome
from fake_claude_rules import response_format

When = str | Callable[[Mapping[str, Any]], bool] | None  # a model's id, or a test of the body; None: every call


def asks_for_label(body: Mapping[str, Any]) -> bool:
    """Whether this is a classifier's call: structured output with a `label`."""
    return "label" in (response_format(body) or {}).get("properties", {})


class Plan:
    """Scripted outcomes stand above standing ones, of which the latest that fits counts."""

    def __init__(self) -> None:
        self._script: list[tuple[str, When, Outcome]] = []
        self._always: list[tuple[str, When, Outcome]] = []

    def script(self, outcomes: tuple[Outcome, ...], path: str, when: When) -> None:
        """The next calls of `path` that fit `when`."""
        self._script += [(path, when, outcome) for outcome in outcomes]

    def always(self, outcome: Outcome | None, path: str, when: When) -> None:
        """All others; None: no longer."""
        self._always = [entry for entry in self._always if entry[:2] != (path, when)]
        if outcome is not None:
            self._always.append((path, when, outcome))

    def take(self, path: str, body: Any) -> Outcome | None:
        """The outcome of this call."""
        for i, (place, when, outcome) in enumerate(self._script):
            if place == path and _fits(when, body):
                del self._script[i]
                return outcome
        return next((o for place, when, o in reversed(self._always) if place == path and _fits(when, body)), None)


def _fits(when: When, body: Any) -> bool:
    if when is None:
        return True
    return isinstance(body, dict) and (body.get("model") == when if isinstance(when, str) else when(body))
