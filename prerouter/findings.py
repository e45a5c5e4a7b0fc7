"""What a training has to say about its labels: suspects, ceiling, health; from models that did not see the row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter import certify, quality, stages
from prerouter.examples import read_bodies
from prerouter.files import open_output
from prerouter.modelfolder import Stage
from prerouter.quality import Ceiling, Suspect
from prerouter.recipe import Recipe
from prerouter.settings import Settings
from prerouter.stages import Learnt
from prerouter.trainset import Table, TrainSet


@dataclass(frozen=True, slots=True)
class Findings:
    """suspects: the most doubtful first. file: where they are listed with their requests, None when there are none.

    ceiling: None when nothing shows how noisy the labels are. health: what is wrong with the taxonomy, a line each.
    """

    suspects: tuple[Suspect, ...]
    file: Path | None
    ceiling: Ceiling | None
    health: tuple[str, ...]

    def ceiling_json(self) -> dict[str, Any] | None:
        """As a JSON object."""
        return asdict(self.ceiling) if self.ceiling else None

    def to_json(self) -> dict[str, Any]:
        """Keys of `train --json`."""
        return {
            "suspects": len(self.suspects),
            "suspects_file": str(self.file) if self.file else None,
            "ceiling": self.ceiling_json(),
            "health": list(self.health),
        }


def find(
    rows: TrainSet, closed: Sequence[Stage], learnt: Sequence[Learnt], recipe: Recipe, settings: Settings, out: Path
) -> Findings:
    """Judge the labels by the last stage. Suspects go to the state folder, under the name of `out`."""
    table, probabilities = _out_of_fold(rows, closed[-1], learnt[-1], recipe)
    suspects = quality.suspects(table.examples, table.truth, probabilities, rows.taxonomy.names)
    file = settings.state_dir / "suspects" / f"{out.name}.jsonl"
    if suspects:
        _list(suspects, file)
    every = [example for part in rows.parts.values() for example in part.examples]
    labels = np.concatenate([part.known.truth for part in rows.parts.values()])
    health = quality.health(rows.taxonomy, table.truth, probabilities, labels)
    return Findings(tuple(suspects), file if suspects else None, quality.ceiling(every), tuple(health))


def _out_of_fold(rows: TrainSet, stage: Stage, learnt: Learnt, recipe: Recipe) -> tuple[Table, NDArray[np.float64]]:
    """Labelled rows, with probabilities from heads that did not learn from them: those of the search, and the rest."""
    tables, found = [], []
    for part in ("calibrate", "certify"):
        known = rows.parts[part].known
        tables.append(known)
        found.append(certify.softmax(stages.logits(learnt, known) / stage.temperature))
    if learnt.search and learnt.search.logits is not None:
        searched = stages.sample(rows.compared.known, recipe.cv_rows, recipe.seed)
        temperature = certify.fit_temperature(learnt.search.logits, searched.truth)
        tables.append(searched)
        found.append(certify.softmax(learnt.search.logits / temperature))
    examples = [example for table in tables for example in table.examples]
    groups = [group for table in tables for group in table.groups]
    return Table(examples, np.concatenate([table.truth for table in tables]), groups), np.concatenate(found)


def _list(suspects: Sequence[Suspect], file: Path) -> None:
    """Each suspect with the row it is about, as it stands in its file, for `prerouter review`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = dict(_rows({(suspect.file, suspect.line) for suspect in suspects}))
    with open_output(str(file)) as out:
        for suspect in suspects:
            row = rows.get((suspect.file, suspect.line), {})
            doubt = {"suggested": suspect.suggested, "probability": suspect.probability, "own": suspect.own}
            place = {"file": suspect.file, "line": suspect.line}
            print(json.dumps({"id": suspect.id, **row, "suspect": doubt | place}, ensure_ascii=False), file=out)


def _rows(places: set[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], dict[str, Any]]]:
    for file in {name for name, _ in places if name != "-"}:  # standard input cannot be read again
        for line, row in read_bodies(file):
            if (file, line) in places:
                yield (file, line), row
