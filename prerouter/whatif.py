"""`prerouter report --what-if`: the audited requests of the log under another model folder or another contract.

Only heads rows count, unweighted: their coin fell before anything was decided, so they are a random sample of all
requests, and each has the labeller's label. The replay works from stored features; see `replay` for what it takes from
the log where the text was not kept.
"""

from __future__ import annotations

import datetime
import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter import certify, modelfolder, replay
from prerouter.certify import Contract, Provenance
from prerouter.challenger import like
from prerouter.costs import ABSTAINED
from prerouter.errors import ConfigError, DataError, ModelFolderError
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.logreport import YEAR_S
from prerouter.modelfolder import Certificate, FolderModel
from prerouter.pairs import rate
from prerouter.progress import Progress
from prerouter.replay import Heads
from prerouter.routelog import LogRow, RouteLog
from prerouter.router import PreRouter
from prerouter.savings import Answered

MOST = 20_000  # heads rows that are replayed, the newest: more would tell little more and cost memory
PROPOSING = 0.2  # of the rows propose gates under another contract, the rest test them
_NOW = datetime.datetime.now
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Side:
    """How n audited requests were decided, or would have been. local: decided locally. usd: of `priced` of them, for
    answers at the same tokens and for asking."""

    n: int
    local: int
    disagreement: int
    under: int
    priced: int
    usd: float

    def to_json(self, ordered: bool) -> dict[str, Any]:
        """As a JSON object."""
        under = rate(self.under, self.local) if ordered else None
        joint = rate(self.under, self.n) if ordered else None
        return {
            "coverage": rate(self.local, self.n),
            "disagreement": rate(self.disagreement, self.local),
            "under_routing": under,
            "joint_disagreement": rate(self.disagreement, self.n),
            "joint_under_routing": joint,
            "usd_per_1000": round(1000 * self.usd / self.priced, 6) if self.priced else None,
        }


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What came out. left: {why: heads rows that say nothing}. changed: {how: requests}, see `_changes`.

    certificate: that these rows would give, where another contract was asked about; else None.
    """

    model_folder_id: str
    ordered: bool
    contract: Contract
    before: Side
    after: Side
    changed: Mapping[str, int]
    left: Mapping[str, int]
    certificate: Certificate | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        made = self.contract
        return {
            "model_folder_id": self.model_folder_id,
            "max_under": made.max_under,
            "max_disagreement": made.max_disagreement,
            "rows": self.before.n,
            "left_out": dict(self.left),
            "as_it_was": self.before.to_json(self.ordered),
            "what_if": self.after.to_json(self.ordered),
            "changed": dict(self.changed),
            "certificate": self.certificate.to_json() if self.certificate else None,
        }


@dataclass(frozen=True, slots=True)
class _Was:
    """What the log says of a row. label: index, or ABSTAINED. call: what answered, None without a known price."""

    label: int
    call: Answered | None


@dataclass(slots=True)
class _Tape:
    """The rows on their way to the replay; what was decided of each is kept by its number."""

    router: PreRouter
    names: Sequence[str]
    was: dict[int, _Was] = field(default_factory=dict)

    def of(self, rows: Iterator[LogRow]) -> Iterator[LogRow]:
        for row in deque(_counted(rows), maxlen=MOST):
            made = row.decision
            local = made.decided_by == "local" and made.label in self.names
            self.was[row.seq] = _Was(self.names.index(made.label) if local else ABSTAINED, self._call(row))
            yield row

    def _call(self, row: LogRow) -> Answered | None:
        try:
            return Answered(self.router.tiers.model(row.reply.model or ""), row.reply.usage) if row.reply else None
        except ConfigError:
            return None


def what_if(
    log: RouteLog,
    router: PreRouter,
    local: LocalClassifier,
    *,
    since: float | None,
    until: float,
    max_under: float | None = None,
    max_disagreement: float | None = None,
) -> WhatIf:
    """Replay the heads rows of [since, until) under `local`, and under another contract where one is given.

    router: what is in use, for prices. Raises DataError when no row can be replayed.
    """
    tape = _Tape(router, local.taxonomy_names)
    rows, left = _replayable(tape.of(log.rows(since, until, heads_only=True)), local, router, log.where)
    made = local.certificate
    under = (max_under or made.max_under) if local.ordered else None
    contract = Contract(under, max_disagreement or made.max_disagreement, made.confidence)
    another = (max_under, max_disagreement) != (None, None)
    rows, decided, certificate = _decided(rows, local, contract if another else None)
    was = [tape.was[seq] for seq in rows.seq.tolist()]
    before = np.array([one.label for one in was], np.int64)
    prices = _Prices(router, local, log, since, until)
    return WhatIf(
        model_folder_id=local.model_folder_id,
        ordered=local.ordered,
        contract=contract,
        before=_side(before, rows.truth, was, prices),
        after=_side(decided, rows.truth, was, prices),
        changed=_changes(before, decided),
        left=left,
        certificate=certificate,
    )


def _replayable(
    rows: Iterator[LogRow], local: LocalClassifier, router: PreRouter, where: str
) -> tuple[Heads, Mapping[str, int]]:
    """The rows that `local` can be asked about and has not learnt from; how many others there are, by the reason."""
    alike = like(local) | _alike(local.model, _folders(router.settings.workspace))
    found, left = replay.read(rows, local, alike, None)
    fresh = found.at > (local.model.training.get("log") or {}).get("learnt_up_to", 0.0)
    if not fresh.all():
        left["learnt from"] = int((~fresh).sum())
    if not fresh.any():
        why = ", ".join(f"{n:,} {name}" for name, n in left.most_common()) or "there are none"
        step = "audit more, or keep texts ([log] text = true) for models of another encoder"
        raise DataError(f"no audited request can be replayed: {why}", file=where, next_step=step)
    return found.take(fresh), left


def _decided(rows: Heads, local: LocalClassifier, contract: Contract | None) -> tuple[Heads, Ints, Certificate | None]:
    """The rows to count, their labels or ABSTAINED, and, for another contract, the certificate that they would give."""
    if contract is None:
        seen = replay.look(local, rows)
        return rows, np.where(seen.stage == ABSTAINED, ABSTAINED, seen.predicted), None
    scored = replay.scored(rows, local.model.stages, contract)
    proposing, testing = _parts(rows.keys.tolist())
    made = local.certificate
    at = _NOW(datetime.UTC).isoformat(timespec="seconds")
    whose = Provenance(made.labelled_by, made.prompt_id, "what if", local.text_version, at)
    path = certify.propose_path(scored.take(proposing), contract)
    found = certify.certify(path, scored.take(testing), contract, whose)
    gate = (-1.0 if found.threshold is None else found.threshold,) * len(scored.risk)
    tested = scored.take(testing)
    stage = certify.decide(tested, gate)
    label = np.where(stage == ABSTAINED, ABSTAINED, tested.predicted[stage, np.arange(len(stage))])
    return rows.take(testing), label, found.certificate


def _parts(keys: Sequence[str]) -> tuple[Ints, Ints]:
    """Positions of the rows that propose, and of those that test: there, equal requests count once."""
    draws = {key: hashlib.sha256(key.encode()).digest()[0] / 256 for key in keys}
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    proposing = [i for i, key in enumerate(keys) if draws[key] < PROPOSING]
    testing = [i for key, i in first.items() if draws[key] >= PROPOSING]
    return np.array(proposing, np.int64), np.array(sorted(testing), np.int64)


class _Prices:
    """What a request costs by its label, with the tokens that its answer had."""

    def __init__(
        self, router: PreRouter, local: LocalClassifier, log: RouteLog, since: float | None, until: float
    ) -> None:
        tiers = [
            router.taxonomy.tier_of(name) if name in router.taxonomy.names else None for name in local.taxonomy_names
        ]
        self._models = [router.tiers.model(router.tiers.first_model(tier)) if tier else None for tier in tiers]
        asked = [row for row in log.rollups(since, until, step_s=YEAR_S) if row.decided_by == "llm"]
        n = sum(row.rows for row in asked)
        self._question = Decimal(sum(row.cost_usd for row in asked) / n) if n else Decimal(0)

    def usd(self, decided: int, truth: int, call: Answered | None) -> Decimal | None:
        """US dollars: at the tier of the local label, or, asked about, of the labeller's."""
        model = self._models[truth if decided == ABSTAINED else decided]
        if call is None or model is None:
            return None
        return call.at(model) + (self._question if decided == ABSTAINED else 0)


def _counted(rows: Iterator[LogRow]) -> Iterator[LogRow]:
    with Progress("reading audited requests") as progress:
        for row in rows:
            progress.advance(1)
            yield row


def _side(decided: Ints, truth: Ints, was: Sequence[_Was], prices: _Prices) -> Side:
    local = decided != ABSTAINED
    rows = zip(decided.tolist(), truth.tolist(), was, strict=True)
    usd = [cost for label, right, one in rows if (cost := prices.usd(label, right, one.call)) is not None]
    return Side(
        n=len(truth),
        local=int(local.sum()),
        disagreement=int((local & (decided != truth)).sum()),
        under=int((local & (decided < truth)).sum()),
        priced=len(usd),
        usd=float(sum(usd, Decimal(0))),
    )


def _changes(before: Ints, after: Ints) -> dict[str, int]:
    was, now = before != ABSTAINED, after != ABSTAINED
    return {
        "newly_local": int((~was & now).sum()),
        "no_longer_local": int((was & ~now).sum()),
        "other_label": int((was & now & (before != after)).sum()),
    }


def _folders(workspace: Path | None) -> list[Path]:
    """The model folders at hand: their ids stand in the log."""
    own = sorted((workspace / "models").glob("*/model.json")) if workspace else []
    return [shipped("models/default"), *(path.parent for path in own if not path.parent.is_symlink())]


def _alike(model: FolderModel, folders: Sequence[Path]) -> frozenset[str]:
    """Ids of those folders whose guard words and later stages are the model's: their logged scores hold for it."""
    found = set()
    for folder in folders:
        try:
            other = modelfolder.load(folder)
        except (ModelFolderError, ConfigError):
            continue
        if _same_words(model, other) and _same_later(model, other):
            found.add(other.model_folder_id)
    return frozenset(found)


def _same_words(one: FolderModel, other: FolderModel) -> bool:
    a, b = one.stages[0].guard, other.stages[0].guard
    return (a.words, a.max_unknown) == (b.words, b.max_unknown)


def _same_later(one: FolderModel, other: FolderModel) -> bool:
    pairs = list(zip(one.stages[1:], other.stages[1:], strict=False))
    if len(one.stages) != len(other.stages) or one.taxonomy.names != other.taxonomy.names:
        return False
    return all(_same_stage(a, b) for a, b in pairs)


def _same_stage(a: modelfolder.Stage, b: modelfolder.Stage) -> bool:
    if (a.fingerprint, a.temperature, a.guard.limit) != (b.fingerprint, b.temperature, b.guard.limit):
        return False
    arrays = [(a.head.weights, b.head.weights), (a.head.bias, b.head.bias), (a.guard.centroids, b.guard.centroids)]
    arrays += [(a.head.signal_mean, b.head.signal_mean)]
    return all(x.shape == y.shape and bool((x == y).all()) for x, y in arrays)
