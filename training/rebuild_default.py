"""Rebuild the shipped model folder: python training/rebuild_default.py DATA_DIR [--out models/default] [--work DIR]

DATA_DIR/requests must hold train.jsonl, extra.jsonl, authored.jsonl, unlabelled.jsonl and RUBRIC.md. Two stages:
MiniLM fine-tuned on the labels and exported to int8 ONNX; before it, a static encoder distilled from it. Seven
fine-tunings, two for the model and one for each rotation of left-out sources, two at a time: over an hour on two cores,
less with a GPU; needs the extras `train` and `transformer`. With --work, what was learnt stays in DIR and a second run
goes on from there. What is learnt is special to this model; all that follows is `prerouter train`'s own code.

Parts (`rows.split`): `fit` for the weights, with written.jsonl; `calibrate` for temperatures, guards, path and the
choice of the contract; `certify` for the walk, once. Figures are measured on the certify rows, from which nothing was
learnt but how far along its path the gate goes.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import default_card
import gates
import measures
import numpy as np
import static_stage
import transformer_stage
from measures import Opened
from plan import SEED, Plan
from rows import WRITTEN, Rows, joined, labelled, read_rows, read_unlabelled, split

from prerouter import figures, modelfolder, overlap, reference, stages, text
from prerouter.certify import Contract, Part, Provenance
from prerouter.costs import PriceBook
from prerouter.errors import DataError, PreRouterError
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel, Stage
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy
from prerouter.training import probes

LABELLER = "a Claude model"  # which one labelled the shipped rows is not recorded with them


@dataclass(frozen=True, slots=True)
class Turn:
    """One training, in `work`/`name`: without one of the plan's shares of the sources, or with all (number None)."""

    data: Path
    work: Path
    plan: Plan
    number: int | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return "all" if self.number is None else f"without-{self.number}"

    @property
    def cache(self) -> Path:
        """Where features are kept."""
        return self.work / "embeddings"

    def away(self, rows: Rows) -> np.ndarray:
        """(n_rows,) whether the row's source is left out."""
        if self.number is None:
            return np.zeros(len(rows.truth), bool)
        names = sorted(set(rows.source.tolist()) - {"written", "authored"})
        return np.isin(rows.source, names[self.number :: self.plan.rotations])


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a turn. rows: all; parts, away: those of known and of left-out sources; stages: without gates."""

    turn: Turn
    rows: Rows
    parts: Mapping[Part, Rows]
    away: Rows
    stages: tuple[Stage, ...]

    def opened(self, contract: Contract, provenance: Provenance) -> Opened:
        """With gates and certificate: the certify rows are walked."""
        learnt = gates.learnt(self.stages, self.turn.cache)
        certified, found = stages.certified(self.stages, learnt, self.parts, contract, provenance, gates.REACH)
        model = FolderModel(Taxonomy.load(), text.TEXT_VERSION, certified, found.certificate, ())
        local = LocalClassifier(model, [each.encoder for each in learnt])
        return Opened(local, learnt, self.parts["certify"], self.away)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build, print where it is."""
    parser = argparse.ArgumentParser(description="Rebuild the shipped model folder.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds requests/*.jsonl")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models" / "default")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep what was learnt here, and go on from it")
    options = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() if options.work is None else nullcontext(options.work) as work:
            model = build(options.data, options.out, Path(work))
    except PreRouterError as error:
        print(f"rebuild_default: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("rebuild_default: interrupted; pass --work DIR to keep what was learnt", file=sys.stderr)
        return 130
    print(f"{options.out}: {model.model_folder_id}, gate {'open' if model.certificate.valid else 'closed'}")
    return 0


def build(data: Path, out: Path, work: Path, plan: Plan | None = None) -> FolderModel:
    """Train on DATA_DIR and write the model folder `out`."""
    plan, prompt_id = plan or Plan(), rubric_id(data / "requests")
    turns = [Turn(data, work, plan), *(Turn(data, work, plan, i) for i in range(plan.rotations))]
    whole, *rotations = outcomes(turns, plan.workers)
    contract, power = gates.choose_contract(whole.stages, gates.learnt(whole.stages, whole.turn.cache), whole.parts)
    say(f"at most {contract.max_under:.1%} under-routing, {contract.max_disagreement:.1%} disagreement")
    provenance = Provenance(LABELLER, prompt_id, "shipped data", text.TEXT_VERSION, now())
    one = whole.opened(contract, provenance)
    model = replace(
        one.local.model,
        training=training_record(whole) | remembered(one, whole.parts, contract),
        figures=measured(one)
        | {"contract_choice": power, "ceiling": measures.ceiling(whole.rows)}
        | {"left_out_sources": measures.unseen([each.opened(contract, provenance) for each in rotations])},
        probes=probes(one.local),
        versions=modelfolder.versions("onnxruntime", "tokenizers", "safetensors", "torch", "sentence-transformers"),
    )
    modelfolder.save(out, model, default_card.card(model))
    local = LocalClassifier.load(out)  # as a user would: hashes and probes are checked, the second stage's by warm
    local.warm()
    return local.model


def outcomes(turns: Sequence[Turn], workers: int) -> list[Outcome]:
    """Of each turn, in so many processes; in this one where it is one."""
    if workers == 1:
        return list(map(outcome, turns))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(outcome, turns))


def outcome(turn: Turn) -> Outcome:
    """Learn, or read what was learnt."""
    import torch

    torch.set_num_threads(1)  # of each process
    taxonomy, plan, folder = Taxonomy.load(), turn.plan, turn.work / turn.name
    rows, written = (read_rows(paths, taxonomy) for paths in (labelled(turn.data), [WRITTEN]))
    away, known = turn.away(rows), set(rows.groups)
    # The guard's centroids are those of every row that was fitted, so the written ones stand in `fit` too.
    written = written.take(np.array([i for i, group in enumerate(written.groups) if group not in known]))
    parts = {part: rows.take(at) for part, at in split(rows, ~away).items()}
    parts["fit"] = joined(parts["fit"], written)
    say(f"{turn.name}: " + ", ".join(f"{part} {len(table.truth):,} rows" for part, table in parts.items()))
    runs = plan.runs if turn.number is None else plan.runs[-1:]
    second = transformer_stage.learn(parts["fit"], len(taxonomy.names), folder, turn.cache, plan, runs)
    unlabelled = read_unlabelled(turn.data, without=set(rows.source[away].tolist()))
    first = static_stage.learn(parts["fit"], parts["calibrate"], unlabelled, second, folder, turn.cache, plan)
    closed = gates.closed_stages((first, second), parts)
    return Outcome(turn, joined(rows, written), parts, rows.take(np.flatnonzero(away)), closed)


def measured(one: Opened) -> dict[str, Any]:
    """Figures on the certify rows: those of `prerouter train`, and this model's own."""
    seen, book = one.look(one.held_out), PriceBook.load(one.local.taxonomy, Settings())
    bills = figures.bills(seen, one.held_out.requests, book)
    found = figures.summarise(seen, one.local, bills, seed=SEED).to_json()
    found.pop("certificate")  # stands in the folder's model.json
    about = {"measured_on": "certify rows", "cost_assumptions": book.assumptions() if book else ""}
    return found | about | measures.held_out(one, seen) | measures.attacked(one)


def training_record(whole: Outcome) -> dict[str, Any]:
    """What the model was made from: counts, and a fingerprint over every text and label."""
    rows = whole.rows
    return {
        "fingerprint": rows.fingerprint(),
        "rows": {part: len(table.truth) for part, table in whole.parts.items()},
        "files": dict(Counter(rows.file.tolist())),
        "sources": sorted(set(rows.source[rows.file != WRITTEN.name].tolist())),
        "authored_weight": transformer_stage.AUTHORED_WEIGHT,
        "runs": [asdict(run) for run in whole.turn.plan.runs],
        # labels/heldout.jsonl may be measured on
        "row_hashes": overlap.remember([*whole.parts["fit"].texts, *whole.parts["calibrate"].texts]),
    }


def remembered(one: Opened, parts: Mapping[Part, Rows], contract: Contract) -> dict[str, Any]:
    """What `prerouter monitor` compares live traffic with."""
    opened = one.local.model.stages
    held_out = [stages.embeddings(one.learnt[0], parts[part]) for part in ("calibrate", "certify")]
    learnt = [replace(each, sharpness=1.0) for each in one.learnt]  # the folder's gates are in each stage's own risk
    scored = stages.scored(opened, learnt, contract, parts["certify"])
    return reference.record(one.local.taxonomy_names, opened, scored, np.concatenate(held_out))


def rubric_id(folder: Path) -> str:
    """12 hex of the labelling rubric: the prompt of the shipped labels."""
    path = folder / "RUBRIC.md"
    if not path.is_file():
        raise DataError(
            "labelling rubric is missing", file=path, next_step="pass the folder that holds requests/*.jsonl"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def say(line: str) -> None:
    """Progress."""
    print(f"rebuild_default: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
