"""`prerouter.retrain`: the routing log -> a challenger, certified on audited rows -> champion, if it is worth no less.

Nothing is written before the challenger stands, whole, under a name that hangs on the rows it was made of; then come
the links, then the note that these rows were learnt from. Killed anywhere, the same call goes on where that one was.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prerouter import heads, links, logset
from prerouter.certify import Provenance
from prerouter.challenger import Build, like
from prerouter.champion import model_folder, taxonomy_in_force
from prerouter.compare import Comparison
from prerouter.errors import ConfigError
from prerouter.lessons import DAY_S
from prerouter.local import LocalClassifier
from prerouter.logset import Gathered, LogSet
from prerouter.modelfolder import FolderModel
from prerouter.promote import promote
from prerouter.prompt import Prompt
from prerouter.recipe import load_recipe
from prerouter.relearn import learnt_up_to
from prerouter.routelog import RouteLog
from prerouter.settings import Settings, load_settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

STATE = "retrain:last"
PREFIX = "log-"  # of the folders made here; older ones are deleted


@dataclass(frozen=True, slots=True)
class Retrained:
    """What came of a retraining.

    challenger: the model folder's id, folder: where it stands; None where none was made, and after a dry run.
    rows: {origin: labelled rows that were taken}. left: {why not: rows of the log}. promoted: whether it is the
    champion now. refused: whether a challenger was made that is not. why: in one sentence, whatever it was.
    """

    rows: Mapping[str, int]
    left: Mapping[str, int]
    why: str
    challenger: str | None = None
    folder: Path | None = None
    promoted: bool = False
    refused: bool = False
    comparison: Comparison | None = None
    model: FolderModel | None = None
    hints: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The object of CONTRACT.md, and what it rests on."""
        return {
            "challenger": self.challenger,
            "folder": str(self.folder) if self.folder else None,
            "rows": dict(self.rows),
            "left_out": dict(self.left),
            "promoted": self.promoted,
            "why": self.why,
            "comparison": self.comparison.to_json() if self.comparison else None,
            "certificate": self.model.certificate.to_json() if self.model else None,
            "hints": list(self.hints),
            "seconds": round(self.seconds, 3),
        }


def retrain(
    *,
    since_s: float | None = None,
    dry_run: bool = False,
    track: bool = True,
    settings: Settings | None = None,
    log: RouteLog | None = None,
    clock: Callable[[], float] = time.time,
) -> Retrained:
    """Learn from the workspace's routing log and its base labels, and promote what came of it if it is no worse.

    since_s: seconds of the log, counted back from now; None: `retrain.days` of the settings. dry_run: train and
    compare in a temporary folder, change nothing. track: log the challenger to MLflow, if that is installed. log: None
    is the workspace's. No text need be in the log. Too little that is new, or to compare on, is no error: see `why`.

    Raises ConfigError without a workspace and while another retraining runs, DataError for broken base labels or log,
    ModelFolderError, MissingExtraError, UpstreamError.
    """
    heads.check_extra()
    settings, started = settings or load_settings(), time.monotonic()
    if settings.workspace is None:
        raise ConfigError("no workspace to retrain in", where=str(Path.cwd()), next_step="prerouter init")
    with _alone(settings), nullcontext(log) if log else RouteLog.open(settings=settings) as source:
        found = _Job(settings, source, clock(), since_s, dry_run, track).run()
    return replace(found, seconds=time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class _Job:
    """One retraining. now: UTC seconds."""

    settings: Settings
    log: RouteLog
    now: float
    since_s: float | None
    dry_run: bool
    track: bool

    def run(self) -> Retrained:
        """Gather, see whether there is enough that is new, build, compare, promote, note."""
        home = model_folder(None, self.settings)
        parent = LocalClassifier.load(home)
        taxonomy = taxonomy_in_force(None, self.settings, parent, named=True)
        found = self._gathered(parent, taxonomy)
        base, fixed = self._files()
        marks = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in base}
        idle = self._nothing_new(found, marks)
        if idle:
            return Retrained(found.origins, found.left, idle)
        recipe = load_recipe(None, self.settings, {})
        rows = logset.split(
            found,
            parent,
            base,
            fixed,
            recipe,
            self.settings.retrain,
            after=learnt_up_to(parent),
            now=self.now,
            cache=self.settings.state_dir / "embeddings",
        )
        missing = self._missing(rows)
        if missing:
            return Retrained(rows.origins, rows.left, missing)
        words = self.settings.retrain.learn_words
        made = self._judged(
            Build(parent, taxonomy, recipe, rows, self._provenance(parent, found), found.seqs, words), home, fixed
        )
        if not self.dry_run:
            self.log.set_state(STATE, {"at": self.now, "base": marks, "challenger": made.challenger, "why": made.why})
            _tidy(self.settings, made.folder)
        return made

    def _gathered(self, parent: LocalClassifier, taxonomy: Taxonomy) -> Gathered:
        seconds = self.since_s if self.since_s is not None else self.settings.retrain.days * DAY_S
        rows = self.log.rows(self.now - seconds, self.now, lessons=True)
        whose = self._labeller(taxonomy) if taxonomy.askable else None
        return logset.gather(rows, parent, like(parent), whose, taxonomy, self.settings.retrain, self.now)

    def _labeller(self, taxonomy: Taxonomy) -> tuple[str, str]:
        """The model that audits, and its prompt: a certificate speaks of one labeller."""
        model = TierTable.load(self.settings.tiers).model(self.settings.classifier.model)
        return model.id, Prompt.load(taxonomy, model, self.settings.classifier.ask).id

    def _provenance(self, parent: LocalClassifier, found: Gathered) -> Provenance:
        labelled_by, prompt_id = next(iter(found.labellers)) if len(found.labellers) == 1 else (None, None)
        scope, at = (self.settings.workspace or Path()).name, datetime.datetime.fromtimestamp(self.now, datetime.UTC)
        return Provenance(
            labelled_by or "several", prompt_id, scope, parent.text_version, at.isoformat(timespec="seconds")
        )

    def _files(self) -> tuple[list[Path], list[Path]]:
        """Base labels, reviewed ones first, and the rows that are held out for ever."""
        workspace, held = self.settings.workspace or Path(), self.settings.resolve("labels/heldout.jsonl")
        found = {path for pattern in self.settings.retrain.base for path in workspace.glob(pattern)}
        kept = [path for path in found if path != held and not path.name.endswith(".errors.jsonl")]
        return sorted(kept, key=lambda path: (".reviewed." not in path.name, path)), [held] if held.is_file() else []

    def _nothing_new(self, found: Gathered, marks: Mapping[str, str]) -> str | None:
        """Why there is nothing to do, or None."""
        state = self.log.state(STATE)
        last = state.value if state and isinstance(state.value, dict) else {}
        since, needed = float(last.get("at", 0.0)), self.settings.retrain.min_new
        n = found.since(since)
        if n >= needed or (last and last.get("base") != marks):
            return None
        when = f" since {_iso(since)}" if last else ""
        before = f" (what came of it then: {last['why']})" if last.get("why") else ""
        return f"nothing new: {n:,} labelled rows in the log{when}{before}; {needed:,} are waited for"

    def _missing(self, rows: LogSet) -> str | None:
        """Why these rows do not make a model, or None."""
        needed = self.settings.retrain.min_holdout
        if len(rows.holdout) < needed:
            what = "audited rows that the champion has not seen"
            return f"too few to compare on: {len(rows.holdout):,} {what}, {needed:,} are needed"
        if not len(rows.certify) or not len(rows.calibrate):
            return f"too few audited rows: {len(rows.certify):,} to certify on, {len(rows.calibrate):,} to calibrate on"
        if len(np.unique(rows.fit.truth)) < 2:
            return f"too few to learn from: {len(rows.fit.truth):,} rows with fewer than two labels"
        return None

    def _uncertified(self, model: FolderModel) -> str | None:
        """What is missing for a certificate, or None."""
        if model.certificate.valid:
            return None
        needed, rate = model.certificate.needed_rows or 0, self.settings.audit.rate
        there = f"about {needed:,} more audited requests are needed"
        return f"its certificate is not valid; {there}: {needed / rate:,.0f} requests at audit.rate {rate:g}"

    def _judged(self, build: Build, home: Path, fixed: list[Path]) -> Retrained:
        models = (self.settings.workspace or Path()) / "models"
        with tempfile.TemporaryDirectory() if self.dry_run else nullcontext(str(models)) as place:
            folder = Path(place) / f"{PREFIX}{build.digest}"
            model = build.whole(folder) or build.write(folder)
            if self.track and not self.dry_run:
                from prerouter.track import log_training

                log_training(folder, self.settings)
            why = self._uncertified(model) or build.broken(model) or ""
            made = Retrained(build.rows.origins, build.rows.left, why, model=model)
            if not self.dry_run:
                made = replace(made, challenger=model.model_folder_id, folder=folder, refused=True)
            if made.why:
                return made
            found = promote(
                folder,
                against=home,
                comparing=lambda challenger, champion: build.compared(challenger, champion, fixed),
                dry_run=self.dry_run,
                settings=self.settings,
            )
        refused = not found.promoted and not self.dry_run
        return replace(
            made,
            why=found.why,
            promoted=found.promoted,
            refused=refused,
            comparison=found.comparison,
            hints=found.hints,
        )


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Keep another retraining of the workspace out; where the system has no such locks, two may clash."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with (settings.state_dir / "retrain.lock").open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError as error:
            raise ConfigError("another retraining is running", where=file.name, next_step="wait for its end") from error
        yield


def _tidy(settings: Settings, newest: Path | None) -> None:
    """Delete the oldest folders of earlier retrainings, but neither champion nor previous, nor the newest."""
    models = (settings.workspace or Path()) / "models"
    found = [path for path in models.glob(f"{PREFIX}*") if (path / "model.json").is_file() and path != newest]
    idle = [path for path in found if not links.role(path)]
    for path in sorted(idle, key=lambda path: path.stat().st_mtime, reverse=True)[settings.retrain.keep - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _iso(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
