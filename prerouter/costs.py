"""What policies cost: US dollars per request at current prices, with the classifier's own calls.

Policies: `always-TIER` for each tier of the taxonomy; `haiku-first`, which asks the classifier about every request;
`prerouter`, which asks only about what local leaves open; `oracle`, which knows each label for nothing. The label of a
data row stands for what the classifier would answer, so `haiku-first` is billed for asking and is never wrong.

Tokens are estimated from characters; `settings.CostSettings` holds the assumptions. Caching is not counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter.prompt import Prompt
from prerouter.records import Request, Usage
from prerouter.sections import CostSettings
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import Model, TierTable, cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]
    Ints = NDArray[np.int64]

ABSTAINED = -1  # in place of a local label
VERDICT_TOKENS = 20  # output of one classification: a label and a confidence as JSON, see prompt.ANSWER_TOKENS
_EMPTY = Request("", "", (), 1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Bill:
    """One policy on n requests. usd: (n,) US dollars. enough: (n,) served by at least the tier that its label needs."""

    usd: Floats
    enough: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Prices, and what is assumed where the data does not say. Make it with `load`."""

    taxonomy: Taxonomy
    tiers: TierTable
    classifier: Model
    assumed: CostSettings

    @classmethod
    def load(cls, taxonomy: Taxonomy, settings: Settings) -> PriceBook | None:
        """The book of a taxonomy; None when its labels have no tiers. Raises ConfigError."""
        if not taxonomy.has_tiers:
            return None
        tiers = TierTable.load(settings.tiers)
        taxonomy.check_tiers(tiers.rank)
        return cls(taxonomy, tiers, tiers.model(settings.classifier.model), settings.costs)

    def bills(self, requests: Sequence[Request], truth: Ints, local: Ints) -> dict[str, Bill]:
        """Each policy's bill. truth: (n,) label indices; local: (n,) what local decided, or ABSTAINED."""
        ranks = np.array([self.tiers.rank(label.tier or "") for label in self.taxonomy.labels])
        needed, asked = ranks[truth], local == ABSTAINED
        question = self.questions(requests)
        served = {rank: self._answers(requests, rank) for rank in sorted(set(ranks.tolist()))}

        def bill(at: Ints, asking: Floats | float = 0.0) -> Bill:
            usd = np.stack(list(served.values()))[np.searchsorted(list(served), at), np.arange(len(at))]
            return Bill(usd + asking, at >= needed)

        first = self.tiers.tier_of_model(self.classifier.id)
        policies = {f"always-{self.tiers.tiers[rank].name}": bill(np.full(len(truth), rank)) for rank in served}
        policies[f"{first.name if first else self.classifier.id}-first"] = bill(needed, question)
        policies["prerouter"] = bill(np.where(asked, needed, ranks[local]), np.where(asked, question, 0.0))
        return policies | {"oracle": bill(needed)}

    def assumptions(self) -> str:
        """One sentence for whoever reads the dollars."""
        return (
            f"list prices of {self.tiers.as_of}; {self.assumed.chars_per_token:g} characters a token in the "
            f"tokenizer of Claude 4.6 (later ones count more), {self.assumed.answer_tokens:,} tokens of answer, "
            f"{self.assumed.other_tokens:,} tokens of system prompt, tools and history; no caching"
        )

    def guessed(self, model: Model, request: Request) -> Usage:
        """Tokens of a request that `model` answered, from its characters and what is assumed of the rest."""
        n_chars = max(request.n_chars, len(request.text))
        return Usage(self._tokens(model, n_chars) + self.assumed.other_tokens, self.assumed.answer_tokens)

    def _answers(self, requests: Sequence[Request], rank: int) -> Floats:
        """(n,) US dollars when the first model of a tier answers."""
        model = self.tiers.model(self.tiers.first_model(self.tiers.tiers[rank].name))
        dollars = _dollars(model, self.assumed.answer_tokens)
        n_chars = (max(request.n_chars, len(request.text)) for request in requests)
        return np.array([dollars(self._tokens(model, n) + self.assumed.other_tokens) for n in n_chars])

    def questions(self, requests: Sequence[Request]) -> Floats:
        """(n,) US dollars of asking the classifier."""
        body = Prompt.load(self.taxonomy, self.classifier).body(_EMPTY)
        around = len(body["system"]) + len(body["messages"][0]["content"]) + len(json.dumps(body["output_config"]))
        dollars = _dollars(self.classifier, VERDICT_TOKENS)
        n_chars = (around + len(request.text) + len(request.context) for request in requests)
        return np.array([dollars(self._tokens(self.classifier, n)) for n in n_chars])

    def _tokens(self, model: Model, n_chars: int) -> int:
        return math.ceil(n_chars / self.assumed.chars_per_token * float(model.tokens_per_text))


def _dollars(model: Model, output: int) -> Any:
    """Prompt tokens -> US dollars as a float; remembered, for many requests are of the same length."""

    @cache
    def dollars(tokens: int) -> float:
        return float(cost(model, Usage(tokens, output)))

    return dollars
