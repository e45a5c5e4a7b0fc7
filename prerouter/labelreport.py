"""What a labelled file shows: shares, noise, confused pairs, boundary examples; and how far it agrees with gold labels.

Rows are read one by one: memory holds counts, a few examples and the gold labels, whatever the size of the file.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from prerouter.agreement import Agreement, Confusion, Interval, Noise, Pattern, agreement, noise_of, pattern_of
from prerouter.errors import DataError, InvalidRequest
from prerouter.examples import body_of, read_bodies
from prerouter.files import expanded
from prerouter.intake import key_of, redacted
from prerouter.progress import Progress
from prerouter.records import Request
from prerouter.settings import load_settings
from prerouter.tables import did_you_mean
from prerouter.taxonomy import Taxonomy
from prerouter.text import render

N_BOUNDARY = 5  # examples on the boundary between labels
N_PAIRS = 5  # confused pairs, and reasons of failure, that are shown
TEXT_CHARS = 160  # shown of an example
BAR_COLUMNS = 40


@dataclass(frozen=True, slots=True)
class Boundary:
    """A request whose label the labeller was least sure of. text: its start, on one line."""

    id: str
    label: str
    confidence: float
    votes: Mapping[str, int]
    text: str


@dataclass(frozen=True, slots=True)
class LabelReport:
    """counts: {label: rows}, every label of the taxonomy. shares: of the weights, in [0, 1], {} without rows.

    labelled_by: {model: rows}. failed: {reason: rows} without an answer. cost_usd: None when unknown.
    """

    rows: int
    counts: Mapping[str, int]
    shares: Mapping[str, float]
    labelled_by: Mapping[str, int]
    noise: Noise
    boundary: tuple[Boundary, ...]
    failed: Mapping[str, int]
    cost_usd: Decimal | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; every confused pair, not only those that are shown."""
        cost = None if self.cost_usd is None else float(self.cost_usd)
        return asdict(self) | {"cost_usd": cost, "noise": self.noise.to_json()}

    def to_text(self, columns: int | None = None) -> str:
        """For the terminal, at most `columns` wide (default: the terminal's)."""
        width = columns or shutil.get_terminal_size().columns
        lines = [*self._picture(width), "", *_facts(self._facts(), width)]
        return "\n".join(line.rstrip() for line in lines)

    def _picture(self, width: int) -> Iterator[str]:
        name_columns = max(map(len, self.counts))
        most = max(self.shares.values(), default=0.0)
        columns = max(10, min(BAR_COLUMNS, width - name_columns - 24))
        for name, n in self.counts.items():
            share = self.shares.get(name, 0.0)
            yield f"{name:{name_columns}}  {_bar(share / most if most else 0, columns)} {share:6.1%}  {n:,}"

    def _facts(self) -> Iterator[tuple[str, str]]:
        weighted = any(
            abs(share * self.rows - self.counts[name]) > 1e-6 * self.rows for name, share in self.shares.items()
        )
        yield (
            "rows",
            f"{self.rows:,}{', the shares weighted' if weighted else ''}; labelled by {_list(self.labelled_by)}",
        )
        if self.noise.disagreement is None:
            yield "noise", "not known: no row has two votes; --votes 3 on a sample shows it"
        else:
            yield "noise", _noise_line(self.noise)
        if self.noise.confused:
            yield "confused", _pairs(self.noise.confused, " / ")
        for example in self.boundary:
            votes = _list(example.votes) if sum(example.votes.values()) > 1 else example.label
            yield "boundary", f"{example.id}: {votes} ({example.confidence:.2f}): {example.text}"
        if self.failed:
            yield (
                "failed",
                f"{sum(self.failed.values()):,} rows: {_list(dict(Counter(self.failed).most_common(N_PAIRS)))}",
            )
        if self.cost_usd is not None:
            yield "cost", f"${self.cost_usd:,.4f}"


@dataclass(frozen=True, slots=True)
class Against:
    """A labelled file compared with gold labels. missing: gold rows that are not in the file.

    under: rows whose label is weaker than the gold one; None when the taxonomy is unordered. Pairs in
    `agreement.confused` are (gold label, label). target: the share of rows that must agree, in (0, 1].
    """

    gold: str
    missing: int
    under: int | None
    agreement: Agreement
    target: float

    @property
    def passed(self) -> bool:
        """Whether enough rows agree; False without a row to compare."""
        return self.agreement.share is not None and self.agreement.share.estimate >= self.target

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"agreement": self.agreement.to_json(), "passed": self.passed}

    def to_text(self, columns: int | None = None) -> str:
        """For the terminal."""
        return "\n".join(_facts(self._facts(), columns or shutil.get_terminal_size().columns))

    def _facts(self) -> Iterator[tuple[str, str]]:
        found = self.agreement
        if found.share is None:
            yield "against", f"{self.gold}: none of its {self.missing:,} rows is in the file"
            return
        missing = f"; {self.missing:,} more are not in the file" if self.missing else ""
        yield "against", f"{self.gold}: {found.n_agree:,} of {found.n_rows:,} rows agree{missing}"
        kappa = f"; Cohen's kappa {_interval(found.kappa)}" if found.kappa else ""
        yield "agreement", f"{_percent(found.share)}{kappa}"
        if self.under is not None:
            yield (
                "weaker",
                f"{self.under:,} rows ({self.under / found.n_rows:.1%}) are labelled weaker than in the gold file",
            )
        if found.confused:
            yield "confused", "gold -> label: " + _pairs(found.confused, " -> ")
        word = "reached" if self.passed else "missed"
        sure = "" if not found.share.lower <= self.target <= found.share.upper else "; too few rows to be sure of it"
        yield "target", f"{self.target:.0%} {word}{sure}"


def survey(
    file: str | Path, taxonomy: Taxonomy, *, errors: str | Path | None = None, cost_usd: Decimal | None = None
) -> LabelReport:
    """The report on a labelled `file`. errors: the file of rows without an answer, if there is one.

    Raises DataError with file and line for a row without a label of the taxonomy.
    """
    seen = _Seen(taxonomy)
    with Progress("reading labels") as progress:
        for line, row in read_bodies(file):
            seen.add(row, str(file), line)
            progress.advance(1)
    total = math.fsum(seen.weights.values())
    return LabelReport(
        rows=seen.counts.total(),
        counts={name: seen.counts[name] for name in taxonomy.names},
        shares={name: seen.weights[name] / total for name in taxonomy.names} if total else {},
        labelled_by=dict(seen.labelled_by.most_common()),
        noise=noise_of(seen.patterns),
        boundary=tuple(example for *_, example in seen.nearest),
        failed=dict(_reasons(errors).most_common()),
        cost_usd=cost_usd,
    )


def compare(file: str | Path, gold: str | Path, taxonomy: Taxonomy, *, target: float) -> Against:
    """Compare a labelled `file` with the labels of `gold`, whose rows hold the request, or else its id.

    Requests are the same when their redacted renders are: a gold file may be redacted or not. Raises DataError for a
    gold row without a label of the taxonomy, or with neither request nor id.
    """
    wanted = _gold(gold, taxonomy)
    pairs: list[tuple[str, str]] = []
    with Progress("comparing") as progress:
        for line, row in read_bodies(file):
            label = label_of(row, taxonomy, str(file), line)
            for key in _keys(row, str(file), line):
                pairs += [(other, label) for other in wanted.pop(key, ())]
            progress.advance(1)
    under = sum(taxonomy.index(label) < taxonomy.index(other) for other, label in pairs) if taxonomy.ordered else None
    return Against(str(gold), sum(map(len, wanted.values())), under, agreement(pairs), target)


def check_gold(gold: str | Path, taxonomy: Taxonomy) -> None:
    """Raises what `compare` would raise about `gold`."""
    _gold(gold, taxonomy)


def taxonomy_named(name: str | None) -> Taxonomy:
    """The taxonomy in this file; None: the workspace's, else the shipped one."""
    settings = load_settings()
    where = expanded(name) if name else settings.resolve(settings.taxonomy) if settings.taxonomy else None
    return Taxonomy.load(where)


def _gold(gold: str | Path, taxonomy: Taxonomy) -> dict[bytes | str, list[str]]:
    """Labels by the key of their request."""
    wanted: dict[bytes | str, list[str]] = {}
    for line, row in read_bodies(gold):
        keys = _keys(row, str(gold), line)
        if not keys:
            what, step = "neither `text`, `messages` nor `id`", "give the request, as in the labelled file"
            raise DataError(what, file=gold, line=line, next_step=step)
        wanted.setdefault(keys[0], []).append(label_of(row, taxonomy, str(gold), line))
    return wanted


def _keys(row: Mapping[str, Any], file: str, line: int) -> list[bytes | str]:
    """What a row may be found by: its request first, its id last."""
    keys: list[bytes | str] = []
    if row.get("text") is not None or row.get("messages") is not None:
        keys.append(key_of(request_of(redacted(row), file, line)))
    return keys + ([str(row["id"])] if row.get("id") not in (None, "") else [])


def request_of(row: Mapping[str, Any], file: object, line: int) -> Request:
    """The request of a row, as its labeller sees it. Raises DataError."""
    try:
        return render(body_of(row, file, line))
    except InvalidRequest as error:
        what = f"{error.what} ({error.where})" if error.where else error.what
        raise DataError(what, file=file, line=line, next_step="mend the row or leave it out") from error


def label_of(row: Mapping[str, Any], taxonomy: Taxonomy, file: object, line: int) -> str:
    """The label of a row, as the taxonomy writes it. Raises DataError."""
    name = row.get("label")
    label = taxonomy.match(name) if isinstance(name, str) else None
    if label is None:
        what = "the row has no label" if name is None else f"{name!r:.80} is not a label of {taxonomy.name!r}"
        step = (
            did_you_mean(name, taxonomy.names)
            if isinstance(name, str)
            else "label it (prerouter label), or leave it out"
        )
        raise DataError(what, file=file, line=line, next_step=step)
    return label


@dataclass(slots=True)
class _Seen:
    """What was counted so far."""

    taxonomy: Taxonomy
    counts: Counter[str] = field(default_factory=Counter)
    weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    labelled_by: Counter[str] = field(default_factory=Counter)
    patterns: Counter[Pattern] = field(default_factory=Counter)
    nearest: list[tuple[float, str, Boundary]] = field(default_factory=list)

    def add(self, row: Mapping[str, Any], file: str, line: int) -> None:
        label = label_of(row, self.taxonomy, file, line)
        self.counts[label] += 1
        self.weights[label] += _number(row.get("weight"), 1.0)
        self.labelled_by[str(row.get("labelled_by") or "unknown")] += 1
        votes = {str(name): n for name, n in _mapping(row.get("votes")).items() if type(n) is int and n > 0}
        self.patterns[pattern_of(votes)] += 1
        confidence = _number(row.get("confidence"), 1.0)
        if confidence < 1 or len(votes) > 1:
            self._keep(Boundary(str(row.get("id", line)), label, confidence, votes, ""), row)

    def _keep(self, example: Boundary, row: Mapping[str, Any]) -> None:
        """Among equally unsure ones the hash chooses, so that they are not all from the start of the file."""
        place = (example.confidence, hashlib.sha256(example.id.encode("utf-8", "surrogatepass")).hexdigest())
        if len(self.nearest) < N_BOUNDARY or place < self.nearest[-1][:2]:
            text = textwrap.shorten(_shown(row), TEXT_CHARS, placeholder=" …")
            self.nearest = sorted([*self.nearest, (*place, replace(example, text=text))], key=lambda n: n[:2])
            del self.nearest[N_BOUNDARY:]


def _shown(row: Mapping[str, Any]) -> str:
    """The request as its labeller saw it, without characters that a terminal would obey."""
    try:
        text = request_of(row, "", 0).text
    except DataError:
        return ""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _number(value: object, missing: float) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return float(value) if right else missing  # type: ignore[arg-type]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _reasons(errors: str | Path | None) -> Counter[str]:
    if errors is None or not Path(errors).is_file():
        return Counter()
    return Counter(str(row.get("error") or "unknown") for _, row in read_bodies(errors))


def _bar(share: float, columns: int) -> str:
    """`share` of `columns` as a bar, to an eighth of a column."""
    eighths = round(share * columns * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()).ljust(columns)


def _facts(facts: Iterable[tuple[str, str]], width: int) -> list[str]:
    """`name  what`, wrapped with the names in a column of their own."""
    lines = []
    for name, what in facts:
        wrapped = textwrap.wrap(what, max(40, width - 12), break_on_hyphens=False) or [""]
        lines += [f"{name if i == 0 else '':10}  {part}" for i, part in enumerate(wrapped)]
    return lines


def _noise_line(found: Noise) -> str:
    assert found.disagreement is not None
    split = f"{found.n_split:,} of {found.n_rows:,} rows with several votes are split"
    kappa = f"; Fleiss' kappa {_interval(found.kappa)}" if found.kappa else ""
    return f"two answers about one request differ in {_percent(found.disagreement)}{kappa}; {split}"


def _percent(found: Interval) -> str:
    return f"{found.estimate:.1%} ({found.confidence:.0%} interval {found.lower:.1%} to {found.upper:.1%})"


def _interval(found: Interval) -> str:
    return f"{found.estimate:.2f} ({found.lower:.2f} to {found.upper:.2f})"


def _pairs(confused: tuple[Confusion, ...], between: str) -> str:
    return ", ".join(f"{pair.first}{between}{pair.second} {pair.n:,}" for pair in confused[:N_PAIRS])


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())
