"""Guards, gates and certificate of what the stages learnt. Used by rebuild_default.py and its rotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from rows import Rows
from stages import Learnt, stage_logits

from prerouter import certify, guard
from prerouter.certify import Certified, Contract, Provenance, Scored
from prerouter.encoder import load_encoder
from prerouter.modelfolder import Gate, Stage

SEED = 0
# Share of known requests that each stage's guard may turn away: what decides how far the model reaches on sources that
# it never saw. SHARPNESS: a stage's largest risk as a share of the common gate's. Both chosen in README.md's rotations.
LOST = (0.025, 0.20)
SHARPNESS = (0.5, 1.0)
# Strictest first. The one taken is the first that opens and decides MIN_COVERAGE in MIN_POWER of simulated draws.
LIMITS = ((0.01, 0.03), (0.015, 0.04), (0.02, 0.05), (0.03, 0.06), (0.05, 0.10))  # under-routing, disagreement
MIN_COVERAGE, MIN_POWER, DRAWS = 0.50, 0.80, 200

Parts = Mapping[certify.Part, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Rows as the stages see them, one array per stage: embeddings (n_rows, n_dims), logits (n_rows, n_labels)."""

    embeddings: tuple[np.ndarray, ...]
    logits: tuple[np.ndarray, ...]


def see(learnt: Learnt, rows: Rows) -> Seen:
    """Through the encoders that will serve them."""
    embeddings, logits = [], []
    for folder, head in zip(learnt.encoders, learnt.heads, strict=True):
        encoder = load_encoder(folder)
        features = encoder.features(rows.texts)
        embeddings.append(features[:, : encoder.n_dims])
        logits.append(stage_logits(features, head, rows))
    return Seen(tuple(embeddings), tuple(logits))


def closed_stages(rows: Rows, learnt: Learnt, seen: Seen, parts: Parts) -> tuple[Stage, ...]:
    """The stages with temperature and guard from fit and calibrate; no gate yet."""
    fit, calibrate, stages = parts["fit"], parts["calibrate"], []
    fit_texts, held_out = [rows.texts[i] for i in fit], [rows.texts[i] for i in calibrate]
    for i, folder in enumerate(learnt.encoders):
        x = seen.embeddings[i]
        known = guard.fit(x[fit], fit_texts, x[calibrate], held_out, seed=SEED, lost=LOST[i])
        temperature = certify.fit_temperature(seen.logits[i][calibrate], rows.truth[calibrate])
        stages.append(Stage(folder, load_encoder(folder).fingerprint, learnt.heads[i], temperature, Gate(), known))
    return tuple(stages)


def scored(rows: Rows, seen: Seen, stages: tuple[Stage, ...], contract: Contract, at: np.ndarray) -> Scored:
    """The rows at `at` as the gates see them: risks as shares of SHARPNESS, so that one threshold serves all stages."""
    risks, predicted = [], []
    texts = [rows.texts[i] for i in at]
    for i, stage in enumerate(stages):
        p = certify.softmax(seen.logits[i][at] / stage.temperature)
        away = stage.guard.measure(seen.embeddings[i][at], texts)
        risks.append(np.where(away <= stage.guard.limit, certify.risk(p, contract) / SHARPNESS[i], np.inf))
        predicted.append(p.argmax(axis=1))
    return Scored(np.array(risks), np.array(predicted), rows.truth[at])


def certified(
    rows: Rows, seen: Seen, stages: tuple[Stage, ...], parts: Parts, contract: Contract, provenance: Provenance
) -> tuple[tuple[Stage, ...], Certified]:
    """The stages with their gates, and the certificate: the path from calibrate, walked on certify."""
    path = certify.propose_path(scored(rows, seen, stages, contract, parts["calibrate"]), contract)
    outcome = certify.certify(path, scored(rows, seen, stages, contract, parts["certify"]), contract, provenance)
    if outcome.threshold is None or outcome.quality_threshold is None:
        return stages, outcome
    gates = [Gate(outcome.threshold * share, outcome.quality_threshold * share) for share in SHARPNESS]
    return tuple(replace(stage, gate=gate) for stage, gate in zip(stages, gates, strict=True)), outcome


def choose_contract(
    rows: Rows, seen: Seen, stages: tuple[Stage, ...], parts: Parts
) -> tuple[Contract, dict[str, float]]:
    """The strictest contract that the calibrate rows say the data carries, and each one's share of draws.

    Certify is not looked at: choosing among certificates by which of them opens would break their confidence.
    """
    power = {}
    for contract in (Contract(*limits) for limits in LIMITS):
        everyone = scored(rows, seen, stages, contract, parts["calibrate"])
        power[contract] = share_opened(everyone, contract, (len(parts["calibrate"]), len(parts["certify"])))
    chosen = next((contract for contract, share in power.items() if share >= MIN_POWER), contract)
    return chosen, {f"{c.max_under:.1%} / {c.max_disagreement:.0%}": share for c, share in power.items()}


def share_opened(everyone: Scored, contract: Contract, sizes: tuple[int, int]) -> float:
    """Share of draws of calibrate and certify parts of these sizes whose gate opens and decides MIN_COVERAGE."""
    rng, opened = np.random.default_rng(SEED), 0
    for _ in range(DRAWS):
        calibrate, rest = (everyone.take(rng.integers(0, len(everyone.truth), n)) for n in sizes)
        path = certify.propose_path(calibrate, contract)
        n_passed = certify.walk(path, rest, contract)
        thresholds = (path[n_passed - 1],) * len(rest.risk) if n_passed else ()
        opened += n_passed > 0 and certify.tally(rest, thresholds).n_accepted >= MIN_COVERAGE * sizes[1]
    return opened / DRAWS


def decisions(
    rows: Rows, seen: Seen, stages: tuple[Stage, ...], contract: Contract, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the stage that decides each row at `at`, and the label; -1 for both where all abstain."""
    table, gates = scored(rows, seen, stages, contract, at), [stage.gate.threshold for stage in stages]
    thresholds = [-1.0 if t is None else t / SHARPNESS[i] for i, t in enumerate(gates)]
    stage = certify.decide(table, thresholds)
    return stage, np.where(stage >= 0, table.predicted[stage, np.arange(len(at))], -1)


def counts(
    rows: Rows, seen: Seen, stages: tuple[Stage, ...], contract: Contract, at: np.ndarray, only: int | None = None
) -> Counter[str]:
    """Of the rows at `at`: how many are decided (by stage `only`), wrong, too low; right: by the last stage asked."""
    stage, label = decisions(rows, seen, stages, contract, at)
    truth, local = rows.truth[at], stage >= 0 if only is None else stage == only
    best = np.where(label >= 0, label, seen.logits[-1][at].argmax(axis=1))
    return Counter(
        n=len(at),
        right=int((best == truth).sum()),
        local=int(local.sum()),
        wrong=int((local & (label != truth)).sum()),
        under=int((local & (label < truth)).sum()),
    )
