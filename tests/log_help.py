"""Small routing logs with known figures, for tests of what is read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prerouter.records import Decision, Usage
from prerouter.routelog import Reply, RouteLog, RowLabel
from prerouter.router import PreRouter
from prerouter.text import render

NOW = 1_795_000_000.0
HAIKU = ("claude-haiku-5-5", "prompt-a")  # who labels, and with which prompt


class LogMaker:
    """Appends what `router` would decide, with truths, replies and modes as told. now: what the log's clock says."""

    def __init__(self, path: Path, router: PreRouter) -> None:
        self.router, self.now = router, NOW
        self.log = RouteLog.open(path, clock=lambda: self.now)
        self._n = 0

    def add(
        self,
        text: str,
        truth: str | None = None,
        *,
        reply: Reply | None = None,
        mode: str = "on",
        tags: Mapping[str, str] | None = None,
        days_ago: float = 0.0,
        judged: RowLabel | None = None,
        cost_usd: float = 0.0001,
        whose: tuple[str, str] = HAIKU,
        **change: Any,
    ) -> Decision:
        """One request. truth: the labeller's label, which makes it a heads row; what local leaves open it decides."""
        self.now = NOW - 86_400 * days_ago
        self._n += 1
        request = render(text)
        scores = self.router.local.score(request)
        made = self.router.decide(text, local_only=True)
        if not scores.decided and truth:
            made = replace(
                made, label=truth, decided_by="llm", reason="classified", cost_usd=cost_usd, prompt_id=whose[1]
            )
            tier = self.router.taxonomy.tier_of(truth) or ""
            made = replace(made, tier=tier, model=self.router.tiers.first_model(tier))
        made = replace(made, **({"id": f"q{self._n}", "audit": truth is not None} | change))
        row = self.log.append(
            request,
            made,
            reply,
            tags,
            scores=scores,
            fingerprint=self.router.local.fingerprint,
            mode=mode,  # type: ignore[arg-type]
            labelled_by=whose[0] if made.decided_by == "llm" else None,
        )
        if truth and made.decided_by != "llm":
            self.log.add_label(row, RowLabel(truth, "audit", *whose, confidence=0.9))
        if judged:
            self.log.add_label(row, judged)
        return made


def reply(model: str, *, input_tokens: int = 1000, output_tokens: int = 100, **figures: Any) -> Reply:
    """A reply of so many tokens."""
    return Reply(model, "end_turn", Usage(input_tokens, output_tokens), **figures)
