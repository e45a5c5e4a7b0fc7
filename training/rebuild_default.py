"""Rebuild the shipped model folder: python training/rebuild_default.py DATA_DIR [--out models/default]

DATA_DIR/requests must hold train.jsonl, extra.jsonl, authored.jsonl and RUBRIC.md. One static stage: token vectors
distilled from all-MiniLM-L6-v2 and fine-tuned on the labels, multinomial logistic regression, temperature, guard,
gate, certificate. Takes about ten minutes on one core; needs the extras `train` and `transformer`.

A tenth of the rows (`test`) is set aside first and only measured at the end. The rest is split as `certify.split`
says: `fit` for the weights, `calibrate` for temperature, guard and path, `certify` for the walk, once.

The contract is chosen before certify is looked at, since choosing among three certificates by which of them open
would break their confidence: rows of fit and calibrate get out-of-fold scores (5 folds), parts of the real sizes are
drawn from these with replacement, and the strictest contract that opens and decides at least MIN_COVERAGE in at least
MIN_POWER of the draws is taken; the loosest when none does.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import default_card
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from token_vectors import Examples, fine_tune

from prerouter import certify, guard, modelfolder, text
from prerouter.certify import Certified, Contract, Provenance, Scored
from prerouter.encoder import Encoder, load_encoder
from prerouter.errors import DataError, PreRouterError
from prerouter.export import distil_static, minilm_folder
from prerouter.files import read_jsonl
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel, Gate, Head, Probe, Stage
from prerouter.taxonomy import Taxonomy

SEED = 0
FILES = ("train.jsonl", "extra.jsonl", "authored.jsonl")
TEST_SHARE = 0.1
N_DIMS = 128
STRENGTH = 1.0  # scikit-learn's C; 0.1 and 10 are worse out of fold, see training/README.md
UNSURE_WEIGHT = 0.5  # of rows whose labeller was not sure, in fit only
CONTRACTS = (Contract(0.02, 0.05), Contract(0.03, 0.06), Contract(0.05, 0.10))
MIN_COVERAGE, MIN_POWER, DRAWS = 0.10, 0.80, 100
FOLDS, ROTATIONS = 5, 5
DATA_STEP = "pass the folder that holds requests/*.jsonl"
LABELLER = "a Claude model"  # which one labelled the shipped rows is not recorded with them


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The labelled rows, column by column. truth: (n_rows,) label indices; signals: (n_rows, n_signals) float32."""

    texts: Sequence[str]
    signals: np.ndarray
    truth: np.ndarray
    sure: np.ndarray
    source: np.ndarray
    file: np.ndarray
    group: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What the fit rows teach: an encoder, all rows' features (n_rows, n_features) under it, and a head on these."""

    encoder: Encoder
    folder: Path
    features: np.ndarray
    head: Head

    def logits(self, rows: Rows, at: np.ndarray) -> np.ndarray:
        """(n, n_labels), before temperature."""
        inputs = np.hstack([self.features[at], self.head.standard(rows.signals[at])])
        return np.asarray(inputs @ self.head.weights.T + self.head.bias)


@dataclass(frozen=True, slots=True, eq=False)
class Workshop:
    """The rows, the encoder that every training starts from, and a folder for what trainings write."""

    rows: Rows
    base: Path
    scratch: Path


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, build, print where it is."""
    parser = argparse.ArgumentParser(description="Rebuild the shipped model folder.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds requests/*.jsonl")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "models" / "default")
    options = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            model = build(options.data, options.out, Path(scratch))
    except PreRouterError as error:
        print(f"rebuild_default: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.out}: {model.model_folder_id}, gate {'open' if model.certificate.valid else 'closed'}")
    return 0


def build(data: Path, out: Path, scratch: Path) -> FolderModel:
    """Train on DATA_DIR and write the model folder `out`."""
    taxonomy = Taxonomy.load()
    rows, prompt_id = read_rows(data / "requests", taxonomy), rubric_id(data / "requests")
    say("distilling the encoder")
    shop = Workshop(rows, scratch / "base", scratch)
    distil_static(minilm_folder(), shop.base, n_dims=N_DIMS)
    test, rest = set_aside(rows)
    parts = split(rows, rest)
    say(", ".join(f"{name} {len(at)} rows" for name, at in [*parts.items(), ("test", test)]))
    contract, choice = choose_contract(shop, parts)
    provenance = Provenance(LABELLER, prompt_id, "shipped data", text.TEXT_VERSION, now())
    say(f"training for at most {contract.max_under:.0%} under-routing, {contract.max_disagreement:.0%} disagreement")
    learnt = learn(shop, parts["fit"])
    stage, outcome = certified(rows, learnt, parts, contract, provenance)
    model = FolderModel(
        taxonomy=taxonomy,
        text_version=text.TEXT_VERSION,
        stages=(stage,),
        certificate=outcome.certificate,
        probes=(),
        training=training_record(rows, parts, test),
        figures={
            "contract_choice": choice,
            "test": figures(rows, learnt, stage, contract, test),
            "test_by_file": {n: figures(rows, learnt, stage, contract, test[rows.file[test] == n]) for n in FILES},
            "test_by_label": {
                name: figures(rows, learnt, stage, contract, test[rows.truth[test] == i])
                for i, name in enumerate(taxonomy.names)
            },
            "left_out_sources": left_out(shop, rest, contract, provenance),
        },
        versions=modelfolder.versions("scikit-learn", "tokenizers", "safetensors", "torch"),
    )
    modelfolder.save(out, with_probes(model, learnt.encoder), default_card.card(model))
    return LocalClassifier.load(out).model  # as a user would: hashes and probes are checked


def read_rows(folder: Path, taxonomy: Taxonomy) -> Rows:
    """Every labelled row of FILES, rendered. Raises DataError when a file is missing or broken."""
    table = [(name, row) for name in FILES for row in read_file(folder / name)]
    requests = [text.render({"messages": r["messages"]} if r.get("messages") else r["text"]) for _, r in table]
    return Rows(
        texts=[request.text for request in requests],
        signals=np.array([request.signals for request in requests], np.float32),
        truth=np.array([taxonomy.index(row["label"]) for _, row in table]),
        sure=np.array([bool(row["sure"]) for _, row in table]),
        source=np.array([row.get("source", "authored") for _, row in table]),
        file=np.array([name for name, _ in table]),
        group=[group_of(request.text) for request in requests],
    )


def read_file(path: Path) -> list[dict[str, Any]]:
    """The rows of one JSONL file."""
    if not path.is_file():
        raise DataError("data file is missing", file=path, next_step=DATA_STEP)
    with path.open("rb") as lines:
        rows = [row for _, row in read_jsonl(lines, path)]
    for row in rows:
        if isinstance(row, DataError):
            raise row
    return [row for row in rows if not isinstance(row, DataError)]


def group_of(words: str) -> str:
    """Rows that differ in case, punctuation and spacing only are one group."""
    return hashlib.sha256(" ".join(re.findall(r"\w+", words.lower())).encode()).hexdigest()[:16]


def set_aside(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the test rows and of the rest, by group."""
    is_test = np.array([int(hashlib.sha256(f"test:{g}".encode()).hexdigest()[:8], 16) / 16**8 for g in rows.group])
    return np.flatnonzero(is_test < TEST_SHARE), np.flatnonzero(is_test >= TEST_SHARE)


def split(rows: Rows, at: np.ndarray) -> dict[certify.Part, np.ndarray]:
    """The positions `at`, in parts."""
    return {part: at[i] for part, i in certify.split([rows.group[i] for i in at], SEED).items()}


def learn(shop: Workshop, fit: np.ndarray) -> Learnt:
    """Token vectors fine-tuned on the fit rows, then multinomial logistic regression on features and signals."""
    rows, folder = shop.rows, Path(tempfile.mkdtemp(dir=shop.scratch)) / "encoder"
    weights = np.where(rows.sure[fit], 1.0, UNSURE_WEIGHT).astype(np.float32)
    base = fit_head(rows, load_encoder(shop.base).features(rows.texts), fit, weights)
    texts, signals = [rows.texts[i] for i in fit], base.standard(rows.signals[fit])
    examples = Examples(texts, signals, rows.truth[fit], weights, base.weights, base.bias)
    fine_tune(shop.base, folder, examples, SEED)
    encoder = load_encoder(folder)
    features = encoder.features(rows.texts)
    return Learnt(encoder, folder, features, fit_head(rows, features, fit, weights))


def fit_head(rows: Rows, features: np.ndarray, fit: np.ndarray, weights: np.ndarray) -> Head:
    """Multinomial logistic regression on features and standardised signals."""
    mean, scale = rows.signals[fit].mean(axis=0), rows.signals[fit].std(axis=0)
    scale[scale < 1e-6] = 1.0  # a signal that never varies gets no weight, and must not be divided by nothing
    empty = Head(np.empty((0, 0), np.float32), np.empty(0, np.float32), mean, scale)
    inputs = np.hstack([features[fit], empty.standard(rows.signals[fit])])
    model = LogisticRegression(C=STRENGTH, max_iter=5000, tol=1e-6).fit(inputs, rows.truth[fit], weights)
    return Head(model.coef_.astype(np.float32), model.intercept_.astype(np.float32), mean, scale)


def certified(
    rows: Rows,
    learnt: Learnt,
    parts: Mapping[certify.Part, np.ndarray],
    contract: Contract,
    provenance: Provenance,
) -> tuple[Stage, Certified]:
    """The stage: temperature, guard and path from calibrate; gate and certificate from certify."""
    fit, calibrate = parts["fit"], parts["calibrate"]
    temperature = certify.fit_temperature(learnt.logits(rows, calibrate), rows.truth[calibrate])
    x = learnt.features[:, : learnt.encoder.n_dims]
    known = guard.fit(x[fit], [rows.texts[i] for i in fit], x[calibrate], [rows.texts[i] for i in calibrate], SEED)
    closed = Stage(learnt.folder, learnt.encoder.fingerprint, learnt.head, temperature, Gate(), known)
    path = certify.propose_path(scored(rows, learnt, closed, contract, calibrate), contract)
    outcome = certify.certify(path, scored(rows, learnt, closed, contract, parts["certify"]), contract, provenance)
    return replace(closed, gate=Gate(outcome.threshold, outcome.quality_threshold)), outcome


def scored(rows: Rows, learnt: Learnt, stage: Stage, contract: Contract, at: np.ndarray) -> Scored:
    """The rows at `at` as the gate sees them."""
    p = certify.softmax(learnt.logits(rows, at) / stage.temperature)
    away = stage.guard.measure(learnt.features[at, : learnt.encoder.n_dims], [rows.texts[i] for i in at])
    risk = np.where(away <= stage.guard.limit, certify.risk(p, contract), np.inf)
    return Scored(risk[None], p.argmax(axis=1)[None], rows.truth[at])


def choose_contract(shop: Workshop, parts: Mapping[certify.Part, np.ndarray]) -> tuple[Contract, dict[str, float]]:
    """The strictest contract that rows outside certify say the data carries, and each one's share of draws."""
    rows, at = shop.rows, np.concatenate([parts["fit"], parts["calibrate"]])
    found = np.empty((len(at), int(rows.truth.max()) + 1))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for turn, (fit, rest) in enumerate(folds.split(at, rows.truth[at]), start=1):
        say(f"choosing the contract: fold {turn} of {FOLDS}")
        found[rest] = learn(shop, at[fit]).logits(rows, at[rest])
    p = certify.softmax(found / certify.fit_temperature(found, rows.truth[at]))
    sizes, power = (len(parts["calibrate"]), len(parts["certify"])), {}
    for contract in CONTRACTS:
        everyone = Scored(certify.risk(p, contract)[None], p.argmax(axis=1)[None], rows.truth[at])
        power[contract] = share_opened(everyone, contract, sizes)
    chosen = next((c for c in CONTRACTS if power[c] >= MIN_POWER), CONTRACTS[-1])
    return chosen, {f"{c.max_under:.0%} / {c.max_disagreement:.0%}": share for c, share in power.items()}


def share_opened(everyone: Scored, contract: Contract, sizes: tuple[int, int]) -> float:
    """Share of draws of calibrate and certify parts of these sizes whose gate opens and decides MIN_COVERAGE."""
    rng, opened = np.random.default_rng(SEED), 0
    for _ in range(DRAWS):
        calibrate, rest = (everyone.take(rng.integers(0, len(everyone.truth), n)) for n in sizes)
        path = certify.propose_path(calibrate, contract)
        n_passed = certify.walk(path, rest, contract)
        opened += n_passed > 0 and certify.tally(rest, (path[n_passed - 1],)).n_accepted >= MIN_COVERAGE * sizes[1]
    return opened / DRAWS


def figures(rows: Rows, learnt: Learnt, stage: Stage, contract: Contract, at: np.ndarray) -> dict[str, Any]:
    """The figures of CONTRACT.md on the rows at `at`."""
    return default_card.shares(counts(rows, learnt, stage, contract, at))


def counts(rows: Rows, learnt: Learnt, stage: Stage, contract: Contract, at: np.ndarray) -> Counter[str]:
    """Rows, rows whose best label is right, decisions, and decisions that differ or go lower."""
    seen = scored(rows, learnt, stage, contract, at)
    found = certify.tally(seen, (-1.0 if stage.gate.threshold is None else stage.gate.threshold,))
    right = int((seen.predicted[0] == seen.truth).sum())
    return Counter(n=len(at), right=right, local=found.n_accepted, under=found.n_under, wrong=found.n_disagreement)


def left_out(shop: Workshop, rest: np.ndarray, contract: Contract, provenance: Provenance) -> dict[str, Any]:
    """Figures on sources never seen: trained anew ROTATIONS times, each time without a fifth of the sources."""
    rows, total, names = shop.rows, Counter[str](), sorted(set(shop.rows.source.tolist()))
    for turn in range(ROTATIONS):
        say(f"left-out sources: rotation {turn + 1} of {ROTATIONS}")
        away = np.isin(rows.source, names[turn::ROTATIONS])
        parts = split(rows, rest[~away[rest]])
        learnt = learn(shop, parts["fit"])
        stage, _ = certified(rows, learnt, parts, contract, provenance)
        total += counts(rows, learnt, stage, contract, np.flatnonzero(away))
    return default_card.shares(total) | {"rotations": ROTATIONS}


def training_record(rows: Rows, parts: Mapping[certify.Part, np.ndarray], test: np.ndarray) -> dict[str, Any]:
    """What the model was made from: counts, and a fingerprint over every text and label."""
    digest = hashlib.sha256()
    for words, label in zip(rows.texts, rows.truth.tolist(), strict=True):
        digest.update(f"{label}\0{words}\0".encode())
    return {
        "fingerprint": digest.hexdigest()[:12],
        "rows": {part: len(at) for part, at in parts.items()} | {"test": len(test)},
        "files": dict(Counter(rows.file.tolist())),
        "sources": dict(sorted(Counter(rows.source.tolist()).items())),
        "unsure_weight": UNSURE_WEIGHT,
        "strength": STRENGTH,
        "seed": SEED,
    }


def with_probes(model: FolderModel, encoder: Encoder) -> FolderModel:
    """`model` with the probabilities that a loaded folder must reproduce."""
    requests = [text.render(probe) for probe in PROBES]
    found = LocalClassifier(model, [encoder]).score_many(requests)
    probes = tuple(Probe(t, (scores.probabilities,)) for t, scores in zip(PROBES, found, strict=True))
    return replace(model, probes=probes)


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
