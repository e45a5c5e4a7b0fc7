"""Does a certificate hold on rows held back? python training/benchmarks/redrawn.py DATA_DIR

The requests of DATA_DIR/requests are split DRAWS times at random, by group: half is held back, the rest is trained on
as `prerouter train` trains: fit, calibrate, certify, a head, temperature, guard, gate. A violation is an open gate of
whose decisions on the rows held back more go lower, or differ, than the contract allows. Those rows are a sample
themselves, so a gate that is right at its limit breaks it there every other time; both the share of draws and its lower
95 % bound, which must be at most 5 %, are reported.

Two encoders: all-MiniLM-L6-v2, which never saw the labels, and the shipped static one, which was fine-tuned on most of
these rows. `train` certifies on the others only; `trusting` is what would come of it without that care. Held back is
always from the rows that the encoder does not know. C is not searched but 3.
Prints a table and writes redrawn.json beside this file; exits 1 when a bound is broken. Takes 18 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent.parent))
from rows import labelled

from prerouter import certify, dedup, encoders, heads, overlap, stages
from prerouter.certify import Contract, Part, Provenance, Scored
from prerouter.embedcache import CachedEncoder
from prerouter.errors import PreRouterError
from prerouter.examples import read_examples
from prerouter.stages import Learnt
from prerouter.taxonomy import Taxonomy
from prerouter.trainset import Table

DRAWS = 200
CONTRACTS = (Contract(0.05, 0.10), Contract(0.10, 0.20))
STRENGTH = 3.0
NOBODY = Provenance("benchmark", None, "benchmark", 1, "")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """Rows, which of them the encoder learnt from, and whether they certify all the same."""

    name: str
    rows: Table
    known: np.ndarray
    trusting: bool = False


def main() -> int:
    """Draw, train, measure, print, write."""
    parser = argparse.ArgumentParser(description="Does a certificate hold on rows held back?")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds requests/*.jsonl")
    parser.add_argument("--cache", type=Path, help="where embeddings and exported encoders are kept")
    options = parser.parse_args()
    found = []
    try:
        with tempfile.TemporaryDirectory() as scratch:
            rows = read(options.data)
            for case, encoder in cases(rows, options.cache or Path(scratch)):
                for contract in CONTRACTS:
                    found.append({"encoder": case.name} | drawn(case, encoder, contract))
                    print(json.dumps(found[-1]), flush=True)
    except PreRouterError as error:
        print(f"redrawn: error: {error}", file=sys.stderr)
        return error.exit_code
    Path(__file__).with_suffix(".json").write_text(json.dumps({"draws": DRAWS, "runs": found}, indent=1) + "\n")
    return int(any(run["lower_95"] > 0.05 for run in found if not run["trusting"]))


def read(data: Path) -> Table:
    """Every row that says something of its own, with its group."""
    taxonomy = Taxonomy.load()
    examples = read_examples(labelled(data), taxonomy)
    found = dedup.find([e.request.text for e in examples], [e.label for e in examples], [e.group for e in examples])
    truth = np.array([taxonomy.index(str(example.label)) for example in examples])
    return Table(examples, truth, found.groups).take(np.array(found.kept))


def cases(rows: Table, cache: Path) -> list[tuple[Case, Learnt]]:
    """What is tried; the encoder comes with features of all rows at hand."""
    out = []
    for name in (encoders.MINILM, encoders.STATIC):
        (candidate,) = encoders.candidates([name], cache / "encoders")
        encoder = CachedEncoder(candidate.encoders[0], cache / "embeddings")
        encoder.features(rows.texts)
        taught = {rows.groups[i] for i in overlap.known(rows.texts, encoders.lessons([name]))}
        known = np.array([group in taught for group in rows.groups])
        learnt = Learnt(candidate.folders[0], encoder, heads.fit_head(stages.head_rows(rows, encoder), 3, strength=1.0))
        out += [(Case(name, rows, known, trusting), learnt) for trusting in sorted({False, bool(known.any())})]
    return out


def drawn(case: Case, learnt: Learnt, contract: Contract) -> dict[str, Any]:
    """DRAWS trainings, and how many break the contract on the rows held back."""
    coverage, worst, broken = [], [], 0
    for seed in range(DRAWS):
        held, parts = split(case, seed)
        measured = trained(learnt, parts, contract, held, seed)
        if measured is not None and measured.n_accepted:
            coverage.append(measured.n_accepted / len(held.truth))
            under, differ = (k / measured.n_accepted for k in (measured.n_under, measured.n_disagreement))
            worst.append((under, differ))
            broken += under > (contract.max_under or 1.0) or differ > contract.max_disagreement
    under, differ = np.median(worst, axis=0).round(4).tolist() if worst else (None, None)
    return {
        "trusting": case.trusting,
        "max_under": contract.max_under,
        "max_disagreement": contract.max_disagreement,
        "rows": {part: len(table.truth) for part, table in parts.items()} | {"held_back": len(held.truth)},
        "closed": round(1 - len(coverage) / DRAWS, 4),
        "median_coverage_when_open": round(float(np.median(coverage)), 4) if coverage else None,
        "median_under_held_back": under,
        "median_disagreement_held_back": differ,
        "violations": broken,
        "violation_rate": round(broken / DRAWS, 4),
        "lower_95": round(certify.lower_bound(broken, DRAWS), 4),
    }


def split(case: Case, seed: int) -> tuple[Table, dict[Part, Table]]:
    """The rows held back, and the parts of the others, as `trainset` makes them."""
    rng, groups = np.random.default_rng(seed), np.asarray(case.rows.groups)
    away = rng.permutation(np.unique(groups))[: len(np.unique(groups)) // 2]
    out = np.isin(groups, away) & ~case.known
    rest = np.flatnonzero(~out)
    fresh = rest if case.trusting else rest[~case.known[rest]]
    parts = {part: fresh[at] for part, at in certify.split([case.rows.groups[i] for i in fresh], seed).items()}
    parts["fit"] = np.union1d(parts["fit"], np.setdiff1d(rest, fresh))
    return case.rows.take(np.flatnonzero(out)), {part: case.rows.take(at) for part, at in parts.items()}


def trained(
    learnt: Learnt, parts: dict[Part, Table], contract: Contract, held: Table, seed: int
) -> certify.Tally | None:
    """What the certified gate decides of the rows held back; None when it stayed closed."""
    head = heads.fit_head(stages.head_rows(parts["fit"], learnt.encoder), 3, strength=STRENGTH)
    learnt = Learnt(learnt.folder, learnt.encoder, head)
    closed = stages.closed(learnt, parts, max_lost=0.1, seed=seed)
    (stage,), outcome = stages.certified([closed], [learnt], parts, contract, NOBODY)
    if outcome.threshold is None:
        return None
    seen: Scored = stages.scored([stage], [learnt], contract, held)
    return certify.tally(seen, (outcome.threshold,))


if __name__ == "__main__":
    sys.exit(main())
