"""What the fake Claude bills: list prices as transcribed from notes of 2026-11-20, not taken from prerouter.

US dollars per million tokens. An error is not billed, nor is a refusal before any output; a refusal after some output
is. A stream that broke off, or whose reader went away, is billed for what its last event told. A reply that was cut or
lost on its way is billed whole, which the caller cannot know: such bills are not `told`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fake_claude_models import ALIASES

# model: input, output, cache write 5m, cache write 1h, cache read
_PRICES = {
    "claude-haiku-5-5": "0.10 0.50 0.125 0.20 0.01",
    "claude-sonnet-5-5": "2 10 2.50 4 0.10",
    "claude-opus-5-5": "4 20 5 8 0.20",
    "claude-fable-5-2": "8 40 10 16 0.20",
    "claude-mythos-5-2": "8 40 10 16 0.20",
    "claude-fable-5-1": "10 50 12.50 20 0.25",
    "claude-mythos-5-1": "10 50 12.50 20 0.25",
    "claude-fable-5": "10 50 12.50 20 1.00",
    "claude-mythos-5": "10 50 12.50 20 1.00",
    "claude-opus-5": "5 25 6.25 10 0.50",
    "claude-sonnet-5": "2 10 2.50 4 0.20",
    "claude-opus-4-8": "5 25 6.25 10 0.50",
    "claude-opus-4-7": "5 25 6.25 10 0.50",
    "claude-opus-4-6": "5 25 6.25 10 0.50",
    "claude-opus-4-5-20251101": "5 25 6.25 10 0.50",
    "claude-sonnet-4-6": "3 15 3.75 6 0.30",
    "claude-sonnet-4-5-20250929": "3 15 3.75 6 0.30",
    "claude-haiku-4-5-20251001": "1 5 1.25 2 0.10",
}
_LONG = ("claude-haiku-5-5", 100_000, 5)  # above so many prompt tokens every price is five times as high
_US, _FAST = Decimal("1.1"), Decimal(2)


@dataclass(slots=True)
class Bill:
    """One billed call. told: whether the caller was sent the usage that it is billed for."""

    model: str
    usage: Mapping[str, Any]
    usd: Decimal
    told: bool = True


def bill(said: Mapping[str, Any], body: Mapping[str, Any], *, told: bool = True) -> Bill:
    """The bill of the Message `said`, the answer to `body`."""
    usage = said["usage"]
    free = said["stop_reason"] == "refusal" and not said["content"]
    usd = Decimal(0) if free else price(said["model"], usage)
    if body.get("inference_geo") == "us":
        usd *= _US
    if body.get("speed") == "fast":
        usd *= _FAST
    return Bill(said["model"], usage, usd, told)


def price(model: str, usage: Mapping[str, Any]) -> Decimal:
    """US dollars of a usage, exact."""
    per_million = [Decimal(x) for x in _PRICES[ALIASES.get(model, model)].split()]
    split = usage["cache_creation"] or {}
    counts = [
        usage["input_tokens"],
        usage["output_tokens"],
        split.get("ephemeral_5m_input_tokens", 0),
        split.get("ephemeral_1h_input_tokens", 0),
        usage["cache_read_input_tokens"],
    ]
    usd = sum((n * p for n, p in zip(counts, per_million, strict=True)), Decimal(0)).scaleb(-6)
    name, limit, factor = _LONG
    prompt = sum(counts) - usage["output_tokens"]
    return usd * factor if model == name and prompt > limit else usd
