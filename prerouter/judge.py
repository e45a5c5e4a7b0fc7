"""A blind judge: which of two answers to the same request serves better. Claude is asked; nothing is sent from here.

The judge sees no model's name, and the order of the two answers is drawn for each pair: judges favour a position
(Zheng et al. 2023, "Judging LLM-as-a-Judge", section 3.3), which then harms both sides alike; `Ruling.routed_first`
lets whoever counts see how large that favour is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeGuard, cast

from prerouter import body as bodies
from prerouter.errors import InvalidRequest
from prerouter.prompt import filled, prompt_file, usage_of
from prerouter.tiers import Model, cost, thinking_off, thinks

Outcome = Literal["won", "tied", "lost"]

REQUEST_CHARS, EARLIER_CHARS, SYSTEM_CHARS = (
    12_000,
    4_000,
    2_000,
)  # of the last turn, those before it, the system prompt
ANSWER_CHARS = 16_000  # of each answer: some 4,000 tokens
HEAD_SHARE = 2 / 3  # of what is kept of a cut text is its head
MAX_TOKENS, THINKING_TOKENS = 128, 4_096  # of a ruling; the second is added where the judge cannot but think
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "better": {"type": "string", "enum": ["first", "second", "tie"]},
        "confidence": {"type": "number"},
    },
    "required": ["better", "confidence"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a judge said of a pair. outcome: of the routed model's answer. confidence: in [0, 1].

    routed_first: whether the routed model's answer stood first; None when no judge was asked, for one of the answers
    was empty or both were the same.
    """

    outcome: Outcome
    routed_first: bool | None = None
    confidence: float = 1.0
    cost_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Judge:
    """How a model is asked which answer is better. Make it with `load`. id: 12 hex characters of texts and model."""

    model: Model
    system: str
    form: str
    id: str

    @classmethod
    def load(cls, model: Model) -> Judge:
        """The judge of the files in `prompts/`, on `model`."""
        system, form = prompt_file("judge.md").strip(), prompt_file("compare.md")
        content = json.dumps([system, form, SCHEMA, model.id], ensure_ascii=False, sort_keys=True)
        return cls(model, system, form, hashlib.sha256(content.encode()).hexdigest()[:12])

    def routed_first(self, pair_id: str) -> bool:
        """The drawn order of a pair."""
        return drawn_first(self.id, pair_id)

    def question(
        self, request: Mapping[str, Any], routed: str, reference: str, *, routed_first: bool
    ) -> dict[str, Any]:
        """The Messages body that asks. request: a Messages body. routed, reference: answers, see `shown`."""
        nonce = os.urandom(8).hex()  # what stands between the markers cannot know it, hence not close them
        system, turns = asked(request)
        first, second = (routed, reference) if routed_first else (reference, routed)
        head = f"<system prompt {nonce}>\n{system}\n</system prompt {nonce}>\n\n" if system else ""
        content = filled(self.form, nonce=nonce, system=head, request=turns, first=first, second=second)
        effort = "low" if thinks(self.model) and "low" in self.model.efforts else None
        config = {"format": {"type": "json_schema", "schema": SCHEMA}} | ({"effort": effort} if effort else {})
        off = thinking_off(self.model, effort)
        return {
            "model": self.model.id,
            "max_tokens": MAX_TOKENS + (THINKING_TOKENS if thinks(self.model, effort) else 0),
            "system": self.system,
            "messages": [{"role": "user", "content": content.strip()}],
            "output_config": config,
        } | ({"thinking": off} if off else {})

    def ruling(self, message: Mapping[str, Any], *, routed_first: bool) -> Ruling | None:
        """What a response says; None when it does not keep to the schema."""
        usd = cost(self.model, usage_of(message.get("usage")))
        answer = _json("".join(_texts(message.get("content")))) if message.get("stop_reason") == "end_turn" else None
        better = str(answer.get("better")).lower() if isinstance(answer, dict) else ""
        if better not in ("first", "second", "tie"):
            return None
        stated = cast("dict[str, Any]", answer).get("confidence")
        confidence = float(min(1, max(0, stated))) if _is_number(stated) else 0.0  # cut first: an int may be too large
        outcome: Outcome = "tied" if better == "tie" else "won" if (better == "first") == routed_first else "lost"
        return Ruling(outcome, routed_first, confidence, usd)


def drawn_first(judge_id: str, pair_id: str) -> bool:
    """Whether the routed answer stands first: a hash of both ids, so that who reads the ruling later knows it too."""
    return bool(hashlib.sha256(f"{judge_id}:{pair_id}".encode("utf-8", "replace")).digest()[0] & 1)


def obvious(routed: str, reference: str) -> Ruling | None:
    """The ruling that needs no judge: the answers are the same, or there is only one."""
    if routed.strip() == reference.strip():
        return Ruling("tied")
    if not routed.strip() or not reference.strip():
        return Ruling("won" if routed.strip() else "lost")
    return None


def shown(content: Sequence[Mapping[str, Any]]) -> str:
    """An answer as the judge sees it: its texts and tool calls, without what was thought; "" when there are none."""
    parts = []
    for block in content:
        if block.get("type") == "text":
            parts.append(str(block.get("text") or ""))
        elif str(block.get("type")).endswith("tool_use"):
            call = json.dumps(block.get("input"), ensure_ascii=False, sort_keys=True, default=str)
            parts.append(f"[calls the tool {block.get('name')} with {call}]")
    return shortened("\n\n".join(part for part in parts if part.strip()), ANSWER_CHARS)


def asked(request: Mapping[str, Any]) -> tuple[str, str]:
    """System prompt and turns of a Messages body, as the judge sees them. Raises InvalidRequest."""
    talk = bodies.read(request)
    turns = [f"{turn.role}: {_said(turn)}" for turn in talk.turns]
    earlier = shortened("\n\n".join(turns[:-1]), EARLIER_CHARS, head_share=0.0)
    parts = [earlier, *(shortened(turn, REQUEST_CHARS) for turn in turns[-1:])]
    return shortened("\n".join(talk.system), SYSTEM_CHARS), "\n\n".join(filter(None, parts))


def visible(request: Mapping[str, Any]) -> bool:
    """Whether a judge that reads text sees all of a request: a legal body without images, documents or files."""
    try:
        return bodies.read(request).count("image", "document", "container_upload") == 0
    except InvalidRequest:
        return False


def shortened(text: str, n_chars: int, *, head_share: float = HEAD_SHARE) -> str:
    """Head and tail of a text, and between them how much was cut."""
    if len(text) <= n_chars:
        return text
    head = round(n_chars * head_share)
    tail = text[len(text) - (n_chars - head) :]
    return f"{text[:head]}\n[{len(text) - n_chars:,} characters cut]\n{tail}"


def _said(turn: bodies.Turn) -> str:
    return "\n".join(block.text or block.mark for block in [*turn.results, *turn.said])


def _texts(content: object) -> list[str]:
    items = content if isinstance(content, list) else []
    return [str(b.get("text")) for b in items if isinstance(b, dict) and b.get("type") == "text"]


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or math.isfinite(value)
