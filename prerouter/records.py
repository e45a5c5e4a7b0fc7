"""The frozen records that travel between rooms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

DecidedBy = Literal["local", "llm", "cache", "pinned", "default"]
Reason = Literal[
    "above_gate",
    "classified",
    "cached",
    "forced",
    "abstained_gate",
    "abstained_guard",
    "gate_closed",
    "local_error",
    "no_key",
    "classifier_timeout",
    "classifier_error",
    "classifier_refused",
    "classifier_invalid",
    "breaker_open",
    "classifier_budget",
    "fall_through_off",
    "unprofitable",
    "low_confidence",
    "rejected",
]
Priority = Literal["quality", "speed", "cost"]


@dataclass(frozen=True, slots=True)
class Request:
    """One Messages body as `text.render` made it.

    text: what is labelled, trained on and routed; no NUL, no lone surrogate, at most `text.MAX_CHARS` characters.
    context: head of the system prompt and names of the tools, for the classifier's eyes only: it never enters the
        local features, so a request keeps its label with or without it.
    signals: one finite float per `text.SIGNAL_NAMES`.
    n_chars: characters of the current user turn before anything was cut.
    hint: label of the conversation's last turn, "" when there is none; for the classifier's eyes only, as `context`.
    """

    text: str
    context: str
    signals: tuple[float, ...]
    text_version: int
    n_chars: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """What the local stages say about one request.

    reason: "above_gate" (decided), or why local abstains: "abstained_gate", "abstained_guard", "gate_closed".
    probabilities: calibrated, one per label in the taxonomy's order, sums to 1.
    stage: the stage that decided, or the last one asked.
    risk, threshold: the gate's score of this request and the largest that it lets pass (same unit; lower is surer).
    distance, limit: the guard's distance to the training data and the largest that it lets pass.
    features: (n_features,) float32 of the first stage, for the log.
    before: what the earlier stages said, which abstained.
    """

    label: str
    probabilities: tuple[float, ...]
    stage: int
    reason: Reason
    risk: float
    threshold: float
    distance: float
    limit: float
    features: np.ndarray | None = field(default=None, compare=False, repr=False)
    before: tuple[Scores, ...] = field(default=(), compare=False, repr=False)

    @property
    def by_stage(self) -> tuple[Scores, ...]:
        """What each stage said that was asked, first to last."""
        return (*self.before, self)

    @property
    def decided(self) -> bool:
        """True when local is sure enough to decide."""
        return self.reason == "above_gate"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, in the API's own split: a prompt is input + cache_read + cache_write_5m + cache_write_1h."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What asking the Haiku classifier came to.

    reason: "classified" or "cached" with a `label`; anything else is why there is none.
    confidence: the classifier's stated value, in [0, 1]; 0.0 without a label.
    also: labels of further pieces of work in the request, in order. question: to the user, "" where there is none.
    cost_usd: billed for this verdict; 0 for a cache hit and for whoever joined another's call.
    """

    label: str | None
    reason: Reason
    confidence: float = 0.0
    fallback_label: str | None = None
    rationale: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    cost_usd: Decimal = Decimal(0)
    usage: Usage = Usage()
    prompt_id: str | None = None
    also: tuple[str, ...] = ()
    question: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes and why. The attributes are the keys of its JSON.

    id: the request's id or a new one. label: a label of the taxonomy, never None.
    tier, model: None only when the taxonomy has no tiers. stage: 0, 1, ... when local decided, else None.
    decided_by, reason: who chose `label` and why. adjusted_by: what moved the tier after the label, in order.
    confidence: in [0, 1]; calibrated probability (local), stated value (llm, cache), 1.0 (pinned), 0.0 (default).
    probabilities: {label: in [0, 1]}, sums to 1, present whenever a local model ran; else {}.
    fallback_label, rationale, params: from the classifier when asked for.
    audit, audit_p: the audit coin and its probability in (0, 1].
    model_folder_id: 12 hex characters. prompt_id: the classifier prompt's id, or None when it was not asked.
    seconds: wall time of the decision. cost_usd: what the classifier billed, in US dollars, rounded to 1e-9.
    """

    id: str
    label: str
    tier: str | None
    model: str | None
    decided_by: DecidedBy
    stage: int | None
    reason: Reason
    adjusted_by: tuple[str, ...]
    confidence: float
    probabilities: Mapping[str, float]
    fallback_label: str | None
    rationale: str | None
    params: Mapping[str, Any]
    audit: bool
    audit_p: float
    model_folder_id: str
    prompt_id: str | None
    text_version: int
    seconds: float
    cost_usd: float

    def to_json(self) -> dict[str, Any]:
        """The Decision as a JSON object."""
        out = {name: getattr(self, name) for name in _DECISION_KEYS}
        return out | {
            "adjusted_by": list(self.adjusted_by),
            "probabilities": dict(self.probabilities),
            "params": dict(self.params),
        }


_DECISION_KEYS = tuple(f.name for f in fields(Decision))
