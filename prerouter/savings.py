"""What answered requests would have cost elsewhere: the tokens that they used, at the prices of the models they go to.

"The same tokens" is an assumption: another model writes longer or shorter answers. What that comes to is measured where
both models answered the same requests, see `pairs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any

from prerouter.policy import Choice, Limits, Policy
from prerouter.records import Scores, Usage
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import Model, TierTable, convert_tokens, cost

LOGGED, CURRENT, ROUTED, FLOOR, COLD = "as-logged", "current-models", "prerouter", "prerouter-floor", "prerouter-cold"
# What a policy means, for whoever reads its dollars.
MEANING = {
    LOGGED: "what these requests cost, on the models that answered",
    CURRENT: "each on its own tier's present first model: what changing models saves without routing",
    ROUTED: "local decisions; what local leaves open is asked about and goes where local thinks it likely",
    FLOOR: "local decisions; what local leaves open is asked about and stays on the model that it had",
    COLD: "as prerouter-floor, and no prompt cache is found on a model that the request did not have",
}
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that was billed: the model that answered, its tokens, and whether it was a batch, in the US, or fast.

    known: prices that were worked out before.
    """

    model: Model
    usage: Usage
    batch: bool = False
    us: bool = False
    fast: bool = False
    known: dict[tuple[str, bool], Decimal] = field(default_factory=dict, compare=False, repr=False)

    def at(self, model: Model, *, cold: bool = False) -> Decimal:
        """US dollars of the same tokens at `model`'s prices. cold: what was read from a cache is written anew there."""
        cold = cold and model.id != self.model.id and self.usage.cache_read_tokens > 0
        key = model.id, cold
        if key not in self.known:
            self.known[key] = self._worked_out(model, cold)
        return self.known[key]

    def _worked_out(self, model: Model, cold: bool) -> Decimal:
        usage = self.usage if model.id == self.model.id else _converted(self.usage, self.model, model)
        if cold:
            read = usage.cache_read_tokens
            usage = replace(usage, cache_read_tokens=0, cache_write_5m_tokens=usage.cache_write_5m_tokens + read)
        fast = self.fast and not self.batch and model.fast_factor is not None
        return cost(model, usage, batch=self.batch, geo_us=self.us and model.us_factor is not None, fast=fast)


@dataclass(slots=True)
class Sum:
    """Requests and dollars. local: decided locally. usd: by policy."""

    rows: int = 0
    local: int = 0
    usd: dict[str, Decimal] = field(default_factory=dict)

    def add(self, usd: Mapping[str, Decimal], local: bool) -> None:
        """Count one request."""
        self.rows, self.local = self.rows + 1, self.local + local
        for name, dollars in usd.items():
            self.usd[name] = self.usd.get(name, _ZERO) + dollars

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: rows, coverage, and of each policy `usd` and, against what was billed, `saved`."""
        logged = self.usd.get(LOGGED, _ZERO)
        policies = {name: _money(usd, logged, self.rows) for name, usd in self.usd.items()}
        return {"rows": self.rows, "coverage": self.local / self.rows if self.rows else None, "policies": policies}


def _money(usd: Decimal, logged: Decimal, rows: int) -> dict[str, float | None]:
    return {
        "usd": round(float(usd), 6),
        "usd_per_1000": round(1000 * float(usd) / rows, 6) if rows else None,
        "saved_usd": round(float(logged - usd), 6),
        "saved": float(1 - usd / logged) if logged else None,
    }


class Pricing:
    """What each policy would have paid for a request. taxonomy: its labels must have tiers."""

    def __init__(self, policy: Policy, taxonomy: Taxonomy, tiers: TierTable, classifier: str) -> None:
        self._policy, self._taxonomy, self._tiers = policy, taxonomy, tiers
        first = tiers.tier_of_model(classifier)
        self.first = f"{first.name if first else classifier}-first"
        names = {label.tier for label in taxonomy.labels if label.tier}
        self._tier_models = {tier: tiers.model(tiers.first_model(tier)) for tier in sorted(names, key=tiers.rank)}
        self._tier_names: dict[str, str | None] = {}

    @property
    def top(self) -> str:
        """The name of the policy that sends everything to the taxonomy's strongest tier."""
        return f"always-{list(self._tier_models)[-1]}"

    def bill(self, answered: Answered, scores: Scores, question: Decimal, limits: Limits) -> dict[str, Decimal]:
        """{policy: US dollars}. question: what asking the classifier costs. limits: of the request's tags."""
        logged, always = answered.at(answered.model), {t: answered.at(m) for t, m in self._tier_models.items()}
        present = always.get(self._tier(answered.model) or "")
        out = {LOGGED: logged, CURRENT: logged if present is None else present}
        out |= {f"always-{name}": usd for name, usd in always.items()}
        if limits.force_model or limits.force_label:
            pinned = self._at(answered, self._policy.pinned(limits)[1])
            return out | dict.fromkeys((self.first, ROUTED, FLOOR, COLD), pinned)
        return out | self._routed(answered, scores, question, limits, logged)

    def moved(self, answered: Answered, scores: Scores, limits: Limits) -> Decimal:
        """Dollars billed, times the chance that routing moves the request to another tier."""
        if limits.force_model or limits.force_label:
            return _ZERO
        served, names = self._tier(answered.model), self._taxonomy.names
        chances = dict(zip(names, scores.probabilities, strict=True))
        likely = {scores.label: 1.0} if scores.decided else chances
        away = sum(p for name, p in likely.items() if self._policy.choose(name, limits).tier != served)
        return Decimal(away) * answered.at(answered.model)

    def _routed(
        self, answered: Answered, scores: Scores, question: Decimal, limits: Limits, logged: Decimal
    ) -> dict[str, Decimal]:
        choices = {name: self._policy.choose(name, limits) for name in self._taxonomy.names}
        usd = {model: self._at(answered, choice) for choice in choices.values() if (model := choice.model)}
        chances = zip(choices.values(), scores.probabilities, strict=True)
        likely = sum((Decimal(p) * usd[choice.model or ""] for choice, p in chances), _ZERO)
        if not scores.decided:
            asked = dict.fromkeys((self.first, ROUTED), question + likely)
            return asked | dict.fromkeys((FLOOR, COLD), question + logged)
        choice = choices[scores.label]
        local = usd[choice.model or ""]
        return {self.first: question + likely, ROUTED: local, FLOOR: local, COLD: self._at(answered, choice, cold=True)}

    def _tier(self, model: Model) -> str | None:
        if model.id not in self._tier_names:
            self._tier_names[model.id] = tier_name(self._tiers, model)
        return self._tier_names[model.id]

    def _at(self, answered: Answered, choice: Choice, *, cold: bool = False) -> Decimal:
        return answered.at(self._tiers.model(choice.model or ""), cold=cold)


def tier_name(tiers: TierTable, model: Model) -> str | None:
    """The tier of a model; of one that stands in none, as old models do, the tier that its id names."""
    tier = tiers.tier_of_model(model.id)
    words = model.id.split("-")
    return tier.name if tier else next((tier.name for tier in tiers.tiers if tier.name in words), None)


def _converted(usage: Usage, counted_by: Model, wanted_by: Model) -> Usage:
    if counted_by.tokens_per_text == wanted_by.tokens_per_text:
        return usage
    counts = {f.name: convert_tokens(getattr(usage, f.name), counted_by, wanted_by) for f in fields(Usage)}
    return Usage(**counts)
