"""`prerouter report --from`: what routing would have saved on requests that are already answered. Nothing is sent."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import Any

from prerouter import text
from prerouter.costs import PriceBook
from prerouter.errors import ConfigError, DataError, InvalidRequest
from prerouter.local import CHUNK
from prerouter.logrecords import iso
from prerouter.pairs import Pair, measured
from prerouter.records import Request, Scores, Usage
from prerouter.router import PreRouter
from prerouter.savings import Answered, Pricing, Sum
from prerouter.tiers import Model
from prerouter.usagelog import UsageRow, read_usage

KEPT = 2_000  # values of all tags together that are counted one by one; what comes later is "(other)"
SHOWN_ERRORS = 3  # broken rows that are quoted


@dataclass(slots=True)
class UsageReport:
    """What came out. Make it with `usage_report`.

    total and the groups: requests that could be priced. estimated: of these, without `usage`: their prompt is counted
    from its characters, their answer is an assumed one. unpriced: {model: rows} without a price, "" for none named.
    moved_usd: billed for requests that routing moves to another tier, expected where local leaves them open. pairs: of
    `prerouter shadow`. skipped: broken rows. reasons: {decided by, or why not: rows}. days: by UTC date, of the rows
    with a time.
    """

    file: str
    model_folder_id: str
    certificate: dict[str, Any] | None
    top: str
    first: str
    assumptions: str
    total: Sum = field(default_factory=Sum)
    days: dict[str, Sum] = field(default_factory=dict)
    labels: dict[str, Sum] = field(default_factory=dict)
    models: dict[str, Sum] = field(default_factory=dict)
    tags: dict[str, dict[str, Sum]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    unpriced: Counter[str] = field(default_factory=Counter)
    estimated: int = 0
    skipped: int = 0
    errors: list[str] = field(default_factory=list)
    first_at: float | None = None
    last_at: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    moved_usd: Decimal = Decimal(0)
    pairs: list[Pair] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        own = ("file", "model_folder_id", "certificate", "estimated", "skipped", "assumptions")
        named = {"days": self.days, "labels": self.labels, "models": self.models}
        return {
            "source": "usage",
            **{name: getattr(self, name) for name in own},
            "first_at": None if self.first_at is None else iso(self.first_at),
            "last_at": None if self.last_at is None else iso(self.last_at),
            **self.total.to_json(),
            "by_reason": dict(self.reasons.most_common()),
            "unpriced": dict(self.unpriced),
            "cache_read_share": self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None,
            "savings": {"same_tokens": self._savings(), "measured": measured(self.pairs, float(self.moved_usd))},
            **{f"by_{name[:-1]}": {key: group.to_json() for key, group in of.items()} for name, of in named.items()},
            "by_tag": {key: {v: group.to_json() for v, group in of.items()} for key, of in self.tags.items()},
        }

    def _savings(self) -> dict[str, Any]:
        policies = self.total.to_json()["policies"]
        return {name: policies[name] for name in ("prerouter-floor", "prerouter", self.first, self.top) if policies}

    def add(self, row: UsageRow, how: str, label: str, usd: Mapping[str, Decimal]) -> None:
        """Count one request that was priced. how: "local 0", "pinned", or why local left it open."""
        local = how.startswith("local ")
        self.reasons[how] += 1
        groups = [self.total, self.labels.setdefault(label, Sum()), self.models.setdefault(row.model, Sum())]
        if row.at is not None:
            day = datetime.datetime.fromtimestamp(row.at, datetime.UTC).date().isoformat()
            groups.append(self.days.setdefault(day, Sum()))
            self.first_at = row.at if self.first_at is None else min(self.first_at, row.at)
            self.last_at = row.at if self.last_at is None else max(self.last_at, row.at)
        groups += [self._tag(key, value) for key, value in row.tags.items()]
        for group in groups:
            group.add(usd, local)

    def _tag(self, key: str, value: str) -> Sum:
        values = self.tags.setdefault(key, {})
        if value not in values and sum(map(len, self.tags.values())) >= KEPT:
            value = "(other)"
        return values.setdefault(value, Sum())


def usage_report(file: str, router: PreRouter, *, skip_bad: bool = False) -> UsageReport:
    """What `router` would have saved on the requests of a usage log; see `usagelog` for its form. "-": standard input.

    Raises DataError for a broken row (unless `skip_bad`) and when there is none that could be priced; ConfigError for
    a taxonomy without tiers.
    """
    reader = _Reader.of(file, router, skip_bad)
    rows = reader.rows()
    while chunk := list(islice(rows, CHUNK)):
        reader.price(chunk)
    if not reader.report.total.rows:
        raise DataError(reader.why_none(), file=file, next_step="see `prerouter report --help` for what a row holds")
    return reader.report


@dataclass(frozen=True, slots=True)
class _Reader:
    """One reading of a file; `report` is what is counted so far. models: those looked up, None for unknown ones."""

    router: PreRouter
    book: PriceBook
    pricing: Pricing
    report: UsageReport
    skip_bad: bool
    models: dict[str, Model | None] = field(default_factory=dict)

    @classmethod
    def of(cls, file: str, router: PreRouter, skip_bad: bool) -> _Reader:
        book = PriceBook.load(router.taxonomy, router.settings)
        if book is None:
            step = "give each label a `tier` in the taxonomy file"
            raise ConfigError("labels have no tiers, so no route costs anything", where="taxonomy", next_step=step)
        pricing = Pricing(router.policy, router.taxonomy, router.tiers, book.classifier.id)
        made, local = router.local.certificate, router.local.model_folder_id
        certificate = made.to_json() if made else None
        report = UsageReport(file, local, certificate, pricing.top, pricing.first, _assumed(book))
        return cls(router, book, pricing, report, skip_bad)

    def rows(self) -> Iterator[tuple[UsageRow, Request]]:
        """The rows that can be routed, with what is routed. Raises DataError for the first that cannot."""
        for row in read_usage(self.report.file):
            found = self._rendered(row) if isinstance(row, UsageRow) else row
            if not isinstance(found, DataError):
                yield found
            elif self.skip_bad:
                self.report.skipped += 1
                self.report.errors += [str(found)][: SHOWN_ERRORS - len(self.report.errors)]
            else:
                raise found

    def price(self, chunk: Sequence[tuple[UsageRow, Request]]) -> None:
        """Count these rows."""
        known = [(row, request, call) for row, request in chunk if (call := self._answered(row, request))]
        requests = [request for _, request, _ in known]
        strict = self.router.settings.router.priority == "quality"
        scores = self.router.local.score_many(requests, strict=strict)
        questions = self.book.questions(requests).tolist() if requests else []
        for (row, _, call), scored, question in zip(known, scores, questions, strict=True):
            self._count(row, call, scored, Decimal(question))

    def why_none(self) -> str:
        """Why nothing could be priced."""
        unpriced = ", ".join(map(repr, list(self.report.unpriced)[:5]))
        return f"no row names a model with known prices (found {unpriced})" if unpriced else "no usable rows"

    def _rendered(self, row: UsageRow) -> tuple[UsageRow, Request] | DataError:
        try:
            return row, text.render(row.body, version=self.router.local.text_version)
        except InvalidRequest as error:
            what = f"{error.what} ({error.where})" if error.where else error.what
            return DataError(what, file=self.report.file, line=row.line, next_step="mend the row or pass --skip-bad")

    def _answered(self, row: UsageRow, request: Request) -> Answered | None:
        model = self._model(row.model)
        if model is None:
            self.report.unpriced[row.model] += 1
            return None
        return Answered(model, row.usage or self._guessed(model.id, request), row.batch, row.us, row.fast)

    def _model(self, name: str) -> Model | None:
        if name not in self.models:
            try:
                self.models[name] = self.router.tiers.model(name)
            except ConfigError:
                self.models[name] = None
        return self.models[name]

    def _guessed(self, model: str, request: Request) -> Usage:
        self.report.estimated += 1
        return self.book.guessed(self.router.tiers.model(model), request)

    def _count(self, row: UsageRow, call: Answered, scores: Scores, question: Decimal) -> None:
        limits, used = self.router.policy.limits(tags=row.tags), call.usage
        pinned = limits.force_model or limits.force_label
        self.report.moved_usd += self.pricing.moved(call, scores, limits)
        how = "pinned" if pinned else f"local {scores.stage}" if scores.decided else scores.reason
        self.report.add(row, how, scores.label, self.pricing.bill(call, scores, question, limits))
        written = used.cache_write_5m_tokens + used.cache_write_1h_tokens
        self.report.prompt_tokens += used.input_tokens + used.cache_read_tokens + written
        self.report.cached_tokens += used.cache_read_tokens


def _assumed(book: PriceBook) -> str:
    return (
        f"list prices of {book.tiers.as_of}; the tokens of the log at every model's prices, converted where tokenizers "
        f"differ; rows without usage: {book.assumptions()}"
    )
