"""The classifiers of a taxonomy with routes: the one that decides, a stronger one, one that asks level by level."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from prerouter.claude import Asked, Classifier, Stats
from prerouter.records import Request, Usage, Verdict
from prerouter.routes import Route
from prerouter.sections import ClassifierSettings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

HANDOFF = ("fallback_label", "rationale", "params", "also")  # what a classifier of routes is asked for beside the label


def classifier_of(taxonomy: Taxonomy, tiers: TierTable, settings: ClassifierSettings, *, client: Any) -> Classifier:
    """The classifier that decides among the labels of `taxonomy`; among routes it is asked for the whole handoff."""
    handoff = taxonomy.handoff
    if handoff is None:
        return Classifier(taxonomy, tiers, settings, client=client)
    clarifies = any(handoff.low_confidence(name) == "clarify" for name in taxonomy.names)
    settings = replace(settings, ask=(*HANDOFF, "question") if clarifies else HANDOFF)
    kind = Leveled if taxonomy.levels else Classifier
    return kind(taxonomy, tiers, settings, client=client)


def stronger_of(
    taxonomy: Taxonomy, tiers: TierTable, settings: ClassifierSettings, *, client: Any
) -> Classifier | None:
    """The classifier for what the first is not sure of, where a route wants one.

    Its model: `stronger_classifier` of the taxonomy, else the first of the tier above the classifier's.
    """
    handoff = taxonomy.handoff
    if handoff is None or all(handoff.low_confidence(name) != "stronger_classifier" for name in taxonomy.names):
        return None
    model = handoff.stronger_classifier or _above(tiers, settings.model)
    return classifier_of(taxonomy, tiers, replace(settings, model=model), client=client)


class Leveled(Classifier):
    """Asks about the upper labels, then about the categories of the one that was said; `label` is "top/category".

    confidence: the product of both levels': that both are right. A lower level that does not answer leaves its default
    category, at confidence 0.
    """

    def __init__(
        self, taxonomy: Taxonomy, tiers: TierTable, settings: ClassifierSettings, *, client: Any = None
    ) -> None:
        levels = {name: _with_routes(level, name, taxonomy) for name, level in taxonomy.levels.items()}
        super().__init__(levels[""], tiers, settings, client=client)
        self._levels = levels
        self._lower = {
            name: Classifier(level, tiers, settings, client=client) for name, level in levels.items() if name
        }

    @property
    def stats(self) -> Stats:
        """Totals of all levels."""
        all_levels = [super().stats, *(lower.stats for lower in self._lower.values())]
        failures = sum((Counter(one.failures) for one in all_levels), Counter[str]())
        return replace(
            all_levels[0],
            failures=MappingProxyType(dict(failures)),
            cost_usd=sum((one.cost_usd for one in all_levels), all_levels[0].cost_usd * 0),
            usage=_sum(*(one.usage for one in all_levels)),
            **{
                name: sum(getattr(one, name) for one in all_levels) for name in ("calls", "hits", "joined", "in_flight")
            },
        )

    def classify(self, request: Request, *, max_wait_s: float | None = None) -> Verdict:
        return self.begin(request, max_wait_s=max_wait_s).verdict()

    async def aclassify(self, request: Request, *, max_wait_s: float | None = None) -> Verdict:
        return await self.begin(request, max_wait_s=max_wait_s).averdict()

    def begin(self, request: Request, *, max_wait_s: float | None = None) -> Asked:
        asked = super().begin(request, max_wait_s=max_wait_s)
        return AskedByLevel(self, asked, request, time.monotonic() + self._wait_s(max_wait_s))

    def cached(self, request: Request) -> Verdict | None:
        top = super().cached(request)
        lower = self.lower(top) if top else None
        below = lower.cached(request) if lower else None
        return self.joined(top, below) if top and (below or not lower) else None

    def close(self) -> None:
        super().close()
        for lower in self._lower.values():
            lower.close()

    def lower(self, top: Verdict) -> Classifier | None:
        """The classifier of the categories of what was said."""
        return self._lower.get(top.label or "")

    def joined(self, top: Verdict, below: Verdict | None) -> Verdict:
        """What both levels said, with the lowest labels' names."""
        second, also = self._leaf(top.fallback_label), tuple(self._leaf(name) or name for name in top.also)
        if top.label is None or below is None:
            return replace(top, fallback_label=second, also=also)
        said = below.label or self._levels[top.label].default
        other = below.fallback_label if below.fallback_label != said else None
        ids = f"{top.prompt_id} {below.prompt_id}"
        return replace(
            top,
            label=f"{top.label}/{said}",
            reason="cached" if top.reason == below.reason == "cached" else "classified",
            confidence=top.confidence * below.confidence,
            fallback_label=f"{top.label}/{other}" if other else second,
            rationale=below.rationale or top.rationale,
            params=below.params,
            question=below.question or top.question,
            also=also,
            cost_usd=top.cost_usd + below.cost_usd,
            usage=_sum(top.usage, below.usage),
            prompt_id=hashlib.sha256(ids.encode()).hexdigest()[:12],
        )

    def _leaf(self, name: str | None) -> str | None:
        return f"{name}/{self._levels[name].default}" if name and name in self._lower else name


class AskedByLevel(Asked):
    """A question whose answer leads to another."""

    def __init__(self, classifier: Leveled, first: Asked, request: Request, until: float) -> None:
        self._levels, self._first, self._request, self._until = classifier, first, request, until

    def label(self) -> str | None:
        return None

    async def alabel(self) -> str | None:
        return None

    def verdict(self) -> Verdict:
        top = self._first.verdict()
        lower = self._levels.lower(top)
        below = lower.classify(self._request, max_wait_s=self._left_s()) if lower else None
        return self._levels.joined(top, below)

    async def averdict(self) -> Verdict:
        top = await self._first.averdict()
        lower = self._levels.lower(top)
        below = await lower.aclassify(self._request, max_wait_s=self._left_s()) if lower else None
        return self._levels.joined(top, below)


def _with_routes(level: Taxonomy, name: str, whole: Taxonomy) -> Taxonomy:
    """A level with the routes of its labels, so that its prompt asks for their parameters."""
    assert whole.handoff
    known = whole.handoff.routes
    routes = {one: replace(known.get(f"{name}/{one}" if name else one, Route(one)), label=one) for one in level.names}
    return replace(level, handoff=replace(whole.handoff, routes=routes))


def _above(tiers: TierTable, model: str) -> str:
    tier = tiers.tier_of_model(model)
    rank = tiers.rank(tier.name) + 1 if tier else len(tiers.tiers)
    return tiers.tiers[min(rank, len(tiers.tiers) - 1)].models[0]


def _sum(*usages: Usage) -> Usage:
    return Usage(*(sum(getattr(usage, f.name) for usage in usages) for f in fields(Usage)))
