"""What a batch may cost, before it is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from prerouter.batchitems import Item
from prerouter.fitting import Fitted, measure, worst_case_usd
from prerouter.parts import Parts
from prerouter.records import Usage
from prerouter.tiers import Model, cost

_BY_LOCAL = ("local", "pinned")


@dataclass(slots=True)
class Estimate:
    """US dollars at batch prices, prompts as estimated from their characters, equal items counted once.

    items: as asked; different: that are paid for. usd_at_most: every answer as long as its max_tokens allow.
    usd_expected: answers as long as `costs.answer_tokens` says, if max_tokens allow that. by_model, by_decided:
    different items. undecided: of those, the ones that have the default label so far. refused: that cannot be sent.
    unpriced: of models that the table does not know, not in the dollars. classifier_usd: billed for deciding.
    """

    items: int = 0
    different: int = 0
    usd_at_most: Decimal = Decimal(0)
    usd_expected: Decimal = Decimal(0)
    classifier_usd: Decimal = Decimal(0)
    by_model: Counter[str] = field(default_factory=Counter)
    by_decided: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    refused: int = 0
    unpriced: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        dollars = {name: float(getattr(self, name)) for name in ("usd_at_most", "usd_expected", "classifier_usd")}
        counts = {name: getattr(self, name) for name in ("items", "different", "undecided", "refused", "unpriced")}
        return counts | {"by_model": dict(self.by_model), "by_decided": dict(self.by_decided)} | dollars


def estimate(
    parts: Parts, items: Sequence[Item], kept: Mapping[int, Mapping[str, Any]], refused: Collection[int]
) -> Estimate:
    """The estimate of `items`. kept: see `batchrouting.Kept`, by n."""
    made = Estimate(items=len(items), refused=sum(item.first in refused for item in items))
    for item in items:
        if item.n != item.first or item.n in refused:
            continue
        made.different += 1
        if item.config is None:
            _add_untouched(made, parts, item)
        elif item.n in kept:
            _add_routed(made, parts, kept[item.n])
    return made


def _add_routed(made: Estimate, parts: Parts, kept: Mapping[str, Any]) -> None:
    model, decision = parts.table.model(kept["model"]), kept["decision"]
    made.by_decided[decision["decided_by"]] += 1
    made.undecided += decision["decided_by"] == "default"
    made.classifier_usd += Decimal(repr(decision["cost_usd"]))
    _add(made, parts, model, Decimal(kept["at_most_usd"]), kept["prompt_tokens"], kept["asked"].get("max_tokens"))


def _add_untouched(made: Estimate, parts: Parts, item: Item) -> None:
    model = parts.table.find(str(item.params.get("model")))
    if model is None:
        made.unpriced += 1
        return
    size = measure(item.params)
    fitted = Fitted({"max_tokens": item.params.get("max_tokens")}, (), size.prompt_tokens(model), size.write)
    usd = worst_case_usd(fitted, model) * model.batch_factor
    _add(made, parts, model, usd, fitted.prompt_tokens, item.params.get("max_tokens"))


def _add(made: Estimate, parts: Parts, model: Model, at_most: Decimal, prompt_tokens: int, limit: object) -> None:
    answer = min(parts.settings.costs.answer_tokens, limit if type(limit) is int else 0)
    made.by_model[model.id] += 1
    made.usd_at_most += at_most
    made.usd_expected += cost(model, Usage(input_tokens=prompt_tokens, output_tokens=answer), batch=True)
