"""Whether asking the classifier can pay."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from prerouter.judged import Judged
from prerouter.promptsize import Size
from prerouter.records import Usage
from prerouter.router import PreRouter
from prerouter.tiers import cost

ANSWER_TOKENS = 20  # of the classifier: a label and a confidence


def asking_pays(router: PreRouter, judged: Judged, body: Mapping[str, Any], size: Size, *, batch: bool = False) -> bool:
    """Whether the tiers that the labels lead to can differ, at list prices, by more than the classifier costs.

    The most that they can: the prompt is not cached, and the answer takes all of max_tokens. batch: it is answered in a
    batch; the classifier is not.
    """
    tiers = {router.policy.choose(name, judged.limits).tier for name in router.taxonomy.names}
    costs = [_worst_usd(router, tier, body, size, batch) for tier in tiers if tier]
    return not costs or max(costs) - min(costs) > _asking_usd(router, judged)


def _worst_usd(router: PreRouter, tier: str, body: Mapping[str, Any], size: Size, batch: bool) -> Decimal:
    model, limit = router.tiers.model(router.tiers.first_model(tier)), body.get("max_tokens")
    answer = limit if type(limit) is int and limit > 0 else 0
    return cost(model, Usage(input_tokens=size.prompt_tokens(model), output_tokens=answer), batch=batch)


def _asking_usd(router: PreRouter, judged: Judged) -> Decimal:
    prompt, request = router.classifier.prompt, judged.request
    chars = len(prompt.system) + len(prompt.request_form) + len(request.text) + len(request.context)
    tokens = int(chars / router.settings.costs.chars_per_token * float(prompt.model.tokens_per_text))
    return cost(prompt.model, Usage(input_tokens=tokens, output_tokens=ANSWER_TOKENS))
