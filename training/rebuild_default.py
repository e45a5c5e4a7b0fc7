"""Rebuild the shipped model folder: python training/rebuild_default.py DATA_DIR [--out models/default] [--work DIR]

DATA_DIR/requests must hold train.jsonl, extra.jsonl, authored.jsonl, unlabelled.jsonl and RUBRIC.md. Two stages:
MiniLM fine-tuned on the labels and exported to int8 ONNX; before it, a static encoder distilled from it. Seven
fine-tunings, two for the model and one for each rotation of left-out sources, two at a time: over an hour on two cores,
less with a GPU; needs the extras `train` and `transformer`. With --work, what was learnt stays in DIR and a second run
goes on from there.

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
import stages
from gates import Seen
from rows import DATA_STEP, Rows, joined, read_rows, read_unlabelled, read_written, split

from prerouter import certify, modelfolder, overlap, text
from prerouter.certify import Contract, Provenance
from prerouter.encoder import load_encoder
from prerouter.errors import DataError, PreRouterError
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel, Probe, Stage
from prerouter.taxonomy import Taxonomy

ROTATIONS, WORKERS = 5, 2
LABELLER = "a Claude model"  # which one labelled the shipped rows is not recorded with them


@dataclass(frozen=True, slots=True)
class Turn:
    """One training, in `folder`: without a fifth of the sources, or with all of them (number None)."""

    data: Path
    folder: Path
    number: int | None = None

    def away(self, rows: Rows) -> np.ndarray:
        """(n_rows,) whether the row's source is left out."""
        if self.number is None:
            return np.zeros(len(rows.truth), bool)
        names = sorted(set(rows.source.tolist()) - {"written", "authored"})
        return np.isin(rows.source, names[self.number :: ROTATIONS])


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came of a turn: the rows' parts and whereabouts, and the stages, without gates."""

    rows: Rows
    away: np.ndarray
    parts: Mapping[certify.Part, np.ndarray]
    seen: Seen
    stages: tuple[Stage, ...]


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


def build(data: Path, out: Path, work: Path) -> FolderModel:
    """Train on DATA_DIR and write the model folder `out`."""
    taxonomy, prompt_id = Taxonomy.load(), rubric_id(data / "requests")
    turns = [Turn(data, work / "all"), *(Turn(data, work / f"without-{i}", i) for i in range(ROTATIONS))]
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:
        whole, *rotations = pool.map(outcome, turns)
    contract, choice = gates.choose_contract(whole.rows, whole.seen, whole.stages, whole.parts)
    say(f"at most {contract.max_under:.1%} under-routing, {contract.max_disagreement:.1%} disagreement")
    provenance = Provenance(LABELLER, prompt_id, "shipped data", text.TEXT_VERSION, now())
    opened, found = gates.certified(whole.rows, whole.seen, whole.stages, whole.parts, contract, provenance)
    versions = modelfolder.versions("onnxruntime", "tokenizers", "safetensors", "torch", "sentence-transformers")
    record = training_record(whole)
    bare = FolderModel(taxonomy, text.TEXT_VERSION, opened, found.certificate, (), record, versions=versions)
    figures = {
        "contract_choice": choice,
        **measures.held_out(whole.rows, whole.seen, opened, contract, whole.parts, taxonomy),
        "ceiling": measures.ceiling(whole.rows),
        **measures.attacked(whole.rows, bare, whole.parts["certify"]),
        "left_out_sources": left_out(rotations, contract, provenance),
    }
    model = replace(with_probes(bare), figures=figures)
    modelfolder.save(out, model, default_card.card(model))
    local = LocalClassifier.load(out)  # as a user would: hashes and probes are checked, the second stage's by warm
    local.warm()
    return local.model


def outcome(turn: Turn) -> Outcome:
    """Learn, in a process of its own, and look at all rows through what was learnt."""
    import torch

    torch.set_num_threads(1)
    taxonomy = Taxonomy.load()
    rows, unlabelled = read_rows(turn.data, taxonomy), read_unlabelled(turn.data, taxonomy)
    away = turn.away(rows)
    parts = split(rows, ~away)
    known = set(rows.group)
    written = read_written(taxonomy)
    written = written.take(np.array([i for i, group in enumerate(written.group) if group not in known]))
    # The guard's centroids are those of every row that was fitted, so the written ones stand in `fit` too.
    everyone = joined(rows, written)
    fit = np.concatenate([parts["fit"], np.arange(len(rows.truth), len(everyone.truth))])
    parts = {**parts, "fit": fit}
    say(f"{turn.folder.name}: " + ", ".join(f"{name} {len(at):,} rows" for name, at in parts.items()))
    turn.folder.mkdir(parents=True, exist_ok=True)
    unlabelled = unlabelled.take(np.flatnonzero(~np.isin(unlabelled.source, rows.source[away])))
    runs = stages.RUNS if turn.number is None else stages.RUNS[-1:]  # rotations with one run each, for time
    learnt = stages.learn(everyone.take(fit), everyone.take(parts["calibrate"]), unlabelled, turn.folder, runs)
    seen = gates.see(learnt, everyone)
    away = np.concatenate([away, np.zeros(len(written.truth), bool)])
    return Outcome(everyone, away, parts, seen, gates.closed_stages(everyone, learnt, seen, parts))


def left_out(rotations: Sequence[Outcome], contract: Contract, provenance: Provenance) -> dict[str, Any]:
    """Figures on sources never seen, over all rotations, each with a gate certified on the sources that it knows."""
    total, by_stage, novel = Counter[str](), [Counter[str](), Counter[str]()], []
    for one in rotations:
        opened, _ = gates.certified(one.rows, one.seen, one.stages, one.parts, contract, provenance)
        at = np.flatnonzero(one.away)
        total += gates.counts(one.rows, one.seen, opened, contract, at)
        for i, counter in enumerate(by_stage):
            counter += gates.counts(one.rows, one.seen, opened, contract, at, only=i)
        novel.append(measures.guard_auroc(one.rows, one.seen, opened, one.parts["certify"], at))
    return measures.shares(total) | {
        "rotations": len(rotations),
        "by_stage": [measures.shares(counter) for counter in by_stage],
        "guard_auroc": [round(float(value), 3) for value in np.mean(novel, axis=0)],
    }


def training_record(whole: Outcome) -> dict[str, Any]:
    """What the model was made from: counts, and a fingerprint over every text and label."""
    rows = whole.rows
    learnt = np.concatenate([whole.parts["fit"], whole.parts["calibrate"]])
    return {
        "fingerprint": rows.fingerprint(),
        "rows": {part: len(at) for part, at in whole.parts.items()},
        "files": dict(Counter(rows.file.tolist())),
        "sources": sorted(set(rows.source[rows.file != "written.jsonl"].tolist())),
        "authored_weight": stages.AUTHORED_WEIGHT,
        "runs": [asdict(run) for run in stages.RUNS],
        "row_hashes": overlap.remember([rows.texts[i] for i in learnt]),  # labels/heldout.jsonl may be measured on
    }


def with_probes(model: FolderModel) -> FolderModel:
    """`model` with the probabilities of every stage that a loaded folder must reproduce."""
    requests = [text.render(probe) for probe in PROBES]
    local = LocalClassifier(model, [load_encoder(stage.encoder) for stage in model.stages])
    found = local.probabilities(requests)
    probes = (Probe(t, tuple(tuple(row) for row in rows)) for t, rows in zip(PROBES, found, strict=True))
    return replace(model, probes=tuple(probes))


def rubric_id(folder: Path) -> str:
    """12 hex of the labelling rubric: the prompt of the shipped labels."""
    path = folder / "RUBRIC.md"
    if not path.is_file():
        raise DataError("labelling rubric is missing", file=path, next_step=DATA_STEP)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def now() -> str:
    """UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def say(line: str) -> None:
    """Progress."""
    print(f"rebuild_default: {line}", file=sys.stderr, flush=True)


PROBES = (
    "What is the capital of France?",
    "Translate 'good morning' into Spanish.",
    "Is this review positive or negative? The battery died after two days.",
    "Write a Python function that merges two sorted lists, with type hints and a docstring.",
    "Summarise the meeting notes below for the team: who does what until when.\n\n- Ana: invoices\n- Bo: hiring plan",
    "Design a multi-region payment ledger that stays consistent during partitions, and prove that no entry is lost.",
    "Review the indemnity and limitation of liability clauses of these two contracts and list every conflict.",
    "SELECT name FROM users WHERE id = 7; -- what does this do?",
    "Wie hoch ist der Eiffelturm?",
    "x",
)
if __name__ == "__main__":
    sys.exit(main())
