"""How often does the certificate lie? python training/benchmarks/certificate.py DATA_DIR [MODEL_DIR]

Populations whose true risk at every gate is known: two synthetic ones, with honest and with overconfident
probabilities, and the shipped data's own rows that were not fitted, as both stages of the shipped model see them. From
each, calibrate and certify parts are drawn with replacement, DRAWS times, and the whole procedure is run. A violation
is an open gate at which the population's own under-routing or disagreement is above the contract. At 95 % confidence
the lower 95 % bound of the violation rate must be at most 5 %. Prints a table and writes certificate.json beside this
file; exits 1 when a bound is broken. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent.parent))
import gates
from rows import labelled, read_rows, split

from prerouter import certify, modelfolder, stages
from prerouter.certify import Contract, Scored
from prerouter.errors import PreRouterError
from prerouter.files import shipped

DRAWS = 2000
SIZES = (600, 2400)  # rows of calibrate and certify, about the shipped model's
CONTRACTS = tuple(Contract(*limits) for limits in gates.LIMITS[1:])

Population = Callable[[Contract], Scored]


def main() -> int:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description="How often does the certificate lie?")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds requests/*.jsonl")
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", nargs="?", default=shipped("models/default"))
    options = parser.parse_args()
    try:
        real = shipped_rows(options.data, options.model)
    except PreRouterError as error:
        print(f"certificate: error: {error}", file=sys.stderr)
        return error.exit_code
    populations = {"synthetic": synthetic(1.0), "synthetic, overconfident": synthetic(0.5), "shipped data": real}
    found = []
    for name, population in populations.items():
        for contract in CONTRACTS:
            found.append({"population": name} | simulate(population(contract), contract))
            print(json.dumps(found[-1]), flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps({"draws": DRAWS, "runs": found}, indent=1) + "\n")
    return int(any(run["violation_lower_95"] > 0.05 for run in found))


def synthetic(temperature: float) -> Population:
    """100,000 rows of one stage whose labels are drawn from the true probabilities; the guard turns 5 % away.

    A temperature below 1 makes the stated probabilities more extreme than the true ones.
    """
    rng = np.random.default_rng(0)
    true = certify.softmax(rng.normal(size=(100_000, 3)) * 3)
    truth = (rng.random(len(true))[:, None] > true.cumsum(axis=1)).sum(axis=1).clip(max=2)
    stated, familiar = certify.softmax(np.log(true) / temperature), rng.random(len(true)) > 0.05

    def population(contract: Contract) -> Scored:
        risk = np.where(familiar, certify.risk(stated, contract), np.inf)
        return Scored(risk[None], stated.argmax(axis=1)[None], truth)

    return population


def shipped_rows(data: Path, folder: Path) -> Population:
    """The shipped data's rows in calibrate and certify, as the stages of the model in `folder` see them."""
    model = modelfolder.load(folder)
    rows = read_rows(labelled(data), model.taxonomy)
    parts = split(rows)
    rows = rows.take(np.concatenate([parts["calibrate"], parts["certify"]]))
    learnt = gates.learnt(model.stages, None)
    return lambda contract: stages.scored(model.stages, learnt, contract, rows)


def simulate(everyone: Scored, contract: Contract) -> dict[str, Any]:
    """Run the procedure DRAWS times and count."""
    rng, n_rows, n_broken, coverage = np.random.default_rng(1), len(everyone.truth), 0, []
    for _ in range(DRAWS):
        calibrate, rows = (everyone.take(rng.integers(0, n_rows, n)) for n in SIZES)
        path = certify.propose_path(calibrate, contract)
        n_passed = certify.walk(path, rows, contract)
        if n_passed:
            true = certify.tally(everyone, (path[n_passed - 1],) * len(everyone.risk))
            coverage.append(true.n_accepted / n_rows)
            n_broken += breaks(true, contract)
    return {
        "max_under": contract.max_under,
        "max_disagreement": contract.max_disagreement,
        "closed": round(1 - len(coverage) / DRAWS, 4),
        "median_coverage_when_open": round(float(np.median(coverage)), 4) if coverage else None,
        "violations": n_broken,
        "violation_rate": round(n_broken / DRAWS, 4),
        "violation_lower_95": round(certify.lower_bound(n_broken, DRAWS), 4),
    }


def breaks(true: certify.Tally, contract: Contract) -> bool:
    """Whether the population's own risk is above the contract."""
    limit = contract.max_under
    under = limit is not None and true.n_under > limit * true.n_accepted
    return under or true.n_disagreement > contract.max_disagreement * true.n_accepted


if __name__ == "__main__":
    sys.exit(main())
