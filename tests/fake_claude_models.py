"""The models of the fake Claude API: what each accepts, and what GET /v1/models says about them.

Transcribed from notes of 2026-11-20 on the Claude API, not taken from prerouter: independence is the point. [3P] marks
what rests on third parties, [?] what nobody could verify.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fake_claude_shapes import Rejected

MODELS_PATH = "/v1/models"
EFFORTS = ("low", "medium", "high", "xhigh", "max")
ALIASES = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}

# Most recent first, the order of GET /v1/models. Columns: id; thinking by default; accepted thinking types; highest
# effort at which it can be turned off; efforts; default effort; smallest cacheable prompt; abilities:
# forced (tool_choice any, tool), prefill, sampling (on 2023-06-01), system (role system inside messages),
# fast (speed), us (inference_geo), small (200k window, 64k output), old (tokenizer of 4.6 and earlier).
_TABLE = """
claude-fable-5-2           on  adaptive                  -    low..max  high   512  us
claude-mythos-5-2          on  adaptive                  -    low..max  high   512  us
claude-haiku-5-5           on  adaptive,disabled         high low..max  medium 512  us,forced,system
claude-sonnet-5-5          on  adaptive,between_tools    high low..max  high   512  us,system
claude-fable-5-1           on  adaptive                  -    low..max  high   512  us
claude-opus-5-5            on  adaptive                  -    low..max  medium 512  us,system,fast
claude-mythos-5-1          on  adaptive                  -    low..max  high   512  us
claude-sonnet-5            on  adaptive,disabled         max  low..max  high   1024 us,forced
claude-fable-5             on  adaptive                  -    low..max  high   512  us,forced,system
claude-mythos-5            on  adaptive                  -    low..max  high   512  us,forced,system
claude-opus-5              on  adaptive,disabled         high low..max  high   512  us,forced,system,fast
claude-opus-4-8            off adaptive,disabled         max  low..max  high   1024 us,forced,system,fast
claude-opus-4-7            off adaptive,disabled         max  low..max  high   2048 us,forced
claude-opus-4-6            off adaptive,enabled,disabled max  no-xhigh  high   4096 us,forced,sampling,old
claude-sonnet-4-6          off adaptive,enabled,disabled max  no-xhigh  high   1024 us,forced,sampling,old
claude-opus-4-5-20251101   off enabled,disabled          high low..high high   4096 forced,sampling,prefill,old,small
claude-haiku-4-5-20251001  off enabled,disabled          max  none      high   4096 forced,sampling,prefill,old,small
claude-sonnet-4-5-20250929 off enabled,disabled          max  none      high   1024 forced,sampling,prefill,old,small
"""
_EFFORT_SETS = {
    "low..max": EFFORTS,
    "no-xhigh": ("low", "medium", "high", "max"),
    "low..high": EFFORTS[:3],
    "none": (),
}
_RETIRES = {"claude-sonnet-4-5-20250929": "2026-11-30T00:00:00Z", "claude-mythos-preview": "2026-06-30T00:00:00Z"}
_RETIRED = (
    "claude-mythos-preview",
    "claude-opus-4-1-20250805",
    "claude-opus-4-20250514",
    "claude-sonnet-4-20250514",
    "claude-3-7-sonnet-20250219",
    "claude-3-5-haiku-20241022",
    "claude-3-haiku-20240307",
)


@dataclass(frozen=True, slots=True)
class Model:
    """What one model accepts; the columns of the table above."""

    id: str
    thinks: bool = False
    thinking: tuple[str, ...] = ()
    off_efforts: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    effort: str = "high"
    min_cacheable: int = 0
    abilities: frozenset[str] = frozenset()
    lifecycle: str = "active"
    retires_at: str | None = None

    @property
    def max_input(self) -> int:
        return 200_000 if "small" in self.abilities else 1_000_000

    @property
    def max_output(self) -> int:
        return 64_000 if "small" in self.abilities else 128_000

    @property
    def tokens_per_text(self) -> float:
        return 1.0 if "old" in self.abilities else 1.3


def _row(line: str) -> Model:
    name, thinks, types, off, efforts, effort, cacheable, abilities = line.split()
    return Model(
        id=name,
        thinks=thinks == "on",
        thinking=tuple(types.split(",")),
        off_efforts=() if off == "-" else EFFORTS[: EFFORTS.index(off) + 1],
        efforts=_EFFORT_SETS[efforts],
        effort=effort,
        min_cacheable=int(cacheable),
        abilities=frozenset(abilities.split(",")),
        lifecycle="deprecated" if name in _RETIRES else "active",
        retires_at=_RETIRES.get(name),
    )


_ROWS = [_row(line) for line in _TABLE.strip().splitlines()] + [
    Model(name, lifecycle="retired", retires_at=_RETIRES.get(name)) for name in _RETIRED
]
MODELS: Mapping[str, Model] = {model.id: model for model in _ROWS}


def find_model(name: str, models: Mapping[str, Model]) -> Model:
    """The model of this id or alias; a retired or unknown one is a 404."""
    model = models.get(ALIASES.get(name, name))
    if model is None or model.lifecycle == "retired":
        raise Rejected(f"model: {name}", 404, "not_found_error")
    return model


def look_up(models: Mapping[str, Model], path: str, query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The answer to GET `path`: a page of models, or one model, a retired one too."""
    name = path.removeprefix(MODELS_PATH).strip("/")
    if not name:
        return list_models(models, query)
    model = models.get(ALIASES.get(name, name))
    if model is None:
        raise Rejected(f"model: {name}", 404, "not_found_error")
    return model_info(model)


def model_info(model: Model) -> dict[str, Any]:
    """What GET /v1/models/{id} says. Names are ids, and dates of release and deprecation the epoch: not known here."""
    gone = model.lifecycle != "active"
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "line": next((line for line in ("haiku", "sonnet", "opus", "fable", "mythos") if line in model.id), None),
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": model.lifecycle,
        "deprecated_at": "1970-01-01T00:00:00Z" if gone else None,
        "retires_at": model.retires_at,
        "max_input_tokens": model.max_input,
        "max_tokens": model.max_output,
        "capabilities": _capabilities(model),
    }


def _capabilities(model: Model) -> dict[str, Any]:
    yes = {"supported": True}
    plain = ("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs")
    types = {
        kind: {"supported": kind in model.thinking} for kind in ("adaptive", "between_tools", "disabled", "enabled")
    }
    return dict.fromkeys(plain, yes) | {
        "context_management": yes,
        "effort": {"supported": bool(model.efforts)} | {e: {"supported": e in model.efforts} for e in EFFORTS},
        "server_tools": yes | {"code_execution": yes, "web_search": yes},
        "thinking": yes | {"types": types},
    }


def list_models(models: Mapping[str, Model], query: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A page of GET /v1/models."""
    unknown = sorted(set(query) - {"limit", "after_id", "before_id", "lifecycle", "lifecycle[]"})
    if unknown:
        raise Rejected(f"{unknown[0]}: Extra inputs are not permitted")
    stages = {*query.get("lifecycle[]", ()), *query.get("lifecycle", ())} or {"active", "deprecated"}
    if stages - {"active", "deprecated", "retired"}:
        raise Rejected("lifecycle: Input should be 'active', 'deprecated' or 'retired'")
    limit = query.get("limit", ["20"])[0]
    if not limit.isdecimal() or not 1 <= int(limit) <= 1000:
        raise Rejected("limit: Input should be from 1 to 1000")
    ids = [model.id for model in models.values() if model.lifecycle in stages]
    page, more = _page(ids, int(limit), query)
    data = [model_info(models[name]) for name in page]
    return {
        "data": data,
        "has_more": more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }


def _page(ids: list[str], limit: int, query: Mapping[str, Sequence[str]]) -> tuple[list[str], bool]:
    for name in ("after_id", "before_id"):
        if name in query and query[name][0] not in ids:
            raise Rejected(f"{name}: no such model")
    if "before_id" in query:
        before = ids[: ids.index(query["before_id"][0])]
        return before[-limit:], len(before) > limit
    rest = ids[ids.index(query["after_id"][0]) + 1 :] if "after_id" in query else ids
    return rest[:limit], len(rest) > limit
