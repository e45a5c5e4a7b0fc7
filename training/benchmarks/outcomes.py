"""Routing between a weak and a strong model, learnt from outcomes: python training/benchmarks/outcomes.py DATA_DIR

DATA_DIR/outcomes must hold routellm_*.jsonl: per prompt whether GPT-4-1106 (strong) and Mixtral-8x7B (weak) were right,
from the RouteLLM repository. The rows are labelled as `prerouter label --from-outcomes` labels them, models are trained
as `prerouter train` trains them, and each prompt gets its P(strong) from a model that did not learn from it (FOLDS
folds by the prompt's hash; a fold's own rows are only certified on). Prints a table, writes outcomes.json beside this
file.

The metrics are those of RouteLLM (Ong et al. 2024, section 3.2). Prompts go to the strong model in order of P(strong);
PGR is the share of the gap between weak and strong accuracy that is won back. APGR: its average over all shares of
strong calls; 0.5 is what sending prompts at random wins. CPT(x): the least share of strong calls with PGR of at least
x. Intervals: 95 %, bootstrap over prompts; the spread between trainings is not in them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prerouter import text
from prerouter.errors import DataError, PreRouterError
from prerouter.files import read_jsonl
from prerouter.local import LocalClassifier
from prerouter.outcomes import label_outcomes
from prerouter.taxonomy import Taxonomy
from prerouter.training import train

FOLDS, DRAWS, SEED = 5, 2000, 0
ENCODERS = ("static", "minilm")
PAIR = Taxonomy.from_dict(
    {
        "name": "weak-strong",
        "ordered": True,
        "default": "strong",
        "labels": [
            {"name": "weak", "definition": "The weak model does as well as the strong one.", "tier": "haiku"},
            {"name": "strong", "definition": "Only the strong model does it.", "tier": "opus"},
        ],
    },
    "outcomes.py",
)


def main() -> int:
    """Train, score, measure, write."""
    parser = argparse.ArgumentParser(description="APGR and CPT of routers learnt from outcomes.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds outcomes/*.jsonl")
    options = parser.parse_args()
    try:
        rows = read(options.data / "outcomes")
        with tempfile.TemporaryDirectory() as scratch:
            found = [line for encoder in ENCODERS for line in measured(rows, encoder, Path(scratch))]
    except PreRouterError as error:
        print(f"outcomes: error: {error}", file=sys.stderr)
        return error.exit_code
    Path(__file__).with_suffix(".json").write_text(json.dumps({"folds": FOLDS, "runs": found}, indent=1) + "\n")
    return 0


def read(folder: Path) -> list[dict[str, Any]]:
    """Rows as `label_outcomes` takes them, with their benchmark and fold."""
    rows = []
    for path in sorted(folder.glob("routellm_*.jsonl")):
        with path.open("rb") as lines:
            for _, row in read_jsonl(lines, path):
                if isinstance(row, DataError):
                    raise row
                scores = {"haiku": row["weak_score"], "opus": row["strong_score"]}
                fold = int(hashlib.sha256(row["prompt"].encode()).hexdigest()[:8], 16) % FOLDS
                rows.append({"text": row["prompt"], "scores": scores, "benchmark": row["benchmark"], "fold": fold})
    if not rows:
        raise DataError("no routellm_*.jsonl", file=folder, next_step="pass the folder that holds outcomes/")
    return rows


def measured(rows: Sequence[Mapping[str, Any]], encoder: str, scratch: Path) -> list[dict[str, Any]]:
    """A line of figures per benchmark for models on `encoder`, printed as they come."""
    p_strong = out_of_fold(rows, encoder, scratch)
    weak = np.array([row["scores"]["haiku"] for row in rows], float)
    strong = np.array([row["scores"]["opus"] for row in rows], float)
    which = np.array([row["benchmark"] for row in rows])
    lines = []
    for name in sorted(set(which.tolist())):
        here = which == name
        lines.append({"encoder": encoder, "benchmark": name} | figures(p_strong[here], weak[here], strong[here]))
        print(json.dumps(lines[-1]), flush=True)
    return lines


def out_of_fold(rows: Sequence[Mapping[str, Any]], encoder: str, scratch: Path) -> np.ndarray:
    """(n_rows,) P(strong), each from a model that did not learn from the row."""
    out = np.empty(len(rows))
    for fold in range(FOLDS):
        parts = {"others": [r for r in rows if r["fold"] != fold], "own": [r for r in rows if r["fold"] == fold]}
        files = {name: scratch / f"{encoder}-{fold}-{name}.jsonl" for name in parts}
        for name, path in files.items():
            unlabelled = path.with_suffix(".scores")
            unlabelled.write_text("".join(json.dumps(row) + "\n" for row in parts[name]), "utf-8")
            # Where neither model is right a strong call is wasted, so that row is the weak one's.
            label_outcomes([unlabelled], path, PAIR, none_enough="cheapest")
        folder = scratch / f"{encoder}-{fold}"
        options = {"encoder": encoder, "track": False, "seed": SEED}
        train([files["others"]], folder, taxonomy=PAIR, certify_on=[files["own"]], **options)
        scores = LocalClassifier.load(folder).score_many([text.render(row["text"]) for row in parts["own"]])
        out[[row["fold"] == fold for row in rows]] = [s.probabilities[1] for s in scores]
    return out


def figures(p_strong: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> dict[str, Any]:
    """The metrics of one router, each as [estimate, lower, upper]. weak, strong: (n,) scores of the two models."""
    order = np.argsort(-p_strong, kind="stable")
    gain, ties = (strong - weak)[order], -p_strong[order]
    rng, n = np.random.default_rng(SEED), len(order)
    draws = (np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(DRAWS))
    drawn = [metrics(gain, ties, times) for times in draws if times @ gain > 0]  # else there is no gap to win back
    found = metrics(gain, ties, np.ones(n))
    spread = {name: np.percentile([d[name] for d in drawn], (2.5, 97.5)) for name in found}
    shown = {name: [round(float(v), 4) for v in (value, *spread[name])] for name, value in found.items()}
    return {"n": n, "weak": round(float(weak.mean()), 4), "strong": round(float(strong.mean()), 4)} | shown


def metrics(gain: np.ndarray, ties: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """APGR, CPT(50 %), CPT(80 %).

    gain: (n,) what calling the strong model adds, in the order in which it is called. ties: (n,) rising; rows of the
    same value are called in random order. weights: (n,) how often each row counts.
    """
    ends = np.append(np.flatnonzero(np.diff(ties)), len(ties) - 1)
    calls = np.append(0.0, np.cumsum(weights)[ends] / weights.sum())
    won = np.append(0.0, np.cumsum(weights * gain)[ends]) / (weights * gain).sum()
    return {"apgr": float(np.trapezoid(won, calls)), "cpt_50": cpt(calls, won, 0.5), "cpt_80": cpt(calls, won, 0.8)}


def cpt(calls: np.ndarray, won: np.ndarray, share: float) -> float:
    """Least share of strong calls at which `share` of the gap is won, on the line through the points."""
    at = int(np.argmax(won >= share))
    step = (share - won[at - 1]) / (won[at] - won[at - 1])
    return float(calls[at - 1] + step * (calls[at] - calls[at - 1]))


if __name__ == "__main__":
    sys.exit(main())
