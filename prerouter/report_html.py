"""The report of `prerouter evaluate --html`: one self-contained page, no script, nothing loaded, no request text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter import page, sweep
from prerouter.certify import Scored, lower_bound, upper_bound
from prerouter.figures import LEVEL, N_BINS, SHARES, Figures, Seen
from prerouter.local import LocalClassifier
from prerouter.modelfolder import Certificate
from prerouter.records import Request
from prerouter.svg import Axis, Chart, Line, Mark

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_MATRIX = 12  # labels of a confusion matrix that one can read; with more, the most confused pairs are listed
N_CURVE, N_GATES, N_PAIRS = 120, 12, 20  # points of the curve, rows of the table of gates, of that of pairs
LEAST = 20  # decisions from which a share of them is drawn: before, the curve is noise
SIDE = (1 + LEVEL) / 2


def write(
    path: Path,
    figures: Figures,
    local: LocalClassifier,
    seen: Seen,
    requests: Sequence[Request],
    *,
    sources: Sequence[str] = (),
    assumptions: str = "",
) -> None:
    """Write the report about `seen`, what `local` says of `requests`, whose figures are `figures`.

    sources: the files that the rows came from, to name them; `path` may not be one. assumptions: behind the dollars.
    """
    known = np.flatnonzero(seen.known)
    rows = sweep.scored(local, [requests[i] for i in known.tolist()], seen.truth[known])
    sections = [
        _head(local, figures, sources),
        _shares(figures),
        *_charts(local, figures, seen, rows),
        _gates(local, rows),
        _costs(figures, assumptions),
        _confusion(local, seen),
        _labels(figures),
        _stages(figures),
    ]
    page.write(path, f"prerouter evaluate: {local.model_folder_id}", sections, sources=sources)


def _head(local: LocalClassifier, figures: Figures, sources: Sequence[str]) -> str:
    novel = f" and {figures.n_novel:,} of no class" if figures.n_novel else ""
    rows = f"{figures.n:,} labelled request{'s' * (figures.n != 1)}{novel}"
    files = escape(", ".join(Path(name).name for name in sources)) or "rows given in code"
    return (
        f"<h1>Model folder {local.model_folder_id}</h1>\n"
        f"<p>{rows} from {files}. Taxonomy {escape(local.model.taxonomy.name)}, "
        f"text version {local.text_version}.</p>\n<p>{_certified(local.certificate)}</p>"
    )


def _certified(made: Certificate) -> str:
    if not made.valid:
        return (
            '<strong class="bad">Gate closed.</strong> Nothing is decided locally; about '
            f"{made.needed_rows or 0:,} more labelled requests would open it."
        )
    under = "" if made.max_under is None else f", at most {made.max_under:.1%} weaker than it says"
    return (
        f'<strong class="good">Gate open.</strong> Certified at {made.confidence:.0%} confidence: of the local '
        f"decisions at most {made.max_disagreement:.1%} differ from {escape(made.labelled_by)}{under}. Shown on "
        f"{made.n_accepted:,} decisions of {made.n_certify:,} requests, scope {escape(made.scope)}, {made.created_at}."
    )


def _shares(f: Figures) -> str:
    named = {name: getattr(f, name) for name in (*SHARES, "ece", "auroc_novel")}
    cells = [
        (name.replace("_", " "), f"{value:.1%}", _between(f.intervals.get(name)))
        for name, value in named.items()
        if value is not None
    ]
    note = (
        "Disagreement, under- and over-routing are shares of local decisions; joint ones, coverage and accuracy of all"
    )
    return f"<h2>Figures</h2>\n<p>{note}.</p>\n" + page.table(("figure", "estimate", f"{LEVEL:.0%} interval"), cells)


def _charts(local: LocalClassifier, figures: Figures, seen: Seen, rows: Scored) -> Iterator[str]:
    yield '<h2>Charts</h2>\n<div class="charts">'
    yield page.figure(_risk_coverage(local, rows), "Risk and coverage", _RISK_NOTE)
    yield page.figure(_reliability(seen), "Reliability", _RELIABILITY_NOTE)
    if figures.cost:
        yield page.figure(_plane(figures), "Cost and quality", _PLANE_NOTE)
    yield "</div>"


_RISK_NOTE = (
    f"Errors among the decisions when the gate lets more pass, with {LEVEL:.0%} intervals; the dot is the gate in use, "
    "dashed lines are the contract."
)
_RELIABILITY_NOTE = (
    "How often the best label is right at each stated confidence; on the diagonal it is as often as stated. Grey: how "
    "many requests have that confidence."
)
_PLANE_NOTE = (
    "Each policy: US dollars per 1,000 requests, and the share sent to at least the tier that its label needs."
)


def _risk_coverage(local: LocalClassifier, rows: Scored) -> Chart:
    points = [point.found for point in sweep.sweep(rows, N_CURVE) if point.found.n_accepted >= LEAST]
    used, made = sweep.in_use(local, rows), local.certificate
    kinds = [("disagreement", "n_disagreement", "blue", made.max_disagreement)]
    kinds += [("under-routing", "n_under", "red", made.max_under)] if made.max_under is not None else []
    lines, marks = [], []
    for name, key, color, limit in kinds:
        counts = [(t.n_accepted / t.n_rows, getattr(t, key), t.n_accepted) for t in points]
        band = [(x, lower_bound(k, n, SIDE), upper_bound(k, n, SIDE)) for x, k, n in counts]
        lines.append(Line(name, [(x, k / n) for x, k, n in counts], color, band=band))
        lines.append(Line("", [(0.0, limit), (1.0, limit)], color, dashed=True))
        if used and used.found.n_accepted:
            found = used.found
            marks.append(Mark((found.n_accepted / found.n_rows, getattr(found, key) / found.n_accepted), "", color))
    top = max([y for line in lines for _, y in line.points] + [0.02])
    return Chart(Axis("decided locally", 0, 1, True), Axis("of these", 0, min(1.2 * top, 1), True), lines, marks)


def _reliability(seen: Seen) -> Chart:
    confidence = seen.confidence[seen.known]
    right = (seen.predicted == seen.truth)[seen.known]
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    sizes = np.bincount(bins, minlength=N_BINS)
    marks = []
    for i in np.flatnonzero(sizes).tolist():
        k, n = int(right[bins == i].sum()), int(sizes[i])
        whisker = (lower_bound(k, n, SIDE), upper_bound(k, n, SIDE))
        marks.append(Mark((float(confidence[bins == i].mean()), k / n), "", "blue", whisker))
    bars = [(i / N_BINS, (i + 1) / N_BINS, 0.4 * n / max(sizes.max(), 1)) for i, n in enumerate(sizes.tolist())]
    diagonal = Line("as often as stated", [(0.0, 0.0), (1.0, 1.0)], "grey", dashed=True)
    return Chart(Axis("stated confidence", 0, 1, True), Axis("right", 0, 1, True), [diagonal], marks, bars)


def _plane(f: Figures) -> Chart:
    colors = {"prerouter": "blue", "oracle": "green"}
    marks = [Mark((usd, f.enough[name]), name, colors.get(name, "red")) for name, usd in f.cost.items()]
    low = min(f.enough.values())
    least = max(0.0, low - 0.15 * max(1 - low, 0.1))
    dollars = Axis("US dollars per 1,000 requests", 0, 1.1 * max(f.cost.values()))
    return Chart(dollars, Axis("tier is enough", least, 1.02, True), marks=marks)


def _gates(local: LocalClassifier, rows: Scored) -> str:
    points = [(point, "") for point in sweep.sweep(rows, N_GATES)]
    named = (("in use", False), ("priority quality", True))
    points += [(p, name) for name, strict in named if (p := sweep.in_use(local, rows, strict=strict))]
    points.sort(key=lambda pair: pair[0].found.n_accepted)
    body = [(_gate_cells(local, point, name), "used" if name else "") for point, name in points]
    under = ("weaker", "share", "at most") if local.ordered else ()
    header = ("gate", "decided", "of all", "differ", "share", "at most", *under)
    note = (
        "Shares of the decisions that each gate lets pass on these rows, with their one-sided upper bound at the "
        f"certificate's {local.certificate.confidence:.0%}. To look at, not to choose by: a gate picked because it "
        "looks best here is worse than it looks."
    )
    return f"<h2>Gates</h2>\n<p>{note}</p>\n" + page.rows(header, body)


def _gate_cells(local: LocalClassifier, point: sweep.GatePoint, name: str) -> list[str]:
    t, made = point.found, local.certificate
    kinds = [(t.n_disagreement, made.max_disagreement)]
    kinds += [(t.n_under, made.max_under or 0.0)] if local.ordered else []
    cells = [name or f"risk {max(point.thresholds):.3f}", f"{t.n_accepted:,}", f"{t.n_accepted / max(t.n_rows, 1):.1%}"]
    for k, limit in kinds:
        bound = upper_bound(k, t.n_accepted, made.confidence)
        css = "good" if bound <= limit else "bad"
        cells += [f"{k:,}", f"{k / max(t.n_accepted, 1):.1%}", f'<span class="{css}">{bound:.1%}</span>']
    return cells


def _costs(f: Figures, assumptions: str) -> str:
    if not f.cost:
        return ""
    cells = [
        (name, f"{usd:.4f}", _dollars(f.intervals.get(f"cost.{name}")), f"{f.enough[name]:.1%}")
        for name, usd in f.cost.items()
    ]
    note = (
        "The label of a row stands for what the classifier would say, so haiku-first and oracle are never wrong here. "
        f"Assumed: {escape(assumptions)}."
    )
    header = ("policy", "USD per 1,000", f"{LEVEL:.0%} interval", "tier is enough")
    return f"<h2>Cost of every policy</h2>\n<p>{note}</p>\n" + page.table(header, cells)


def _confusion(local: LocalClassifier, seen: Seen) -> str:
    names, known = local.taxonomy_names, seen.known
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (seen.truth[known], seen.predicted[known]), 1)
    shown = _matrix(names, counts) if len(names) <= MAX_MATRIX else _pairs(names, counts)
    return f"<h2>Confusion</h2>\n<p>Best label of all labelled requests, decided locally or not.</p>\n{shown}"


def _matrix(names: Sequence[str], counts: NDArray[np.int64]) -> str:
    rows = []
    for name, row in zip(names, counts.tolist(), strict=True):
        total = max(sum(row), 1)
        cells = (
            f'<td style="background:rgba(var(--shade),{0.6 * n / total:.2f})">{n:,} ({n / total:.0%})</td>' for n in row
        )
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    header = "".join(f"<th>{escape(name)}</th>" for name in ("label \\ best", *names))
    return f'<div class="wide"><table><tr>{header}</tr>\n' + "\n".join(rows) + "\n</table></div>"


def _pairs(names: Sequence[str], counts: NDArray[np.int64]) -> str:
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:N_PAIRS].tolist()
    pairs = [(i // len(names), i % len(names)) for i in order]
    cells = [
        (names[a], names[b], f"{off[a, b]:,}", f"{off[a, b] / counts[a].sum():.1%}") for a, b in pairs if off[a, b]
    ]
    return page.table(("label", "taken for", "rows", "of the label's"), cells)


def _labels(f: Figures) -> str:
    keys = ("n", "precision", "recall", "coverage", "disagreement", "under_routing")
    cells = [(name, *(_cell(row[key]) for key in keys)) for name, row in f.per_label.items()]
    return "<h2>Labels</h2>\n" + page.table(("label", *(key.replace("_", " ") for key in keys)), cells)


def _stages(f: Figures) -> str:
    keys = ("n", "coverage", "disagreement", "under_routing")
    cells = [(f"stage {row['stage']}", *(_cell(row[key]) for key in keys)) for row in f.by_stage]
    return "<h2>Stages</h2>\n" + page.table(("", "decided", "of all", "disagreement", "under-routing"), cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.1%}"


def _between(interval: tuple[float, float] | None) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "-"


def _dollars(interval: tuple[float, float] | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else "-"
