"""`prerouter evaluate`: the figures of a model folder on labelled requests that it did not learn from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prerouter import figures, overlap, report_html
from prerouter.certify import lower_bound
from prerouter.champion import model_folder
from prerouter.costs import PriceBook
from prerouter.errors import DataError
from prerouter.examples import Example, read_examples
from prerouter.figures import Figures, Seen
from prerouter.local import LocalClassifier
from prerouter.settings import Settings, load_settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

State = Literal["confirmed", "unconfirmed", "broken"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out. `files`: those that were read.

    n_known: rows that the model or its encoder learnt from; None when its folder does not say.
    state: what the rows say of the certificate: "broken" when more of their local decisions are wrong than it allows,
        at its own confidence; "confirmed" when not; "unconfirmed" without a valid certificate and when its labeller did
        not label these rows, for then its bound says nothing about them.
    assumptions: behind the dollars; "" where there are none.
    """

    model_folder_id: str
    files: tuple[str, ...]
    figures: Figures
    n_known: int | None
    state: State
    assumptions: str

    def to_json(self) -> dict[str, Any]:
        """The object of CONTRACT.md."""
        out = {"model_folder_id": self.model_folder_id, "files": list(self.files), "known_rows": self.n_known}
        return self.figures.to_json() | out | {"state": self.state, "cost_assumptions": self.assumptions or None}

    @property
    def valid(self) -> bool:
        """Whether the certificate is valid, and not refuted by these rows."""
        made = self.figures.certificate
        return made is not None and made.valid and self.state != "broken"


def evaluate(
    folder: str | Path,
    files: str | Path | Sequence[str | Path],
    *,
    novel_label: str | None = None,
    allow_overlap: bool = False,
    html: str | Path | None = None,
    settings: Settings | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure the model in `folder` (or of a registry, see `PreRouter.load`) on the labelled requests in `files`.

    novel_label: label of rows that belong to no class; None: what the model was trained with. html: where to write a
    report with charts. seed: of the draws behind the intervals.
    Raises DataError for rows that are broken, of unknown labels or (without `allow_overlap`) in the training data, and
    ModelFolderError, ConfigError.
    """
    settings = settings or load_settings()
    paths = [files] if isinstance(files, str | Path) else list(files)
    local = LocalClassifier.load(model_folder(folder, settings))
    taxonomy, training = local.model.taxonomy, local.model.training
    novel_label = novel_label or training.get("novel_label")
    rows = read_examples(paths, taxonomy, text_version=local.text_version, novel_label=novel_label)
    _check_some(rows, paths)
    n_known = _check_overlap(rows, overlap.of_model(training), allow_overlap)
    book, requests = PriceBook.load(taxonomy, settings), [row.request for row in rows]
    seen = _look(local, rows)
    bills = figures.bills(seen, requests, book)
    found = Evaluation(
        model_folder_id=local.model_folder_id,
        files=tuple(map(str, paths)),
        figures=figures.summarise(seen, local, bills, seed=seed),
        n_known=n_known,
        state=_state(local, rows, seen),
        assumptions=book.assumptions() if bills and book else "",
    )
    if html is not None:
        about = found.assumptions
        report_html.write(Path(html), found.figures, local, seen, requests, sources=found.files, assumptions=about)
    return found


def run_evaluate(options: argparse.Namespace) -> int:
    """Exit code of `prerouter evaluate`."""
    found = evaluate(
        options.model,
        options.file,
        novel_label=options.novel_label,
        allow_overlap=options.allow_overlap,
        html=options.html,
        seed=options.seed,
    )
    print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) if options.json else to_text(found))
    _hints(found, options)
    return 1 if options.require_valid and not found.valid else 0


def to_text(found: Evaluation) -> str:
    """A page for people."""
    f = found.figures
    novel = f", and {f.n_novel:,} of no class" if f.n_novel else ""
    lines = [f"{found.model_folder_id}: gate {f.gate}, {f.n:,} labelled request{'s' * (f.n != 1)}{novel}", ""]
    lines += [f"  {name.replace('_', ' '):22} {shown}" for name, shown in shares(f).items()]
    if f.cost:
        lines += ["", "US dollars per 1,000 requests, and the share sent to at least the tier that its label needs"]
        lines += [f"  {name:22} {usd:10.4f}  {f.enough[name]:8.1%}" for name, usd in f.cost.items()]
        lines += [f"  ({found.assumptions})"]
    return "\n".join(lines)


def shares(f: Figures) -> dict[str, str]:
    """Name -> `12.3 % (10.0 to 15.1)` of the figures that there are."""
    names = (*figures.SHARES, "ece", "auroc_novel")
    values = {name: getattr(f, name) for name in names}
    return {name: _shown(value, f.intervals.get(name)) for name, value in values.items() if value is not None}


def _shown(value: float, interval: figures.Interval | None) -> str:
    between = f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})" if interval else ""
    return f"{value:7.1%}{between}"


def _check_some(rows: Sequence[Example], paths: Sequence[str | Path]) -> None:
    if not any(row.label for row in rows):
        raise DataError("no labelled rows", file=", ".join(map(str, paths)), next_step="label some: prerouter label")


def _look(local: LocalClassifier, rows: Sequence[Example]) -> Seen:
    truth = [figures.NOVEL if row.label is None else local.model.taxonomy.index(row.label) for row in rows]
    groups = [f"group {row.group}" if row.group else f"row {i}" for i, row in enumerate(rows)]
    return figures.look(local, [row.request for row in rows], truth, groups)


def _check_overlap(rows: Sequence[Example], remembered: str | None, allowed: bool) -> int | None:
    """How many rows the model learnt from. Raises DataError unless that is none, or allowed."""
    if remembered is None:
        return None
    found = overlap.known([row.request.text for row in rows], remembered)
    if found and not allowed:
        first = rows[found[0]]
        what = f"{len(found):,} of {len(rows):,} rows are in the training data, this one first"
        step = "measure on rows that were not trained on, or pass --allow-overlap"
        raise DataError(what, file=first.file, line=first.line, next_step=step)
    return len(found)


def _state(local: LocalClassifier, rows: Sequence[Example], seen: Seen) -> State:
    made = local.certificate
    same = [(row.labelled_by, row.prompt_id) == (made.labelled_by, made.prompt_id) for row in rows]
    if not made.valid or not any(same):
        return "unconfirmed"
    return "broken" if _refuted(local, seen, same) else "confirmed"


def _refuted(local: LocalClassifier, seen: Seen, rows: NDArray[Any] | Sequence[bool]) -> bool:
    """Whether the decisions on `rows` break the certificate's contract, at its confidence."""
    made, counts = local.certificate, seen.counted()
    n = {name: int((counts[name] & rows).sum()) for name in ("local", "wrong", "under")}
    limits = [(n["wrong"], made.max_disagreement)]
    limits += [(n["under"], made.max_under)] if made.max_under is not None else []
    return any(lower_bound(k, n["local"], made.confidence) > limit for k, limit in limits)


def _hints(found: Evaluation, options: argparse.Namespace) -> None:
    made = found.figures.certificate
    hints = []
    if found.n_known is None:
        hints.append("the model folder does not say which rows it learnt from; that none is among these is not checked")
    if found.n_known:
        hints.append(f"{found.n_known:,} rows are in the training data: these figures flatter")
    if made and not made.valid:
        hints.append(f"the gate is closed; about {made.needed_rows or 0:,} more labelled requests would open it")
    if found.state == "broken":
        hints.append("these rows, of the same labeller, refute the certificate: do not rely on it for such requests")
    if options.html:
        hints.append(f"report: {options.html}")
    for hint in hints:
        print(f"prerouter: {hint}", file=sys.stderr)
