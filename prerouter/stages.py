"""From rows to stages: heads, temperature, guard, gate and certificate, as DESIGN.md 8 says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prerouter import certify, guard, heads
from prerouter.certify import Certified, Contract, Part, Provenance, Scored
from prerouter.embedcache import CachedEncoder
from prerouter.encoder import load_encoder
from prerouter.heads import Search
from prerouter.modelfolder import Gate, Head, Stage
from prerouter.recipe import Recipe
from prerouter.text import SIGNAL_NAMES
from prerouter.trainset import Table

if TYPE_CHECKING:
    from prerouter.finetune import Finetuned

Floats = NDArray[np.float32]
PROBE_STRENGTH = 10.0  # C of the head that fine-tuning starts from: near what cross-validation takes for intents
MIN_NOVEL = 20  # novel rows from which on they set the guard's limit


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """One stage's encoder and head. search: how its C was chosen; None for a fine-tuned one.

    sharpness: in (0, 1], the largest risk that it decides at, as a share of the common gate's.
    """

    folder: Path
    encoder: CachedEncoder
    head: Head
    search: Search | None = None
    sharpness: float = 1.0


def head_rows(table: Table, encoder: CachedEncoder) -> heads.Rows:
    """The labelled rows of `table`, as a head learns from them."""
    known = table.known
    return heads.Rows(encoder.features(known.texts), known.signals, known.truth, known.weights, known.groups)


def sample(rows: Table, n: int, seed: int) -> Table:
    """`rows`, or n of them drawn at random."""
    if len(rows.examples) <= n:
        return rows
    return rows.take(np.sort(np.random.default_rng(seed).choice(len(rows.examples), n, replace=False)))


def learn(folder: Path, encoder: CachedEncoder, fit: Table, searched: Table, n_labels: int) -> Learnt:
    """A head on the fit rows, its C chosen on those of `searched`."""
    found = heads.search(head_rows(searched, encoder), n_labels)
    head = heads.fit_head(head_rows(fit, encoder), n_labels, strength=found.strength, signals=found.signals)
    return Learnt(folder, encoder, head, found)


def finetuned(source: str | Path | None, fit: Table, n_labels: int, recipe: Recipe, scratch: Path) -> Learnt:
    """A transformer fine-tuned on the fit rows and exported to a folder in `scratch`.

    source: a sentence-transformers model, None for all-MiniLM-L6-v2. Raises ConfigError, MissingExtraError.
    """
    from prerouter.finetune import finetune

    known = fit.known
    model = finetune(
        known.texts,
        known.truth,
        n_labels=n_labels,
        weights=known.weights,
        source=source,
        recipe=recipe.finetuning,
        probe=lambda features: _probe(features, known, n_labels),
        seed=recipe.seed,
    )
    head = exported(model, scratch)
    return Learnt(scratch / "encoder", CachedEncoder(load_encoder(scratch / "encoder"), None), head)


def _probe(features: Floats, rows: Table, n_labels: int) -> tuple[Floats, Floats]:
    """The weights and bias of a head on features as they are."""
    table = heads.Rows(features, rows.signals, rows.truth, rows.weights, rows.groups)
    head = heads.fit_head(table, n_labels, strength=PROBE_STRENGTH, signals=False)
    return head.weights[:, : features.shape[1]], head.bias


def exported(model: Finetuned, folder: Path) -> Head:
    """Write the encoder that serves a fine-tuned model to `folder`/encoder; returns the head on it.

    The model's own, for one fitted to rows that the encoder knows by heart would be too sure. It reads no signals.
    """
    from prerouter.export import export_transformer

    model.save(folder / "model")
    export_transformer(folder / "model", folder / "encoder")
    nothing = np.zeros(len(SIGNAL_NAMES), np.float32)
    weights = np.hstack([model.weights, np.zeros((len(model.bias), len(nothing)), np.float32)])
    return Head(weights, model.bias, nothing, nothing + 1)


def logits(learnt: Learnt, table: Table) -> NDArray[np.float64]:
    """(n_rows, n_labels), before temperature."""
    found: NDArray[np.float64] = heads.logits(learnt.head, learnt.encoder.features(table.texts), table.signals)
    return found


def closed(
    learnt: Learnt, parts: Mapping[Part, Table], *, max_lost: float, seed: int, lost: float = guard.LOST
) -> Stage:
    """The stage with temperature and guard from fit and calibrate, its gate closed.

    lost: share of known requests that the guard turns away; where novel rows set its limit, at most `max_lost`.
    """
    fit, calibrate = parts["fit"].known, parts["calibrate"].known
    temperature = certify.fit_temperature(logits(learnt, calibrate), calibrate.truth) if len(calibrate.truth) else 1.0
    x, held_out = embeddings(learnt, fit), embeddings(learnt, calibrate)
    known = guard.fit(x, fit.texts, held_out, calibrate.texts, seed=seed, lost=lost)
    strange = [table.novel for table in (parts["fit"], parts["calibrate"])]
    if sum(len(table.examples) for table in strange) >= MIN_NOVEL and len(calibrate.truth):
        away = np.concatenate([known.measure(embeddings(learnt, table), table.texts) for table in strange])
        known = replace(known, limit=parting(guard.distances(held_out, known.centroids), away, max_lost))
    return Stage(learnt.folder, learnt.encoder.fingerprint, learnt.head, temperature, Gate(), known)


def scored(stages: Sequence[Stage], learnt: Sequence[Learnt], contract: Contract, table: Table) -> Scored:
    """The rows of `table` as the gates see them; a novel row's truth is no label, so that deciding it is an error."""
    risks, predicted = [], []
    for stage, each in zip(stages, learnt, strict=True):
        p = certify.softmax(logits(each, table) / stage.temperature)
        away = stage.guard.measure(embeddings(each, table), table.texts)
        risks.append(np.where(away <= stage.guard.limit, certify.risk(p, contract) / each.sharpness, np.inf))
        predicted.append(p.argmax(axis=1))
    return Scored(np.array(risks), np.array(predicted), table.truth)


def certified(
    stages: Sequence[Stage],
    learnt: Sequence[Learnt],
    parts: Mapping[Part, Table],
    contract: Contract,
    provenance: Provenance,
    reach: float = 1.0,
) -> tuple[tuple[Stage, ...], Certified]:
    """The closed stages with their gates, and the certificate: a path from calibrate, walked on certify.

    reach: in (0, 1], the largest share of the calibrate rows that a gate of the path may decide.
    """
    path = path_within(scored(stages, learnt, contract, parts["calibrate"]), contract, reach)
    outcome = certify.certify(path, scored(stages, learnt, contract, parts["certify"]), contract, provenance)
    used, strictest = outcome.threshold, outcome.quality_threshold
    if used is None or strictest is None:
        return tuple(stages), outcome
    gates = (Gate(used * each.sharpness, strictest * each.sharpness) for each in learnt)
    return tuple(replace(stage, gate=gate) for stage, gate in zip(stages, gates, strict=True)), outcome


def path_within(calibrate: Scored, contract: Contract, reach: float) -> tuple[float, ...]:
    """The gates to walk, strictest first, of which none decides more than `reach` of the calibrate rows."""
    risk = calibrate.risk.min(axis=0)
    limit = np.sort(risk)[math.ceil(reach * len(risk)) - 1] if len(risk) else math.inf
    path = certify.propose_path(calibrate, contract)
    return tuple(gate for gate in path if gate <= limit) or (float(limit),) * bool(path)


def embeddings(learnt: Learnt, table: Table) -> Floats:
    """(n_rows, n_dims), unit length."""
    return learnt.encoder.features(table.texts)[:, : learnt.encoder.n_dims]


def parting(known: NDArray[np.float32], novel: NDArray[np.float32], max_lost: float) -> float:
    """The distance that parts known from novel rows best, by Youden's J (Youden 1950), within `max_lost` of known ones.

    known, novel: (n,) distances; a novel row in unknown words is further off than any.
    """
    limits = np.quantile(known, np.linspace(1 - max_lost, 1.0, 101))
    kept = (known[:, None] <= limits).mean(axis=0)
    turned_away = (novel[:, None] > limits).mean(axis=0)
    return float(min(limits[int(np.argmax(kept + turned_away))], guard.MAX_DISTANCE))
