"""`prerouter track`: a finished model folder as an MLflow run and a registered model version. `train` does it too.

All that is logged is read from the folder, so a training whose tracker was down can be logged later.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prerouter import modelfolder, tracker
from prerouter.errors import MissingExtraError, UpstreamError
from prerouter.files import expanded
from prerouter.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Where a training went. already: it had been logged before. store: the tracking URI, without credentials."""

    run_id: str
    experiment_id: str
    model: str
    version: str
    already: bool
    store: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def track(folder: Path, settings: Settings, *, files: Sequence[Path] = ()) -> RunInfo:
    """Log a model folder and register it as a version of `settings.track.model`, once.

    files: further artefacts, such as a report; they are added to a run that is there already, too.
    Raises ModelFolderError, MissingExtraError without MLflow, UpstreamError when it refused or took too long.
    """
    folder = Path(folder).resolve()
    modelfolder.load(folder)  # what is wrong with the folder is said here, not in MLflow's words
    found = tracker.ask(
        "log",
        settings,
        folder=str(folder),
        experiment=settings.track.experiment,
        name=settings.track.model,
        files=[str(Path(file).resolve()) for file in files],
    )
    return RunInfo(**found, store=tracker.without_secrets(tracker.store(settings)))


def log_training(folder: Path, settings: Settings, *, files: Sequence[Path] = ()) -> RunInfo | None:
    """As `track`, for the end of a training: what keeps it from being logged is one line, and None."""
    try:
        return track(folder, settings, files=files)
    except (UpstreamError, MissingExtraError) as error:
        print(f"prerouter: not logged to MLflow: {error}; later: prerouter track {folder}", file=sys.stderr)
        return None


def run_track(options: argparse.Namespace) -> int:
    """Exit code of `prerouter track`."""
    found = track(expanded(options.dir), load_settings(), files=[expanded(name) for name in options.file])
    if options.json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        print(f"models:/{found.model}/{found.version}" + (" (logged before)" if found.already else ""))
    look = f"mlflow ui --backend-store-uri {found.store}" if found.store.startswith("sqlite:") else found.store
    print(f"prerouter: run {found.run_id}; to look: {look}", file=sys.stderr)
    return 0
