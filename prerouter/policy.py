"""From a label to a tier and a model: overrides, rules by tag, priority. Pure functions; nothing is sent or stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from prerouter.errors import ConfigError, InvalidRequest, PreRouterError
from prerouter.records import Priority
from prerouter.sections import Rule
from prerouter.settings import Settings
from prerouter.tables import did_you_mean, tag_value
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

# Below this stated confidence `priority="quality"` treats the classifier's answer as a tie with the next label up.
# Haiku's stated confidences bunch at 0.85 and above when it is sure; a verdict under 0.6 names a coin toss.
TIE_CONFIDENCE = 0.6

T = TypeVar("T")
_NOTHING = (None,) * 5


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit on the tier and the name that `adjusted_by` gives it."""

    tier: str
    name: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What the caller and the matching rules ask of one request.

    lower, upper: the tightest bounds. Where they cross, `lower` wins: a cheaper model is never worth a broken promise.
    """

    lower: Bound | None = None
    upper: Bound | None = None
    force_model: str | None = None
    force_label: str | None = None
    priority: Priority = "cost"

    @property
    def unbound(self) -> bool:
        """True when neither bound can move a tier."""
        return self.lower is None and self.upper is None


@dataclass(frozen=True, slots=True)
class Choice:
    """A tier, the model that serves it, and what moved it there."""

    tier: str | None
    model: str | None
    adjusted_by: tuple[str, ...] = ()


class Policy:
    """Settings, taxonomy and price table, checked against each other once.

    Raises ConfigError when a rule or the taxonomy names an unknown tier or model.
    """

    def __init__(self, settings: Settings, taxonomy: Taxonomy, tiers: TierTable) -> None:
        taxonomy.check_tiers(tiers.rank)
        self._settings, self._taxonomy, self._tiers = settings, taxonomy, tiers
        self._default_limits = Limits(priority=settings.router.priority)
        self._choices = {label.name: self._choice_of(label.tier) for label in taxonomy.labels}
        for rule in settings.rules:
            self._check_rule(rule)

    def match(self, label: str) -> str:
        """The label of the taxonomy that `label` names, "" where none is."""
        return self._taxonomy.match(label) or ""

    def limits(
        self,
        *,
        force_model: str | None = None,
        force_label: str | None = None,
        min_tier: str | None = None,
        max_tier: str | None = None,
        priority: Priority | None = None,
        tags: Mapping[str, object] | None = None,
    ) -> Limits:
        """The limits of one request. Raises InvalidRequest for names that do not exist and for crossed bounds."""
        asked = (force_model, force_label, min_tier, max_tier, priority)
        if asked == _NOTHING and not (tags and self._settings.rules):
            return self._default_limits
        rules = [rule for rule in self._settings.rules if matches(rule, tags or {})]
        self._check_call(force_model, force_label, min_tier, max_tier, priority)
        lowers = [Bound(r.min_tier, f"rule:{r.name}") for r in rules if r.min_tier]
        uppers = [Bound(r.max_tier, f"rule:{r.name}") for r in rules if r.max_tier]
        lowers += [Bound(min_tier, "min_tier")] if min_tier else []
        uppers += [Bound(max_tier, "max_tier")] if max_tier else []
        return Limits(
            lower=max(lowers, key=self._rank, default=None),
            upper=min(uppers, key=self._rank, default=None),
            force_model=force_model or _first(r.force_model for r in rules),
            force_label=self._taxonomy.match(force_label) if force_label else None,
            priority=priority or _first(r.priority for r in rules) or self._settings.router.priority,
        )

    def choose(self, label: str, limits: Limits, *, confidence: float = 1.0) -> Choice:
        """Tier and model of `label` under `limits`. `confidence` below TIE_CONFIDENCE goes up one tier for quality."""
        choice = self._choices[label]
        if choice.tier is None or (limits.unbound and limits.priority != "quality"):
            return choice
        tier, moved = choice.tier, list[str]()
        if limits.priority == "quality" and confidence < TIE_CONFIDENCE:
            tier = self._move(tier, self._next_up(tier), "priority", moved)
        if limits.upper and self._tiers.rank(tier) > self._rank(limits.upper):
            tier = self._move(tier, limits.upper.tier, limits.upper.name, moved)
        if limits.lower and self._tiers.rank(tier) < self._rank(limits.lower):
            tier = self._move(tier, limits.lower.tier, limits.lower.name, moved)
        return Choice(tier, self._tiers.first_model(tier), tuple(moved)) if moved else choice

    def pinned(self, limits: Limits) -> tuple[str, Choice]:
        """Label and choice of a request whose label or model is forced. A forced model stands above every bound."""
        if limits.force_model:
            tier = self._tiers.tier_of_model(limits.force_model)
            name = tier.name if tier else self._taxonomy.tier_of(self._taxonomy.default)
            label = next((x.name for x in self._taxonomy.labels if x.tier == name), self._taxonomy.default)
            return limits.force_label or label, Choice(name, limits.force_model)
        assert limits.force_label is not None
        return limits.force_label, self.choose(limits.force_label, limits)

    def undecided(self, limits: Limits, *, failed: bool) -> Choice:
        """Where a request goes that nobody decided: the default label's tier, or, by setting, the top tier when the
        classifier was asked and failed."""
        choice = self.choose(self._taxonomy.default, limits)
        if not failed or self._settings.router.on_failure == "default" or choice.tier is None:
            return choice
        top = self.choose(self._strongest_label(), limits)
        return choice if top.tier == choice.tier else Choice(top.tier, top.model, ("rule:on_failure", *top.adjusted_by))

    def asking_is_pointless(self, limits: Limits) -> bool:
        """True when every label ends in the same tier, so that no answer of the classifier could change the route."""
        if limits.unbound or self._taxonomy.handoff:  # routes differ in more than their tier
            return False
        return len({self.choose(name, limits).tier for name in self._taxonomy.names}) == 1

    def _choice_of(self, tier: str | None) -> Choice:
        return Choice(tier, self._tiers.first_model(tier)) if tier else Choice(None, None)

    def _rank(self, bound: Bound) -> int:
        return self._tiers.rank(bound.tier)

    def _next_up(self, tier: str) -> str:
        ranks = sorted({self._tiers.rank(x.tier): x.tier for x in self._taxonomy.labels if x.tier}.items())
        return next((name for rank, name in ranks if rank > self._tiers.rank(tier)), tier)

    def _strongest_label(self) -> str:
        return max(self._taxonomy.labels, key=lambda x: self._tiers.rank(x.tier) if x.tier else -1).name

    @staticmethod
    def _move(tier: str, to: str, name: str, moved: list[str]) -> str:
        if to != tier:
            moved.append(name)
        return to

    def _check_rule(self, rule: Rule) -> None:
        for name in (rule.min_tier, rule.max_tier):
            if name:
                self._tiers.tier(name)
        if rule.force_model:
            self._tiers.model(rule.force_model)
        if rule.min_tier and rule.max_tier and self._tiers.rank(rule.min_tier) > self._tiers.rank(rule.max_tier):
            raise ConfigError(f"min_tier is above max_tier in rule {rule.name!r}", where="rules", next_step="swap them")

    def _check_call(self, model: str | None, label: str | None, low: str | None, high: str | None, how: object) -> None:
        names = {"force_model": model, "force_label": label, "min_tier": low, "max_tier": high}
        for option, value in names.items():
            if value is not None and not isinstance(value, str):
                raise InvalidRequest(f"{option} is {value!r}", where=option, next_step="pass a name or None")
        if label is not None and self._taxonomy.match(label) is None:
            step = did_you_mean(label, self._taxonomy.names)
            raise InvalidRequest(f"unknown label {label!r}", where="force_label", next_step=step)
        if how not in (None, "quality", "speed", "cost"):
            raise InvalidRequest(f"unknown priority {how!r}", where="priority", next_step="quality, speed or cost")
        try:
            ranks = [self._tiers.rank(name) for name in (low, high) if name is not None]
            if model is not None:
                self._tiers.model(model)
        except PreRouterError as error:
            raise InvalidRequest(error.what, where=error.where, next_step=error.next_step) from error
        if len(ranks) == 2 and ranks[0] > ranks[1]:
            raise InvalidRequest(f"min_tier {low} is above max_tier {high}", where="limits", next_step="swap them")


def check_options(max_wait_s: Any, request_id: Any, tags: Any, conversation_id: Any, hint: Any) -> None:
    """Raise InvalidRequest for what would fail, or be taken for something else, further on."""
    if max_wait_s is not None and (isinstance(max_wait_s, bool) or not isinstance(max_wait_s, int | float)):
        raise InvalidRequest(f"max_wait_s is {max_wait_s!r}", where="max_wait_s", next_step="pass seconds or None")
    for name, value in (("request_id", request_id), ("conversation_id", conversation_id), ("hint", hint)):
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{name} is {value!r}", where=name, next_step="pass a string or None")
    if tags is not None and not isinstance(tags, Mapping):
        raise InvalidRequest(f"tags is {tags!r}", where="tags", next_step='pass a mapping such as {"team": "search"}')


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value), None)


def matches(rule: Rule, tags: Mapping[str, object]) -> bool:
    """Whether `tags` include all tags of `rule`."""
    return all(key in tags and tag_value(tags[key]) == value for key, value in rule.tags.items())
