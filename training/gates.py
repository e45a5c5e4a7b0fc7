"""How far the stages of models/default may decide, and under which contract. Used by rebuild_default.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from plan import SEED

from prerouter import certify, stages
from prerouter.certify import Contract, Part, Scored
from prerouter.embedcache import CachedEncoder
from prerouter.encoder import load_encoder
from prerouter.modelfolder import Stage
from prerouter.stages import Learnt
from prerouter.trainset import Table

# Share of known requests that each stage's guard may turn away: what decides how far the model reaches on sources that
# it never saw. SHARPNESS: a stage's largest risk as a share of the common gate's. Both chosen in README.md's rotations.
LOST = (0.025, 0.20)
SHARPNESS = (0.5, 1.0)
# The gate decides no more than this share of the calibrate rows, whatever the contract would allow: from there on
# errors on sources that were never seen grow faster than what is decided (README.md).
REACH = 0.50
# Strictest first. The one taken is the first that opens and decides MIN_COVERAGE in MIN_POWER of simulated draws.
LIMITS = ((0.01, 0.03), (0.02, 0.05), (0.03, 0.06), (0.04, 0.07), (0.05, 0.08), (0.05, 0.10))  # under, disagreement
MIN_COVERAGE, MIN_POWER, DRAWS = 0.45, 0.80, 200


def learnt(closed: Sequence[Stage], cache: Path | None) -> tuple[Learnt, ...]:
    """What the stages learnt. cache: where features are kept."""
    return tuple(
        Learnt(stage.encoder, CachedEncoder(load_encoder(stage.encoder), cache), stage.head, sharpness=sharpness)
        for stage, sharpness in zip(closed, SHARPNESS, strict=True)
    )


def closed_stages(made: Sequence[Learnt], parts: Mapping[Part, Table]) -> tuple[Stage, ...]:
    """The stages with temperature and guard, no gate yet."""
    pairs = zip(made, LOST, strict=True)
    return tuple(stages.closed(each, parts, lost=lost, max_lost=lost, seed=SEED) for each, lost in pairs)


def choose_contract(
    closed: Sequence[Stage], made: Sequence[Learnt], parts: Mapping[Part, Table]
) -> tuple[Contract, dict[str, float]]:
    """The strictest contract that the calibrate rows say the data carries, and each one's share of draws.

    Certify is not looked at: choosing among certificates by which of them opens would break their confidence.
    """
    power, sizes = {}, (len(parts["calibrate"].truth), len(parts["certify"].truth))
    for contract in (Contract(*limits) for limits in LIMITS):
        power[contract] = share_opened(stages.scored(closed, made, contract, parts["calibrate"]), contract, sizes)
    chosen = next((contract for contract, share in power.items() if share >= MIN_POWER), contract)
    return chosen, {f"{c.max_under:.1%} / {c.max_disagreement:.0%}": share for c, share in power.items()}


def share_opened(everyone: Scored, contract: Contract, sizes: tuple[int, int]) -> float:
    """Share of draws of calibrate and certify parts of these sizes whose gate opens and decides MIN_COVERAGE."""
    rng, opened = np.random.default_rng(SEED), 0
    for _ in range(DRAWS):
        calibrate, rest = (everyone.take(rng.integers(0, len(everyone.truth), n)) for n in sizes)
        path = stages.path_within(calibrate, contract, REACH)
        n_passed = certify.walk(path, rest, contract)
        thresholds = (path[n_passed - 1],) * len(rest.risk) if n_passed else ()
        opened += n_passed > 0 and certify.tally(rest, thresholds).n_accepted >= MIN_COVERAGE * sizes[1]
    return opened / DRAWS
