"""A simulated quarter: does retraining from the log keep up? python training/benchmarks/quarter.py DATA_DIR

Requests are drawn with replacement from 30 intents of banking77. A champion is trained on ten of them, with four rows
of each other one. After a month the mixture shifts, ten further intents join, and after two it shifts again; in the
middle of each of these months `prerouter.retrain` is called once. The stated labels stand for the labeller: they answer
what falls through, and the heads rows of the audit coin. As in a running service the live bound closes the gate of a
label whose audits break the certificate, so that a shift costs coverage, not correctness, until the next retrain. No
text is in the log but for the last comparison: one log is retrained from with its texts and after they were deleted,
and both champions are asked the same requests.

Writes quarter.json beside this file; exits 1 when a retrain gains less than 10 points of coverage, when the local
decisions after it break the contract, when the mean of the audit estimates is more than 2 standard errors from the
truth, or when retraining without texts differs by more than a point. Takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prerouter import PreRouter, RouteLog, gatestate, livebound, retrain, train
from prerouter.errors import PreRouterError
from prerouter.examples import read_bodies
from prerouter.gatestate import ClosedGates
from prerouter.routelog import RowLabel
from prerouter.settings import Settings, load_settings
from prerouter.text import render

N_INTENTS = 10  # that join at a time, in the order of their names
BASE_ROWS = (40, 4)  # of each intent to train the first champion on: of the first ten, and of the others
MIXTURES = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.3, 0.3, 0.4))  # shares of the three tens, by month
LABELLED_BY = "stated"
CONTRACT = 0.10  # of local decisions, at most, differ: the recipe's
DAY = 86_400.0
START = 1_800_000_000.0  # UTC seconds
N_MONTH = 8_000  # requests
AUDITED = 0.15
LOOK = 250  # requests between two looks of the live bound
SETTINGS = f"[audit]\nask = false\nrate = {AUDITED}\n[retrain]\ndays = 45\n"


def main() -> int:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description="Does retraining from the log keep up?")
    parser.add_argument(
        "data", type=Path, metavar="DATA_DIR", help="the folder that holds intents/banking77_train.jsonl"
    )
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as place:
            found = quarter(options.data, Path(place))
    except PreRouterError as error:
        print(f"quarter: error: {error}", file=sys.stderr)
        return error.exit_code
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "halves"}, indent=1))
    too_little = min(found["coverage_gained"]) < 0.10 or max(found["disagreement_after"]) > CONTRACT
    return int(too_little or abs(found["audit_z"]) > 2 or found["without_texts"]["largest_difference"] > 0.01)


def quarter(data: Path, place: Path) -> dict[str, Any]:
    """The whole simulation in the folder `place`."""
    traffic, settings = Traffic.read(data), _workspace(place / "team", "")
    first = place / "team" / "labels" / "base.jsonl"
    first.write_text("".join(json.dumps(row) + "\n" for row in traffic.base))
    models = place / "team" / "models"
    trained = train(first, models / "first", taxonomy="infer", encoder="static", track=False, settings=settings)
    (models / "champion").symlink_to("first")
    halves, retrained = [], []
    for month, mixture in enumerate(MIXTURES):
        for half in range(2):
            at = START + (month + half / 2) * 30 * DAY
            halves.append({"month": month + 1, "half": half + 1} | serve(settings, traffic, mixture, at))
            print(json.dumps(halves[-1]), flush=True)
            if month and not half:
                retrained.append(_retrained(settings, at + 15 * DAY))
                print(json.dumps(retrained[-1]), flush=True)
    z = [half["audit_error"] / half["audit_se"] for half in halves]
    return {
        "first_certificate": trained.figures.to_json()["certificate"],
        "halves": halves,
        "retrained": retrained,
        "coverage_gained": [
            round(halves[2 * month + 1]["coverage"] - halves[2 * month]["coverage"], 4) for month in (1, 2)
        ],
        "disagreement_after": [halves[3]["disagreement"], halves[5]["disagreement"]],
        "audit_z": round(sum(z) / math.sqrt(len(z)), 3),
        "without_texts": _without_texts(place, traffic),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """pools: the requests of each ten intents, with their labels. base: rows that are in none of them."""

    pools: tuple[list[tuple[str, str]], ...]
    base: list[dict[str, str]]
    rng: np.random.Generator

    @classmethod
    def read(cls, data: Path) -> Traffic:
        """From banking77. Raises DataError."""
        by_intent: dict[str, list[str]] = {}
        for _, row in read_bodies(data / "intents" / "banking77_train.jsonl"):
            by_intent.setdefault(row["label"], []).append(row["text"])
        tens = [sorted(by_intent)[i : i + N_INTENTS] for i in range(0, len(MIXTURES) * N_INTENTS, N_INTENTS)]
        pools, base = [], []
        for i, names in enumerate(tens):
            n = BASE_ROWS[min(i, 1)]
            base += [{"text": t, "label": x, "labelled_by": LABELLED_BY} for x in names for t in by_intent[x][:n]]
            pools.append([(words, name) for name in names for words in by_intent[name][n:]])
        return cls(tuple(pools), base, np.random.default_rng(0))

    def draw(self, mixture: Sequence[float], n: int) -> list[tuple[str, str]]:
        """n texts with their labels."""
        found = []
        for i in self.rng.choice(len(mixture), n, p=mixture).tolist():
            found.append(self.pools[i][int(self.rng.integers(len(self.pools[i])))])
        return found


def serve(
    settings: Settings, traffic: Traffic, mixture: Sequence[float], at: float, n: int = N_MONTH // 2
) -> dict[str, float]:
    """Route n requests through the champion and log them, from `at` on over half a month."""
    local = wrong = heads_wrong = 0
    clock = _Clock(at, 15 * DAY / n)
    with RouteLog.open(settings=settings, clock=clock) as log, PreRouter.load(settings=settings) as router:
        log_one, gates = _logger(router, log), ClosedGates(log, rpm=1)
        router.gates = gates
        for i, (words, label) in enumerate(traffic.draw(mixture, n)):
            clock.step()
            audit, by_local, is_wrong = log_one(words, label, traffic.rng.random() < AUDITED)
            local, wrong = local + by_local, wrong + is_wrong
            heads_wrong += audit and is_wrong
            if i % LOOK == 0:
                log.flush(60)
                livebound.advance(log, router.local)
                gates.look()
        log.flush(60)
        n_closed = len(gatestate.closed(log, router.local.model_folder_id))
    # Horvitz & Thompson's estimate of the share of all requests that local decided wrongly: unbiased although what the
    # audits find closes gates, for each coin is independent of all that came before it.
    true, estimate = wrong / n, heads_wrong / AUDITED / n
    return {
        "coverage": round(local / n, 4),
        "disagreement": round(wrong / local, 4),
        "closed_labels": n_closed,
        "joint_disagreement": round(true, 4),
        "audit_estimate": round(estimate, 4),
        "audit_error": estimate - true,
        "audit_se": math.sqrt(wrong * (1 - AUDITED) / AUDITED) / n,
    }


def _logger(router: PreRouter, log: RouteLog) -> Callable[[str, str, bool], tuple[bool, bool, bool]]:
    """What routes one request, logs it, and says: audited, decided locally, decided wrongly."""

    def one(words: str, label: str, audit: bool) -> tuple[bool, bool, bool]:
        request = render(words)
        scores = router.local.score(request)
        made = replace(router.decide(words, local_only=True), audit=audit, audit_p=AUDITED)
        by_local = made.decided_by == "local"
        if not by_local:
            made = replace(made, label=label, decided_by="llm", reason="classified")
        row = log.append(
            request,
            made,
            scores=scores,
            fingerprint=router.local.fingerprint,
            mode="on",
            labelled_by=None if by_local else LABELLED_BY,
        )
        if audit and by_local:
            log.add_label(row, RowLabel(label, "audit", labelled_by=LABELLED_BY))
        return audit, by_local, by_local and made.label != label

    return one


def _retrained(settings: Settings, now: float) -> dict[str, Any]:
    found = retrain(settings=settings, track=False, clock=lambda: now)
    shown = found.model.certificate if found.model else None
    return {
        "promoted": found.promoted,
        "why": found.why,
        "rows": dict(found.rows),
        "n_certify": shown.n_certify if shown else None,
        "upper_disagreement": shown.upper_disagreement if shown else None,
        "C": found.model.training["C"] if found.model else None,
        "seconds": round(found.seconds, 1),
    }


def _without_texts(place: Path, traffic: Traffic) -> dict[str, Any]:
    """One log with texts, retrained from with and without them, and what both champions do on the same requests."""
    settings = _workspace(place / "texts", "[log]\ntext = true\n")
    shutil.copytree(place / "team" / "models" / "first", place / "texts" / "models" / "first")
    shutil.copyfile(place / "team" / "labels" / "base.jsonl", place / "texts" / "labels" / "base.jsonl")
    (place / "texts" / "models" / "champion").symlink_to("first")
    serve(settings, traffic, MIXTURES[2], START, N_MONTH)
    shutil.copytree(place / "texts", place / "features", symlinks=True)
    with closing(sqlite3.connect(place / "features" / ".prerouter" / "routes.db")) as db:
        db.execute("UPDATE rows SET text = NULL")
        db.commit()
    asked = traffic.draw(MIXTURES[2], 8_000)
    found = {name: _champion(load_settings(place / name), asked) for name in ("texts", "features")}
    keys = ("accuracy", "coverage", "disagreement")
    return found | {"largest_difference": round(max(abs(found["texts"][k] - found["features"][k]) for k in keys), 4)}


def _champion(settings: Settings, asked: list[tuple[str, str]]) -> dict[str, Any]:
    made = _retrained(settings, START + 31 * DAY)
    with PreRouter.load(settings=settings) as router:
        decisions = router.decide_many([words for words, _ in asked])
    pairs = list(zip(decisions, asked, strict=True))
    local = [one.label == label for one, (_, label) in pairs if one.decided_by == "local"]
    right = sum(max(one.probabilities, key=one.probabilities.__getitem__) == label for one, (_, label) in pairs)
    return made | {
        "accuracy": right / len(asked),
        "coverage": len(local) / len(asked),
        "disagreement": 1 - sum(local) / len(local),
    }


def _workspace(folder: Path, more: str) -> Settings:
    (folder / "models").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "prerouter.toml").write_text(SETTINGS + more)
    return load_settings(folder)


class _Clock:
    def __init__(self, at: float, step: float) -> None:
        self._at, self._step = at, step

    def step(self) -> None:
        self._at += self._step

    def __call__(self) -> float:
        return self._at


if __name__ == "__main__":
    sys.exit(main())
