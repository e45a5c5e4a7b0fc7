"""What of a body a model refuses, and what says the same in a way that it accepts. Pure; nothing is sent.

Changed is only what has an equivalent that the model's own migration guide names (platform.claude.com: migration guides
of Opus 5.5, Sonnet 5.5, Haiku 5.5; "What's new in Claude Sonnet 5.5" for between_tools). Everything else is a Misfit,
and another model is looked for; nothing is dropped that would change the answer.

| asked | on a model that refuses it |
|---|---|
| thinking disabled | between_tools, the off switch of Sonnet 5.5; left out where thinking is off anyway |
| thinking between_tools, no tools | disabled: without tools both answer in text alone; left out where thinking is off |
| thinking enabled with budget_tokens | adaptive |
| effort max; effort high on a model without levels | the highest level; left out: it works like that anyway |
| temperature 1; top_p 0.99 or 1 | left out: the model's own values |
| other effort or sampling, forced tool, prefill, system messages, inference_geo, speed, max_tokens | no equivalent |

Null is no value. A field, type or level that no rule here knows goes through unchanged: the API says what it thinks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prerouter.tiers import Model

OFF = ("disabled", "between_tools")
_THINKING = (*OFF, "enabled", "adaptive")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
SAMPLING: Mapping[str, tuple[float, ...]] = {"temperature": (1,), "top_p": (0.99, 1), "top_k": ()}
_NAMED = {"temperature": 1, "top_p": 0.99}  # may be said on anthropic-version 2023-06-01 to models that fix them
_SERVER_BLOCKS = ("server_tool_use", "mcp_tool_use", "container_upload")


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why `model` cannot serve a body. text: for people, no word of the body. needed, limit: the counts, if any."""

    model: str
    reason: str
    text: str
    needed: int | None = None
    limit: int | None = None


@dataclass(slots=True)
class Draft:
    """A body on its way to `model`: a copy at the top level, what is below is shared. said: the changes, for people.

    free_sampling: whether it goes out with anthropic-version 2023-06-01, which takes sampling parameters.
    """

    body: dict[str, Any]
    model: Model
    free_sampling: bool = False
    said: list[str] = field(default_factory=list)

    @property
    def output(self) -> Mapping[str, Any]:
        """`output_config`."""
        return table(self.body, "output_config")

    @property
    def effort(self) -> str | None:
        """The effort in force."""
        return self.output.get("effort") or self.model.default_effort

    @property
    def forced(self) -> bool:
        """Whether a tool must be used."""
        return table(self.body, "tool_choice").get("type") in ("any", "tool")

    def misfit(self, reason: str, text: str, needed: int | None = None, limit: int | None = None) -> Misfit:
        return Misfit(self.model.id, reason, text, needed, limit)

    def put(self, key: str, value: Any, said: str) -> None:
        """`value` at `key`; an empty one leaves the key out."""
        if value:
            self.body[key] = value
        else:
            self.body.pop(key, None)
        self.said.append(said)


def table(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at `key`; an empty one when there is none."""
    value = body.get(key)
    return value if isinstance(value, Mapping) else {}


def adapted(draft: Draft) -> Misfit | None:
    """Change `draft` so that its model accepts it, or say why that cannot be done."""
    return next((misfit for rule in RULES if (misfit := rule(draft))), None)


def _max_tokens(draft: Draft) -> Misfit | None:
    asked, limit = draft.body.get("max_tokens"), draft.model.max_output_tokens
    if type(asked) is not int or asked <= limit:
        return None
    return draft.misfit("max_output", f"max_tokens {asked:,} is over its {limit:,}", asked, limit)


def _sampling(draft: Draft) -> Misfit | None:
    if draft.free_sampling and draft.model.free_sampling:
        return None
    for name, usual in SAMPLING.items():
        value = draft.body.get(name)
        if value is None or (draft.free_sampling and value == _NAMED.get(name)):
            continue
        if value not in usual:
            return draft.misfit("sampling", f"takes no {name}")
        draft.put(name, None, f"{name} left out")
    return None


def _effort(draft: Draft) -> Misfit | None:
    asked, known = draft.output.get("effort"), draft.model.efforts
    if asked not in _EFFORTS or asked in known:
        return None
    if asked != "max" and (asked != "high" or known):
        return draft.misfit("effort", f"has no effort {asked}")
    instead = {"effort": known[-1]} if known else {}
    rest = {key: value for key, value in draft.output.items() if key != "effort"}
    draft.put("output_config", rest | instead, f"effort {asked} -> {known[-1] if known else 'none'}")
    return None


def _thinking(draft: Draft) -> Misfit | None:
    asked = table(draft.body, "thinking")
    kind = asked.get("type")
    if kind not in _THINKING or _thinks_so(draft, kind):
        return None
    for form in _equivalents(asked, draft.body):
        if _thinks_so(draft, form.get("type")):
            draft.put("thinking", form, f"thinking {kind} -> {form.get('type', 'none')}")
            return None
    with_effort = f" at effort {draft.effort}" if kind in OFF and kind in draft.model.thinking_types else ""
    return draft.misfit("thinking", f"takes no thinking {kind}{with_effort}")


def _equivalents(asked: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Other forms of the same, the nearest first; an empty one is leaving it out."""
    kind = asked["type"]
    if kind == "enabled":
        yield {**{key: value for key, value in asked.items() if key != "budget_tokens"}, "type": "adaptive"}
    elif kind == "disabled":
        yield {"type": "between_tools"}
        yield {}
    elif kind == "between_tools" and not body.get("tools"):
        yield {"type": "disabled"}
        yield {}


def _thinks_so(draft: Draft, kind: str | None) -> bool:
    """Whether the model accepts this type of thinking, None: the field left out, in place of an off switch."""
    model = draft.model
    if kind is None:
        return not model.thinks_by_default
    if kind not in model.thinking_types or (kind == "enabled" and draft.forced):
        return False
    return kind not in OFF or not model.thinks_by_default or draft.effort in model.off_efforts


def _forced_tool(draft: Draft) -> Misfit | None:
    if draft.model.forced_tools or not draft.forced:
        return None
    return draft.misfit("forced_tool", f"takes no tool_choice {table(draft.body, 'tool_choice')['type']}")


def _prefill(draft: Draft) -> Misfit | None:
    messages = draft.body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if draft.model.prefill or not isinstance(last, Mapping) or last.get("role") != "assistant":
        return None
    # A turn that the API paused (stop_reason pause_turn) is sent back as it is and goes on.
    return None if _paused(last.get("content")) else draft.misfit("prefill", "takes no prefill")


def _paused(content: object) -> bool:
    blocks = content if isinstance(content, list) else []
    kinds = [str(block.get("type")) for block in blocks if isinstance(block, Mapping)]
    return any(kind in _SERVER_BLOCKS or kind.endswith("_tool_result") for kind in kinds)


def _system_messages(draft: Draft) -> Misfit | None:
    messages = draft.body.get("messages")
    if draft.model.system_messages or not isinstance(messages, list):
        return None
    roles = (message.get("role") for message in messages if isinstance(message, Mapping))
    return draft.misfit("system_message", "takes no system messages") if "system" in roles else None


def _place(draft: Draft) -> Misfit | None:
    if not draft.body.get("inference_geo") or draft.model.us_factor is not None:
        return None
    return draft.misfit("inference_geo", "takes no inference_geo")


def _speed(draft: Draft) -> Misfit | None:
    if draft.body.get("speed") != "fast" or draft.model.fast_factor is not None:
        return None
    return draft.misfit("speed", "has no fast mode")


# Effort before thinking: at which effort thinking can be turned off depends on the model.
RULES: tuple[Callable[[Draft], Misfit | None], ...] = (
    _max_tokens,
    _sampling,
    _effort,
    _thinking,
    _forced_tool,
    _prefill,
    _system_messages,
    _place,
    _speed,
)
