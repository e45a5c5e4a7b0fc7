"""What requests cost, where the money went, and what always using the top tier would have cost.

Everything is counted as it was billed: the classifier's calls, attempts that failed or were cancelled, and the answer.
Saved is what the same answers would have cost at the top tier's first model, less all of that. The baseline gives the
top tier the same number of output tokens; a stronger model may say more or less, which no list price can tell.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from prerouter.budgets import BudgetState
from prerouter.dispatchrecords import Account, Attempt
from prerouter.forks import new_lock
from prerouter.ledgerrows import Line, Row
from prerouter.records import Usage
from prerouter.tiers import Model, TierTable, convert_tokens, cost

MOST_TAGS = 1_000  # tag pairs that are counted on their own: a request id among the tags must not fill the memory
OTHER_TAGS = "(other tags)"
NO_TIER = "(none)"  # of requests that nothing answered
SHOWN = 20  # requests in the summary
_UNTOLD = ("timeout", "cut", "cancelled")  # outcomes after which a bill may never have been told


def baseline_usd(
    table: TierTable, served: Model, usage: Usage, *, batch: bool = False, geo_us: bool = False, fast: bool = False
) -> Decimal:
    """US dollars of the same work at the top tier's first model, `usage` being counted in `served`'s own tokens.

    batch: in a batch too. geo_us, fast: as the request asked; left out where the top model has none.
    """
    top = table.model(table.tiers[-1].models[0])
    if served.tokens_per_text != top.tokens_per_text:
        usage = Usage(**{f.name: convert_tokens(getattr(usage, f.name), served, top) for f in fields(Usage)})
    geo_us, fast = geo_us and top.us_factor is not None, fast and top.fast_factor is not None
    return cost(top, usage, batch=batch, geo_us=geo_us, fast=fast)


@dataclass(frozen=True, slots=True)
class Report:
    """What a client's requests came to, so far. `client.report()`.

    since, until: UTC seconds since 1970. total.usd: everything billed, of which classifier_usd went to classification
    and wasted_usd to attempts that did not serve. late_usd: not in total, classifier answers that came too late for
    their request, or that others of this process asked the same router for. aside_usd: not in total either, audits and
    shadow mode's comparisons. untold: attempts whose bill never came (a broken reply, a deadline): they may have cost
    what is not in here. by_tag: keys K=V. rows: the newest requests,
    oldest first.
    """

    since: float
    until: float
    total: Line
    classifier_usd: Decimal
    wasted_usd: Decimal
    late_usd: Decimal
    aside_usd: Decimal
    untold: int
    by_tier: Mapping[str, Line]
    by_model: Mapping[str, Line]
    by_label: Mapping[str, Line]
    by_tag: Mapping[str, Line]
    attempts: Mapping[str, int]
    errors: Mapping[str, int]
    rows: tuple[Row, ...] = field(repr=False)
    budgets: tuple[BudgetState, ...] = ()
    actions: Mapping[str, int] = field(default_factory=dict)

    @property
    def billed_usd(self) -> Decimal:
        """All that was billed, as far as it was told."""
        return self.total.usd + self.late_usd + self.aside_usd

    @property
    def saved_usd(self) -> Decimal:
        """Against always using the top tier, net of all that was billed."""
        return self.total.baseline_usd - self.billed_usd

    @property
    def also_share(self) -> float:
        """Share of requests that asked for the work of several routes."""
        return self.total.several / max(1, self.total.requests)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object; dollars as floats."""
        lines = {name: {k: v.to_json() for k, v in getattr(self, name).items()} for name in _GROUPS}
        shown = {name: getattr(self, name) for name in ("since", "until", "untold")}
        return {
            **shown,
            **self.total.to_json(),
            **{name: float(getattr(self, name)) for name in _SUMS},
            **lines,
            "attempts": dict(self.attempts),
            "actions": dict(self.actions),
            "also_share": self.also_share,
            "errors": dict(self.errors),
            "budgets": [state.to_json() for state in self.budgets],
            "rows": [row.to_json() for row in self.rows],
        }

    def __str__(self) -> str:
        return "\n".join([*_headline(self), *_tiers(self), *_routes(self), *_table(self.rows)])


class Ledger:
    """Adds accounts up. Thread-safe.

    asked: what the router's classifier was billed so far, late answers included. aside: what audits and comparisons
    were. rows: newest requests that are kept one by one.
    """

    def __init__(
        self,
        table: TierTable,
        *,
        asked: Callable[[], Decimal] | None = None,
        aside: Callable[[], Decimal] | None = None,
        clock: Callable[[], float] = time.time,
        rows: int = 1_000,
    ) -> None:
        self._clock, self._lock, self._asked = clock, new_lock(self), asked
        self._asked_before = asked() if asked else Decimal(0)
        self._aside, self._aside_before = aside, aside() if aside else Decimal(0)
        self._order = [tier.name for tier in table.tiers]
        self._since = clock()
        self._total, self._classifier, self._wasted, self._untold = Line(), Decimal(0), Decimal(0), 0
        self._groups: dict[str, dict[str, Line]] = {name: {} for name in _GROUPS}
        self._attempts: Counter[str] = Counter()
        self._actions: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._rows: deque[Row] = deque(maxlen=rows)

    def add(self, account: Account) -> None:
        """Count a request that is over."""
        row = Row.of(account)
        keys = {
            "by_tier": [row.tier or NO_TIER],
            "by_model": [row.model or NO_TIER],
            "by_label": [row.label or NO_TIER],
            "by_tag": [f"{key}={value}" for key, value in account.tags.items()],
        }
        with self._lock:
            self._total.add(row)
            for group, names in keys.items():
                for name in names:
                    self._line(group, name).add(row)
            self._classifier += row.classifier_usd
            self._wasted += row.wasted_usd
            self._attempts.update(attempt.outcome for attempt in row.attempts)
            self._actions.update([row.action])
            self._untold += sum(map(_is_untold, row.attempts))
            self._errors.update([row.error] if row.error else [])
            self._rows.append(row)

    def report(self, budgets: tuple[BudgetState, ...] = ()) -> Report:
        """The sums so far."""
        with self._lock:
            groups = {name: {k: v.copy() for k, v in lines.items()} for name, lines in self._groups.items()}
            groups["by_tier"] = {name: groups["by_tier"][name] for name in self._tier_order()}
            return Report(
                since=self._since,
                until=self._clock(),
                total=self._total.copy(),
                classifier_usd=self._classifier,
                wasted_usd=self._wasted,
                late_usd=self._late(),
                aside_usd=self._aside() - self._aside_before if self._aside else Decimal(0),
                untold=self._untold,
                attempts=dict(self._attempts),
                actions=dict(self._actions),
                errors=dict(self._errors),
                rows=tuple(self._rows),
                budgets=budgets,
                **groups,
            )

    def summary(self) -> str:
        """The report for people, as `close` prints it; empty when there was no request."""
        report = self.report()
        return str(report) if report.total.requests else ""

    def _late(self) -> Decimal:
        # Never negative: a request is counted after its classifier was billed, not at the same moment.
        return max(Decimal(0), self._asked() - self._asked_before - self._classifier) if self._asked else Decimal(0)

    def _line(self, group: str, name: str) -> Line:
        lines = self._groups[group]
        if name not in lines and group == "by_tag" and len(lines) >= MOST_TAGS:
            name = OTHER_TAGS
        return lines.setdefault(name, Line())

    def _tier_order(self) -> list[str]:
        known = self._groups["by_tier"]
        return sorted(known, key=lambda name: self._order.index(name) if name in self._order else len(self._order))


def _is_untold(attempt: Attempt) -> bool:
    return attempt.outcome in _UNTOLD and attempt.usage == Usage()


_SUMS = ("billed_usd", "classifier_usd", "wasted_usd", "late_usd", "aside_usd", "saved_usd")
_GROUPS = ("by_tier", "by_model", "by_label", "by_tag")


def _headline(report: Report) -> list[str]:
    total = report.total
    failed = f", {total.requests - total.answered:,} without an answer" if total.answered < total.requests else ""
    less = f" ({report.saved_usd / total.baseline_usd:.1%} less)" if total.baseline_usd else ""
    late = f", too late {_usd(report.late_usd)}" if report.late_usd else ""
    aside = f", audits {_usd(report.aside_usd)}" if report.aside_usd else ""
    untold = f"; {report.untold:,} bills never came" if report.untold else ""
    costs = f"{_usd(report.billed_usd)} instead of {_usd(total.baseline_usd)}{less}"
    return [
        f"prerouter: {total.requests:,} requests{failed}: {costs}",
        f"  of which classifying {_usd(report.classifier_usd)}, failed {_usd(report.wasted_usd)}{late}{aside}{untold}",
    ]


def _tiers(report: Report) -> list[str]:
    lines = [f"  {'tier':12}{'share':>8}{'requests':>10}{'tokens in':>12}{'out':>10}{'cost':>13}{'top tier':>13}"]
    for name, line in report.by_tier.items():
        share = f"{line.requests / report.total.requests:.1%}" if report.total.requests else "-"
        tokens = f"{line.prompt_tokens:>12,}{line.output_tokens:>10,}"
        costs = f"{_usd(line.usd):>13}{_usd(line.baseline_usd):>13}"
        lines.append(f"  {name:12}{share:>8}{line.requests:>10,}{tokens}{costs}")
    return lines


def _routes(report: Report) -> list[str]:
    """By label, where something came out of the prompt cache: what the static part of a specialist saves."""
    if not any(line.cached_tokens for line in report.by_label.values()):
        return []
    lines = [f"  {'label':26}{'requests':>10}{'tokens in':>12}{'from cache':>12}"]
    for name, line in report.by_label.items():
        share = f"{line.cached_tokens / line.prompt_tokens:.1%}" if line.prompt_tokens else "-"
        lines.append(f"  {name[:25]:26}{line.requests:>10,}{line.prompt_tokens:>12,}{share:>12}")
    return lines


def _table(rows: tuple[Row, ...]) -> list[str]:
    header = (
        f"  {'id':14}{'label':12}{'model':20}{'in':>9}{'out':>8}{'tries':>6}{'seconds':>9}{'cost':>13}{'top tier':>13}"
    )
    shown = [header, *map(_table_row, rows[-SHOWN:])]
    return shown + ([f"  the newest {SHOWN} of {len(rows):,} kept"] if len(rows) > SHOWN else [])


def _table_row(row: Row) -> str:
    name = row.model.removeprefix("claude-") if row.model else row.error or "-"
    tokens = f"{row.prompt_tokens:>9,}{row.output_tokens:>8,}{len(row.attempts):>6}"
    costs = f"{_usd(row.usd):>13}{_usd(row.baseline_usd) if row.baseline_usd is not None else '-':>13}"
    return f"  {row.id[:12]:14}{(row.label or '-')[:11]:12}{name[:19]:20}{tokens}{row.seconds:>9.2f}{costs}"


def _usd(dollars: Decimal) -> str:
    return f"${dollars:,.6f}" if abs(dollars) < 1 else f"${dollars:,.2f}"
