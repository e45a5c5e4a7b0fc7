"""`prerouter evaluate --fixed`: the same requests every week, and whether any figure fell by more than its interval.

What was found stands in the log's state, under the content of the file: a changed file is another set. A run is held
against the one before it, and against the first one (or the last with `--rebase`), so that neither a jump nor a slow
decline passes unnoticed. With `--ask` the classifier labels some of the rows anew: a labeller that changed shows too.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prerouter.champion import model_folder
from prerouter.errors import ConfigError, DataError, UpstreamError
from prerouter.evaluation import Evaluation, evaluate
from prerouter.examples import Example, read_examples
from prerouter.figures import SHARES
from prerouter.files import expanded
from prerouter.pairs import between
from prerouter.progress import Progress
from prerouter.reportview import Section, count, percent, to_text
from prerouter.routelog import RouteLog
from prerouter.router import PreRouter
from prerouter.settings import Settings, load_settings
from prerouter.shadow import patient

HELD_OUT = "labels/heldout.jsonl"  # of a workspace, when no file is named
LESS_IS_BETTER = {"disagreement", "under_routing", "over_routing", "ece", "novel_coverage"}
LESS_IS_BETTER |= {"joint_disagreement", "joint_under_routing"}
AGREEMENT = "labeller_agreement"
KEPT = 104  # runs: two years of weeks
CALLS = 8  # at a time


@dataclass(frozen=True, slots=True)
class Watched:
    """A figure in [0, 1] and its interval; the same of the last and of the first run, None where they had none.

    fell: against which of them it is worse than their interval allows: "last", "reference".
    """

    value: float
    lower: float
    upper: float
    last: float | None
    reference: float | None
    fell: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FixedRun:
    """What a run came to. set_id: 12 hex characters of the file's content. runs: with this one. asked: rows labelled
    anew, for `cost_usd`."""

    file: str
    set_id: str
    model_folder_id: str
    n: int
    at: str
    runs: int
    figures: Mapping[str, Watched]
    asked: int
    cost_usd: float

    @property
    def fell(self) -> list[str]:
        """The figures that fell."""
        return [name for name, watched in self.figures.items() if watched.fell]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"fell": self.fell}


def run_fixed(options: argparse.Namespace) -> int:
    """Exit code of `prerouter evaluate --fixed`: 1 when a figure fell."""
    settings = load_settings()
    path = _file(options.file, settings)
    with RouteLog.open(settings=settings) as log:
        found = evaluate_fixed(
            path,
            log,
            settings,
            model=options.model,
            ask=options.ask,
            rebase=options.rebase,
            allow_overlap=options.allow_overlap,
            seed=options.seed,
        )
    print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False) if options.json else _text(found))
    for name in found.fell:
        print(f"prerouter: {name.replace('_', ' ')} fell by more than its interval", file=sys.stderr)
    return 1 if found.fell else 0


def evaluate_fixed(
    path: Path,
    log: RouteLog,
    settings: Settings,
    *,
    model: str | None = None,
    ask: int = 0,
    rebase: bool = False,
    allow_overlap: bool = False,
    seed: int = 0,
) -> FixedRun:
    """Measure, hold against earlier runs, and remember. ask: rows that the classifier labels anew.

    Raises DataError, ConfigError, ModelFolderError; UpstreamError when the classifier answers nothing, or the log
    cannot be read.
    """
    set_id, folder = _content(path), model_folder(model, settings)
    measured = evaluate(folder, path, allow_overlap=allow_overlap, settings=settings, seed=seed)
    figures = _measured(measured)
    asked, agreed, usd = _asked(path, settings, folder, ask, seed) if ask else (0, 0, 0.0)
    if asked:
        figures[AGREEMENT] = [agreed / asked, *between(agreed, asked)]
    at = datetime.datetime.fromtimestamp(time.time(), datetime.UTC).isoformat(timespec="seconds")
    this = {"at": at, "model_folder_id": measured.model_folder_id, "figures": figures}
    reference, earlier = _remembered(log, f"fixed:{set_id}", this, rebase)
    last = earlier[-1]["figures"] if earlier else {}
    return FixedRun(
        file=str(path),
        set_id=set_id,
        model_folder_id=measured.model_folder_id,
        n=measured.figures.n,
        at=at,
        runs=len(earlier) + 1,
        figures={name: _watched(name, found, last, reference["figures"]) for name, found in figures.items()},
        asked=asked,
        cost_usd=round(usd, 9),
    )


def _remembered(
    log: RouteLog, key: str, this: dict[str, Any], rebase: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Add a run to the state: the run that all are held against, and those before this one."""
    state = log.state(key)
    known = state.value if state and isinstance(state.value, dict) else {}
    earlier = [run for run in known.get("runs", []) if isinstance(run, dict) and "figures" in run]
    reference: dict[str, Any] = this if rebase or not known.get("reference") else known["reference"]
    log.set_state(key, {"reference": reference, "runs": [*earlier, this][-KEPT:]})
    return reference, earlier


def _file(named: str | None, settings: Settings) -> Path:
    if named:
        return expanded(named)
    if settings.workspace is None:
        step = "name a file of labelled requests: prerouter evaluate --fixed DIR FILE"
        raise ConfigError("no workspace whose held-out rows are the fixed set", where=str(Path.cwd()), next_step=step)
    return settings.resolve(HELD_OUT)


def _content(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror}", file=path, next_step="check the path") from error


def _measured(found: Evaluation) -> dict[str, list[float]]:
    """{figure: [value, lower, upper]}."""
    values = {name: getattr(found.figures, name) for name in (*SHARES, "ece", "auroc_novel")}
    intervals = found.figures.intervals
    return {name: [value, *intervals.get(name, (value, value))] for name, value in values.items() if value is not None}


def _watched(name: str, found: Sequence[float], last: Mapping[str, Any], reference: Mapping[str, Any]) -> Watched:
    value, lower, upper = found
    before = {"last": last.get(name), "reference": reference.get(name)}
    fell = tuple(which for which, old in before.items() if old and _worse(name, value, old))
    values = {which: old[0] if old else None for which, old in before.items()}
    return Watched(value, lower, upper, values["last"], values["reference"], fell)


def _worse(name: str, value: float, old: Sequence[float]) -> bool:
    """Whether a value is on the bad side of an earlier one's interval."""
    return value > old[2] if name in LESS_IS_BETTER else value < old[1]


def _asked(path: Path, settings: Settings, folder: Path, n: int, seed: int) -> tuple[int, int, float]:
    """Rows that the classifier answered about, those with their row's label, and US dollars."""
    with PreRouter.load(folder, settings=patient(settings)) as router:
        novel = router.local.model.training.get("novel_label")
        rows = [
            row
            for row in read_examples([path], router.taxonomy, text_version=router.local.text_version, novel_label=novel)
            if row.label
        ]
        drawn = random.Random(seed).sample(rows, min(n, len(rows)))
        with Progress("asking", total=len(drawn)) as progress, ThreadPoolExecutor(CALLS) as pool:

            def one(row: Example) -> tuple[str | None, float, str]:
                verdict = router.classifier.classify(row.request)
                progress.advance(1)
                return verdict.label, float(verdict.cost_usd), verdict.reason

            said = list(pool.map(one, drawn))
    answered = [label == row.label for (label, _, _), row in zip(said, drawn, strict=True) if label]
    if not answered:
        reasons = ", ".join(sorted({reason for _, _, reason in said}))
        raise UpstreamError(f"the classifier labelled none of {len(drawn)} rows: {reasons}", next_step="check the key")
    return len(answered), sum(answered), sum(usd for _, usd, _ in said)


def _text(found: FixedRun) -> str:
    cells = [
        (
            name.replace("_", " "),
            percent(w.value),
            f"({100 * w.lower:.1f} to {100 * w.upper:.1f})",
            percent(w.last),
            percent(w.reference),
            "fell" if w.fell else "",
        )
        for name, w in found.figures.items()
    ]
    asked = f"; {count(found.asked)} rows labelled anew for {found.cost_usd:.4f} USD" if found.asked else ""
    note = f"run {found.runs} on {Path(found.file).name} ({found.set_id}), {found.n:,} labelled requests{asked}"
    header = ("figure", "now", "95 % interval", "last run", "reference", "")
    return to_text(f"{found.model_folder_id}: fixed set", [Section("Figures", note, header, cells)])
