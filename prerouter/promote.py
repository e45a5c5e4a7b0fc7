"""`prerouter promote` and `rollback`: which model folder the workspace's router loads."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prerouter import links, tracker
from prerouter.champion import model_folder
from prerouter.compare import Comparison, comparable, compare
from prerouter.errors import ConfigError, PreRouterError
from prerouter.files import expanded, shipped
from prerouter.links import CHAMPION, PREVIOUS
from prerouter.local import LocalClassifier
from prerouter.router import PreRouter
from prerouter.settings import Settings, load_settings

Comparing = Callable[[LocalClassifier, LocalClassifier], Comparison]  # of challenger and champion


@dataclass(frozen=True, slots=True)
class Promotion:
    """What came of it. champion, previous: model folder ids after it; None where there is none.

    comparison: None when nothing was compared. hints: what else the user should know, one line each.
    """

    promoted: bool
    why: str
    champion: str | None
    previous: str | None
    comparison: Comparison | None = None
    hints: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "promoted": self.promoted,
            "why": self.why,
            "champion": self.champion,
            "previous": self.previous,
            "comparison": self.comparison.to_json() if self.comparison else None,
            "hints": list(self.hints),
        }


def promote(
    source: str | Path,
    *,
    against: str | Path | None = None,
    data: str | Path | None = None,
    force: bool = False,
    comparing: Comparing | None = None,
    dry_run: bool = False,
    settings: Settings | None = None,
) -> Promotion:
    """Make a model folder the champion if its certificate is valid and it is worth no less than the one in use.

    source, against: folders or models:/ names; against: None is the champion, else the shipped model where it has the
    same labels. data: labelled requests that neither learnt from; None: labels/heldout.jsonl of the workspace. Without
    a champion and without data the certificate decides alone. force: neither is asked. comparing: compares challenger
    and champion in place of `data`. dry_run: say what would be done and do nothing. A folder outside the workspace's
    models/ is copied into it.
    Raises ConfigError, ModelFolderError, DataError, UpstreamError.
    """
    settings = settings or load_settings()
    models = _models(settings)
    folder = model_folder(source, settings)
    challenger = _servable(folder, settings)
    champion, previous = links.linked(models, CHAMPION), links.linked(models, PREVIOUS)
    if champion and _id(champion) == challenger.model_folder_id:
        return _done(settings, "it is the champion already")
    comparison = None
    if not force:
        refused, comparison = _judged(challenger, against, data, champion, settings, comparing)
        if refused:
            return Promotion(False, refused, _id(champion), _id(previous), comparison, tuple(_overlap(comparison)))
    why = _why(challenger, comparison, forced=force)
    if dry_run:
        why = f"would be promoted: {why}"
        return Promotion(False, why, _id(champion), _id(previous), comparison, tuple(_overlap(comparison)))
    _switch(models, _inside(folder, challenger.model_folder_id, models), champion)
    return _done(settings, why, comparison)


def rollback(to: str | None = None, *, settings: Settings | None = None) -> Promotion:
    """Make the previous champion, or the folder in models/ with the model folder id `to`, the champion again.

    Raises ConfigError when there is none, ModelFolderError when it cannot be loaded.
    """
    settings = settings or load_settings()
    models = _models(settings)
    champion = links.linked(models, CHAMPION)
    folder = _with_id(models, to) if to else links.linked(models, PREVIOUS)
    if folder is None:
        step = "--to ID names another folder in models/; without models/champion the shipped model is used"
        raise ConfigError("nothing to go back to", where=str(models / PREVIOUS), next_step=step)
    _servable(folder, settings)
    _switch(models, folder, champion)
    return _done(settings, f"rolled back to {folder.name}")


def run_promote(options: argparse.Namespace) -> int:
    """Exit code of `prerouter promote`: 1 when it was refused."""
    return _report(promote(options.dir, against=options.against, data=options.data, force=options.force), options.json)


def run_rollback(options: argparse.Namespace) -> int:
    """Exit code of `prerouter rollback`."""
    return _report(rollback(options.to), options.json)


def _models(settings: Settings) -> Path:
    if settings.workspace is None:
        raise ConfigError("no workspace to have a champion in", where=str(Path.cwd()), next_step="prerouter init")
    (settings.workspace / "models").mkdir(exist_ok=True)
    return (settings.workspace / "models").resolve()


def _servable(folder: Path, settings: Settings) -> LocalClassifier:
    """The classifier in `folder`, every stage of it loaded and probed, as this workspace's router would take it."""
    with PreRouter.load(folder, settings=settings) as router:
        router.local.warm()
        return router.local


def _judged(
    challenger: LocalClassifier,
    against: str | Path | None,
    data: str | Path | None,
    champion: Path | None,
    settings: Settings,
    comparing: Comparing | None,
) -> tuple[str | None, Comparison | None]:
    """Why not, or None; and what was compared."""
    made = challenger.certificate
    if not made.valid:
        return f"its certificate is not valid; about {made.needed_rows or 0:,} more labelled requests are needed", None
    reference = _reference(challenger, against, champion, settings)
    if reference is not None and comparing:
        found = comparing(challenger, reference)
        return (None if found.not_worse else _worse(found)), found
    rows = _data(data, settings)
    if reference is None or (rows is None and champion is None and against is None):
        return None, None
    if rows is None:
        step = "--data FILE with labelled requests that neither model learnt from, or --force"
        raise ConfigError("nothing to compare with the champion on", where="labels/heldout.jsonl", next_step=step)
    found = compare(challenger, reference, [rows])
    return (None if found.not_worse else _worse(found)), found


def _reference(
    challenger: LocalClassifier, against: str | Path | None, champion: Path | None, settings: Settings
) -> LocalClassifier | None:
    """What the challenger must not be worse than."""
    if against is not None:
        return LocalClassifier.load(model_folder(against, settings))
    if champion is not None:
        return LocalClassifier.load(champion)
    in_use = LocalClassifier.load(shipped("models/default"))
    return in_use if comparable(challenger, in_use) else None


def _data(data: str | Path | None, settings: Settings) -> Path | None:
    if data is not None:
        return expanded(data)
    default = settings.resolve("labels/heldout.jsonl")
    return default if default.is_file() else None


def _worse(found: Comparison) -> str:
    return (
        f"it is worth less than {found.champion.model_folder_id}: utility {found.difference:+.3f} "
        f"({found.interval[0]:+.3f} to {found.interval[1]:+.3f}) a request on {found.n:,} rows, "
        f"worse in {found.p_worse:.0%} of draws"
    )


def _why(challenger: LocalClassifier, found: Comparison | None, *, forced: bool) -> str:
    if forced:
        return "forced"
    valid = f"its certificate is valid ({challenger.certificate.scope})"
    if found is None:
        return f"{valid}; compared with nothing"
    side = f"{found.difference:+.3f} ({found.interval[0]:+.3f} to {found.interval[1]:+.3f})"
    return f"{valid}; utility {side} a request against {found.champion.model_folder_id} on {found.n:,} rows"


def _inside(folder: Path, model_folder_id: str, models: Path) -> Path:
    """`folder`, or its copy in `models` where it stands elsewhere: a link out of the workspace breaks too easily."""
    folder = folder.resolve()
    if folder.parent == models:
        return folder
    place = models / model_folder_id
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=models, prefix=".new.") as new:
            shutil.copytree(folder, Path(new) / "folder")
            os.rename(Path(new) / "folder", place)
    LocalClassifier.load(place)
    return place


def _switch(models: Path, folder: Path, champion: Path | None) -> None:
    """Two renames. Ended between them, the champion is as it was, and the same command can be run again."""
    if champion and champion != folder:
        links.point(models, PREVIOUS, champion)
    links.point(models, CHAMPION, folder)


def _with_id(models: Path, wanted: str) -> Path:
    folders = {_id(path): path for path in sorted(models.glob("*/")) if not path.is_symlink()}
    if wanted not in folders:
        known = ", ".join(sorted(filter(None, folders))) or "none"
        raise ConfigError(f"no model folder {wanted!r}", where=str(models), next_step=f"there are: {known}")
    return folders[wanted]


def _id(folder: Path | None) -> str | None:
    """The model folder id, of its bytes as they are now; None when there is no model folder."""
    try:
        return hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()[:12] if folder else None
    except OSError:
        return None


def _done(settings: Settings, why: str, comparison: Comparison | None = None) -> Promotion:
    """The links as they are now, told to the registry too."""
    models = _models(settings)
    ids = {name: _id(links.linked(models, name)) for name in (CHAMPION, PREVIOUS)}
    hints = [*_overlap(comparison), *_unused(settings), *_registered(settings, ids)]
    return Promotion(True, why, ids[CHAMPION], ids[PREVIOUS], comparison, tuple(hints))


def _overlap(found: Comparison | None) -> list[str]:
    if found is None:
        return []
    left_out = f"{found.n_known:,} rows were left out, for one of the two learnt from them"
    unchecked = "a model folder does not say which rows it learnt from; that none is among these is not checked"
    return [left_out] * bool(found.n_known) + [unchecked] * found.unchecked


def _unused(settings: Settings) -> list[str]:
    hint = f"the settings name model = {settings.model!r}, which is loaded instead of the champion; take that line out"
    return [hint] if settings.model else []


def _registered(settings: Settings, ids: dict[str, str | None]) -> list[str]:
    """Set the registry's aliases where there is one; the links are in force whatever comes of it."""
    if not tracker.is_there(settings):
        return []
    aliases = {name: model_folder_id for name, model_folder_id in ids.items() if model_folder_id}
    try:
        found = tracker.ask("set_aliases", settings, name=settings.track.model, aliases=aliases)
    except PreRouterError as error:
        return [f"the registry's aliases are as before: {error}; run the same command again"]
    return [f"{name} is not in the registry; log it with: prerouter track DIR" for name in found["missing"]]


def _report(found: Promotion, as_json: bool) -> int:
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False, allow_nan=False))
    else:
        print(_text(found))
    for hint in found.hints:
        print(f"prerouter: {hint}", file=sys.stderr)
    return 0 if found.promoted else 1


def _text(found: Promotion) -> str:
    verdict = "promoted" if found.promoted else "not promoted"
    lines = [f"{verdict}: {found.why}"]
    lines += [f"champion {found.champion or '(the shipped model)'}, previous {found.previous or '-'}"]
    if found.comparison:
        lines += ["", f"on {found.comparison.n:,} rows    coverage  disagreement  under-routing  utility"]
        lines += [_line(name, getattr(found.comparison, name)) for name in ("challenger", CHAMPION)]
    return "\n".join(lines)


def _line(name: str, side: Any) -> str:
    shares = (side.coverage, side.disagreement, side.under_routing)
    shown = "  ".join("-".rjust(12) if share is None else f"{share:12.1%}" for share in shares)
    return f"  {name:10} {side.model_folder_id} {shown}  {side.utility:+.3f}"
