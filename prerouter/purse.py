"""Money: what a call may cost at most, what calls have cost, and whether one more stays below a cap.

A call is counted at its upper bound from its start until its bill is known. One whose bill never comes (it hung, or
its answer broke off) stays counted so: it may have been billed. Hence the cap holds whatever the network does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from prerouter.records import Usage
from prerouter.tiers import Model, cost

HIDDEN_TOKENS = 400  # that the API adds for the answer's schema, at most; its size is not published
OBSERVED, ROOM = 50, 1.25  # after so many bills: the most tokens a byte that were billed, and so much more
LEFT_OVER = Decimal("0.05")  # of the cap: for less, another batch that takes hours is not worth it
BYTES_PER_TOKEN = 4.0  # English in the tokenizer of Claude 4.6; a later one counts `tokens_per_text` times as many


class Purse:
    """The money of one run. cap: US dollars, earlier runs of the same output included; None for no cap."""

    def __init__(self, cap: Decimal | None, spent: Decimal) -> None:
        self.cap, self.spent = cap, spent
        self.reserved = Decimal(0)
        self._bills, self._most = 0, 0.0  # tokens a byte

    def fits(self, usd: Decimal) -> bool:
        """Whether that much more stays within the cap, whatever the calls on their way will cost."""
        return self.cap is None or self.spent + self.reserved + usd <= self.cap

    def worth_more(self) -> bool:
        """Whether enough is left of the cap for more than a few calls."""
        return self.cap is None or self.cap - self.spent - self.reserved >= LEFT_OVER * self.cap

    def upper(self, model: Model, sent_bytes: int, answer_tokens: int, *, batch: bool = False) -> Decimal:
        """US dollars that a call of so many bytes (`n_bytes`) with this `max_tokens` costs at most."""
        if self.cap is None:
            return Decimal(0)
        tokens = round(sent_bytes * self._tokens_a_byte()) + HIDDEN_TOKENS
        return cost(model, Usage(tokens, answer_tokens), batch=batch)

    def observe(self, sent_bytes: int, usage: Usage) -> None:
        """Learn from a bill how many tokens a byte counts."""
        self._bills += 1
        self._most = max(self._most, prompt_tokens(usage) / max(1, sent_bytes))

    def _tokens_a_byte(self) -> float:
        # No token is shorter than a byte, so 1 is certain; later the texts themselves tell more.
        return min(1.0, ROOM * self._most) if self._bills >= OBSERVED else 1.0


def n_bytes(body: Mapping[str, Any]) -> int:
    """UTF-8 bytes of what a Messages request says: prompt, request, schema."""
    said = [body["system"], *(message["content"] for message in body["messages"]), json.dumps(body["output_config"])]
    return sum(len(text.encode("utf-8", "replace")) for text in said)


def guessed_tokens(model: Model, sent_bytes: float) -> float:
    """Input tokens of so many bytes, more or less: what no count or bill has told yet."""
    return sent_bytes / BYTES_PER_TOKEN * float(model.tokens_per_text)


def prompt_tokens(usage: Usage) -> int:
    """Tokens of the whole prompt, cached or not."""
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
