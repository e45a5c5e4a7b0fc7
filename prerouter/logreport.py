"""`prerouter report` on the routing log: who decided, what it cost and saved, how fast, how often wrong.

Read from the log's hourly roll-ups, so that a month of ten million rows takes no longer than one of ten thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from prerouter import gatestate
from prerouter.errors import ConfigError
from prerouter.judge import drawn_first
from prerouter.logrecords import iso
from prerouter.logschema import LogRow, Reply
from prerouter.pairs import OUTCOMES, Pair, measured, rate, summary
from prerouter.records import Usage
from prerouter.rollups import AuditCount, Latency, Rollup
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter
from prerouter.savings import Answered, tier_name
from prerouter.tiers import Model, TierTable
from prerouter.traffic import Traffic, look

HOUR_S, DAY_S, YEAR_S = 3_600, 86_400, 366 * 86_400
HOURLY_S = 4 * DAY_S  # up to such a span a point in time is an hour, above it a day
COUNTED = ("decided_by", "reason", "label", "tier", "reply_model", "mode", "model_folder")
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(slots=True)
class Part:
    """Sums over some requests.

    heads: rows whose audit coin fell heads. classifier_usd: of asking. replies: those logged; of these `estimated` are
    priced here, from their tokens, and `unpriced` could not be. reply_usd: what they cost; top_usd: the same tokens at
    the strongest tier. shadow_usd, shadow_routed_usd: of replies in shadow mode, and their tokens at the model that the
    router chose. moved_usd: dollars without routing of the replies that routing moves to another tier.
    """

    rows: int = 0
    local: int = 0
    heads: int = 0
    classifier_usd: float = 0.0
    replies: int = 0
    attempts: int = 0
    estimated: int = 0
    unpriced: int = 0
    reply_usd: float = 0.0
    top_usd: float = 0.0
    shadow_usd: float = 0.0
    shadow_routed_usd: float = 0.0
    moved_usd: float = 0.0

    @property
    def coverage(self) -> float | None:
        """Share decided locally."""
        return self.local / self.rows if self.rows else None

    @property
    def saved_usd(self) -> float:
        """Against always the strongest tier, with the same tokens, net of what asking cost."""
        return self.top_usd - self.reply_usd - self.classifier_usd

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        own = ("rows", "heads", "replies", "attempts", "estimated", "unpriced")
        usd = ("classifier_usd", "reply_usd", "top_usd", "shadow_usd", "shadow_routed_usd", "saved_usd")
        out = {name: getattr(self, name) for name in own} | {name: round(getattr(self, name), 6) for name in usd}
        return out | {"coverage": self.coverage, "saved": self.saved_usd / self.top_usd if self.top_usd else None}


@dataclass(slots=True)
class Wrong:
    """Audited local decisions: how many, how many differ from the labeller's label, how many are weaker."""

    n: int = 0
    disagreement: int = 0
    under: int = 0

    def to_json(self, ordered: bool) -> dict[str, Any]:
        """As a JSON object."""
        under = rate(self.under, self.n) if ordered else None
        return {"n": self.n, "disagreement": rate(self.disagreement, self.n), "under_routing": under}


@dataclass(slots=True)
class LogReport:
    """What came out. Make it with `log_report`.

    counts: {what: {value: rows}}. points: by start of an hour or day. traffic: the last window of the model in use:
    drift and new topics. closed: labels whose gates live audits closed.
    """

    where: str
    since: float | None
    until: float
    model_folder_id: str
    ordered: bool
    step_s: int
    total: Part = field(default_factory=Part)
    points: dict[int, Part] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {what: Counter() for what in COUNTED})
    tags: dict[str, dict[str, Part]] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    audits: int = 0
    wrong: Wrong = field(default_factory=Wrong)
    wrong_by: dict[str, dict[str, Wrong]] = field(default_factory=dict)
    wrong_at: dict[int, Wrong] = field(default_factory=dict)
    pairs: list[Pair] = field(default_factory=list)
    traffic: Traffic | None = None
    closed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        points = {iso(at): part.to_json() for at, part in sorted(self.points.items())}
        wrong = {
            what: {name: found.to_json(self.ordered) for name, found in of.items()}
            for what, of in self.wrong_by.items()
        }
        return {
            "source": "log",
            "where": self.where,
            "since": None if self.since is None else iso(self.since),
            "until": iso(self.until),
            "model_folder_id": self.model_folder_id,
            **self.total.to_json(),
            **{f"by_{what}": dict(found.most_common()) for what, found in self.counts.items()},
            "savings": {"same_tokens": self.same_tokens(), "measured": measured(self.pairs, self.total.moved_usd)},
            "over_time": points,
            "by_tag": {tag: {v: part.to_json() for v, part in of.items()} for tag, of in self.tags.items()},
            "latency": [timing(found) for found in self.latencies],
            "audits": {"n": self.audits, "local": self.wrong.to_json(self.ordered), **wrong},
            "shadow": summary(self.pairs),
            "traffic": self.traffic.to_json() if self.traffic else None,
            "closed_gates": list(self.closed),
        }

    def same_tokens(self) -> dict[str, Any]:
        """Dollars of the replies, and what they would have been, every model with the tokens that were used."""
        total, asked = self.total, self.counts["decided_by"]["llm"]
        question = total.classifier_usd / asked if asked else None
        first = None if question is None else round(total.reply_usd + question * total.rows, 6)
        spent = total.reply_usd + total.classifier_usd
        return {
            "spent_usd": round(spent, 6),
            "always_top_usd": round(total.top_usd, 6),
            "haiku_first_usd": first,
            "saved_usd": round(total.saved_usd, 6),
            "saved": total.saved_usd / total.top_usd if total.top_usd else None,
            "saved_against_haiku_first_usd": None if first is None else round(first - spent, 6),
            "shadow_saved_usd": round(total.shadow_usd - total.shadow_routed_usd, 6),
        }


def log_report(log: RouteLog, router: PreRouter, *, since: float | None, until: float) -> LogReport:
    """The report about the rows in [since, until), UTC seconds; `router` gives prices, labels and their order.

    Raises DataError, UpstreamError for a log that cannot be read.
    """
    step = HOUR_S if since is not None and until - since <= HOURLY_S else DAY_S
    taxonomy, local = router.taxonomy, router.local.model_folder_id
    found = LogReport(log.where, since, until, local, taxonomy.ordered, step)
    prices = _Prices(router.tiers)
    for row in log.rollups(since, until, step_s=step):
        _count(found, row, prices)
    for tag in log.tags():
        parts: dict[str, Part] = {}
        for row in log.rollups(since, until, tag=tag, step_s=YEAR_S):
            _add(parts.setdefault(row.value or "", Part()), row, prices)
        if parts:
            found.tags[tag] = parts
    found.latencies = sorted(log.latencies(since, until), key=lambda one: (one.what, one.path))
    for count in log.audit_counts(since, until, step_s=step):
        _audited(found, count, taxonomy.names)
    found.pairs = list(logged_pairs(log, router.tiers, since, until))
    found.traffic = look(log, router.local, router.settings.monitor, until) if found.total.rows else None
    found.closed = tuple(gatestate.closed(log, local))
    return found


def logged_pairs(log: RouteLog, tiers: TierTable, since: float | None, until: float) -> Iterable[Pair]:
    """The comparisons that shadow mode left in the log; see `shadowlane` for what their labels hold."""
    for label, row in log.labelled(origin="judge"):
        inside = (since is None or row.at >= since) and row.at < until
        reference = _reference_usd(row, tiers)
        if not inside or label.outcome not in OUTCOMES or reference is None or label.score is None:
            continue
        judged = label.cost_usd - label.score > 1e-9  # else the outcome was plain and nobody was asked
        yield Pair(
            id=row.decision.id,
            label=row.decision.label,
            routed=row.decision.model or "",
            reference=row.reply.model or "" if row.reply else "",
            outcome=label.outcome,
            routed_first=drawn_first(label.prompt_id or "", row.decision.id) if judged else None,
            confidence=label.confidence or 0.0,
            judge=label.labelled_by or "",
            prompt_id=label.prompt_id or "",
            routed_usd=label.score,
            reference_usd=reference,
            judge_usd=max(0.0, label.cost_usd - label.score),
            at=label.at,
        )


def timing(found: Latency) -> dict[str, Any]:
    """Seconds of one path as a JSON object."""
    return {"what": found.what, "path": found.path, "n": found.n} | {
        f"p{100 * q:g}_s": found.quantile(q) for q in QUANTILES
    }


class _Prices:
    """What the replies of a roll-up cost that nobody priced when they were logged."""

    def __init__(self, tiers: TierTable) -> None:
        self.tiers, self.top = tiers, tiers.model(tiers.first_model(tiers.tiers[-1].name))

    def model(self, name: str | None) -> Model | None:
        try:
            return self.tiers.model(name) if name else None
        except ConfigError:
            return None

    def usd(self, row: Rollup, model: Model | None, n: int) -> float | None:
        """US dollars of `n` of the row's replies at the prices of `model`, or of the one that answered."""
        answered = self.model(row.reply_model)
        if answered is None:
            return None
        # The sum of many prompts is no long prompt: price the mean one, n times.
        mean = Usage(*(round(getattr(row.usage, name) / row.replies) for name in Usage.__slots__))
        return n * float(Answered(answered, mean).at(model or answered))

    def tier(self, name: str | None) -> str | None:
        model = self.model(name)
        return tier_name(self.tiers, model) if model else None


def _count(found: LogReport, row: Rollup, prices: _Prices) -> None:
    for part in (found.total, found.points.setdefault(row.hour, Part())):
        _add(part, row, prices)
    own = (row.decided_by, row.reason, row.label, row.tier, row.reply_model, row.mode, row.model_folder_id)
    for what, value in zip(COUNTED, own, strict=True):
        found.counts[what][value or "-"] += row.rows


def _add(part: Part, row: Rollup, prices: _Prices) -> None:
    part.rows, part.heads = part.rows + row.rows, part.heads + row.heads
    part.local += row.rows * (row.decided_by == "local")
    part.classifier_usd += row.cost_usd
    if not row.replies:
        return
    part.replies, part.attempts = part.replies + row.replies, part.attempts + row.attempts
    left = row.replies - row.priced
    own, top = (prices.usd(row, model, left) for model in (None, prices.top)) if left else (0.0, 0.0)
    if own is None or top is None:
        part.unpriced, own, top = part.unpriced + left, 0.0, 0.0
    else:
        part.estimated += left
    spent, baseline = row.reply_usd + own, row.baseline_usd + top
    part.reply_usd, part.top_usd = part.reply_usd + spent, part.top_usd + baseline
    _moved(part, row, prices, spent, baseline)


def _moved(part: Part, row: Rollup, prices: _Prices, spent: float, baseline: float) -> None:
    served = prices.tier(row.reply_model)
    if row.mode == "shadow":
        routed = prices.usd(row, prices.model(row.model), row.replies)
        part.shadow_usd, part.shadow_routed_usd = part.shadow_usd + spent, part.shadow_routed_usd + (routed or 0.0)
        part.moved_usd += spent if served != row.tier else 0.0
    elif served is not None and served != prices.tiers.tiers[-1].name:
        part.moved_usd += baseline


def _audited(found: LogReport, count: AuditCount, names: Sequence[str]) -> None:
    found.audits += count.n
    if count.decided_by != "local" or not {count.label, count.truth} <= set(names):
        return
    by = {"by_label": count.label, "by_model_folder": count.model_folder_id, "by_stage": f"stage {count.stage}"}
    by["by_labeller"] = f"{count.labelled_by or '-'} {count.prompt_id or '-'}"
    groups = [found.wrong, found.wrong_at.setdefault(count.hour, Wrong())]
    groups += [found.wrong_by.setdefault(what, {}).setdefault(name, Wrong()) for what, name in by.items()]
    under = found.ordered and names.index(count.label) < names.index(count.truth)
    for group in groups:
        group.n += count.n
        group.disagreement += count.n * (count.label != count.truth)
        group.under += count.n * under


def _reference_usd(row: LogRow, tiers: TierTable) -> float | None:
    """What the served answer cost."""
    reply: Reply | None = row.reply
    if reply is None or reply.cost_usd is not None:
        return reply.cost_usd if reply else None
    try:
        return float(Decimal(Answered(tiers.model(reply.model or ""), reply.usage).at(tiers.model(reply.model or ""))))
    except ConfigError:
        return None
