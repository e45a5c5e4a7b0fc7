"""Logs with traffic of a known kind, for tests of what watches it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from store_help import DECISION, REQUEST

from prerouter.local import LocalClassifier
from prerouter.routelog import RouteLog, RowLabel
from prerouter.sections import LogSettings
from prerouter.settings import Settings

DAY = 86_400
NOW = 1_800_000_000.0


class Clock:
    """UTC seconds that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Traffic:
    """Writes rows of one model folder, `per_day` a day, into a log."""

    def __init__(
        self, path: Path, local: LocalClassifier, *, per_day: float = 50, start: float = NOW - 20 * DAY, **log: Any
    ) -> None:
        self.clock, self.local, self._step = Clock(start), local, DAY / per_day
        self.log = RouteLog.open(path, settings=Settings(log=LogSettings(queue=1_000_000, **log)), clock=self.clock)
        self.n = 0

    def audits(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        whose: tuple[str | None, str | None] | None = None,
        origin: Any = "audit",
        **decision: Any,
    ) -> None:
        """Local decisions that were audited: (decided, what the labeller says)."""
        made = self.local.certificate
        labelled_by, prompt_id = whose or (made.labelled_by, made.prompt_id)
        for label, truth in pairs:
            ref = self._append(label, **({"audit": True} | decision))
            self.log.add_label(ref, RowLabel(truth, origin, labelled_by=labelled_by, prompt_id=prompt_id))

    def rows(
        self,
        label: str,
        n: int = 1,
        *,
        by: str = "local",
        reason: str | None = None,
        features: Sequence[np.ndarray] | None = None,
        text: str | None = None,
        tags: dict[str, str] | None = None,
        **decision: Any,
    ) -> None:
        """`n` requests that were decided so."""
        reasons = {"local": "above_gate", "llm": "classified", "default": "classifier_timeout", "pinned": "forced"}
        for i in range(n):
            x = features[i] if features is not None else None
            why = reason or reasons[by]
            self._append(label, features=x, text=text, tags=tags, decided_by=by, reason=why, **decision)

    def _append(
        self,
        label: str,
        *,
        features: np.ndarray | None = None,
        text: str | None = None,
        tags: dict[str, str] | None = None,
        **decision: Any,
    ) -> Any:
        self.n += 1
        self.clock.now += self._step
        kept = {"model_folder_id": self.local.model_folder_id, "label": label, "id": f"request-{self.n}"}
        request = replace(REQUEST, text=text) if text else REQUEST
        return self.log.append(
            request,
            replace(DECISION, **(kept | decision)),
            features=features,
            fingerprint=self.local.fingerprint if features is not None else None,
            tags=tags,
            mode="on",
        )


def pairs(
    n: int, *, under: int = 0, other: int = 0, label: str = "simple", over: str = "complex"
) -> list[tuple[str, str]]:
    """n decisions for `label`; every `under`-th is too weak (the labeller says `over`), every `other`-th too strong."""
    names = ("simple", "moderate", "complex")
    wrong = {name: names[0] if name != names[0] else names[1] for name in names}
    found = []
    for i in range(1, n + 1):
        truth = over if under and i % under == 0 else wrong[label] if other and i % other == 0 else label
        found.append((label, truth))
    return found
