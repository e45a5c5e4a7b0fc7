"""A challenger from the routing log: its model folder, what is recorded of it, and its comparison with the champion."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prerouter import compare, figures, modelfolder, overlap, reference, replay, training
from prerouter.certify import Contract, Provenance, lower_bound, tally
from prerouter.compare import Comparison, Pair
from prerouter.encoder import load_encoder
from prerouter.errors import DataError, ModelFolderError
from prerouter.figures import Seen
from prerouter.local import LocalClassifier
from prerouter.logset import LogSet
from prerouter.modelcard import card
from prerouter.modelfolder import FolderModel
from prerouter.recipe import Recipe
from prerouter.relearn import Relearnt, relearn
from prerouter.taxonomy import Taxonomy

KEPT_HEAD = "the parent's"  # in the record; else "learnt"
KEPT = 200  # ids of ancestors whose logged scores still hold; older ones are out of any log by then


def like(local: LocalClassifier) -> frozenset[str]:
    """Ids of the model folders whose guard words and later stages are those of `local`, which is one of them."""
    return frozenset((local.model_folder_id, *local.model.training.get("kept_from", ())))


@dataclass(frozen=True, eq=False)
class Build:
    """What a challenger is made of. parent: the model in use. seqs: the first and last row of the log.

    learn_words: whether the guard learns words, where texts allow it.
    """

    parent: LocalClassifier
    taxonomy: Taxonomy
    recipe: Recipe
    rows: LogSet
    provenance: Provenance
    seqs: tuple[int, int]
    learn_words: bool

    @cached_property
    def digest(self) -> str:
        """12 hex characters: the same for the same rows, parent, recipe and versions."""
        made_by = (self.parent.model_folder_id, self.recipe, self.learn_words, modelfolder.versions("scikit-learn"))
        rows, digest = self.rows, hashlib.sha256(repr(made_by).encode())
        for part in (rows.calibrate, rows.certify, rows.holdout, rows.fit):
            digest.update(np.ascontiguousarray(part.features).tobytes())
            digest.update(part.truth.tobytes())
        return digest.hexdigest()[:12]

    def whole(self, folder: Path) -> FolderModel | None:
        """The model that an earlier call, ended before its own end, left in `folder`; None where there is none."""
        with suppress(ModelFolderError):
            return LocalClassifier.load(folder).model
        return None

    def write(self, folder: Path) -> FolderModel:
        """Learn, certify, measure on the rows held out, write."""
        encoders = [load_encoder(stage.encoder) for stage in self.parent.model.stages]
        found = relearn(self.rows, self.parent, encoders[0], self.recipe, self.provenance, learn_words=self.learn_words)
        model = FolderModel(
            taxonomy=self.taxonomy,
            text_version=self.parent.text_version,
            stages=found.stages,
            certificate=found.outcome.certificate,
            probes=(),
            versions=modelfolder.versions("scikit-learn", "tokenizers", "safetensors"),
        )
        local = LocalClassifier(model, encoders)
        seen = replay.look(local, self.rows.holdout, self.rows.holdout_groups)
        measured = figures.summarise(seen, local, {}, seed=self.recipe.seed).to_json()
        measured |= {"measured_on": "audited rows of the log, the newest", "ceiling": None}
        measured.pop("certificate")
        record = self._record(found) | self._seen(found, encoders[0].n_dims)
        model = replace(model, figures=measured, training=record, probes=training.probes(local))
        modelfolder.save(folder, model, card(model))
        return LocalClassifier.load(folder).model  # as a user would: hashes and probes are checked

    def broken(self, model: FolderModel) -> str | None:
        """How the newest audited rows contradict the certificate of `model`, or None.

        It was earned on somewhat older rows, and traffic may have changed since: a lower bound above the limit says so.
        """
        made, held = model.certificate, self.rows.holdout
        if not made.valid:
            return None
        contract = Contract(made.max_under, made.max_disagreement, made.confidence)
        gates = [-1.0 if stage.gate.threshold is None else stage.gate.threshold for stage in model.stages]
        found = tally(replay.scored(held, model.stages, contract), gates)
        kinds = [("differ from the labeller's", found.n_disagreement, made.max_disagreement)]
        kinds += [("go lower", found.n_under, made.max_under)] if made.max_under is not None else []
        for what, errors, limit in kinds:
            least = lower_bound(errors, found.n_accepted, made.confidence)
            if least > limit:
                of = f"{errors:,} of {found.n_accepted:,} local decisions"
                return f"on the newest audited rows {of} {what}: at least {least:.1%}, {limit:.1%} are allowed"
        return None

    def compared(self, challenger: LocalClassifier, champion: LocalClassifier, fixed: Sequence[Path]) -> Comparison:
        """Both on the newest audited rows, and on as many of the rows held out for ever."""
        held, groups = self.rows.holdout, self.rows.holdout_groups
        pair = Pair(replay.look(challenger, held, groups), replay.look(champion, held, groups))
        with suppress(DataError):  # no row is left that neither learnt from
            pair = _joined(pair, compare.look(challenger, champion, fixed)) if fixed else pair
        return compare.judge(challenger, champion, pair, seed=self.recipe.seed)

    def _seen(self, found: Relearnt, n_dims: int) -> dict[str, Any]:
        """What the monitor compares live traffic with; see `reference`."""
        made, rows = found.outcome.certificate, self.rows
        contract = Contract(made.max_under, made.max_disagreement, made.confidence)
        certified = replay.scored(rows.certify, found.stages, contract)
        held_out = np.concatenate([rows.calibrate.features, rows.certify.features])[:, :n_dims]
        return reference.record(self.taxonomy.names, found.stages, certified, held_out)

    def _record(self, found: Relearnt) -> dict[str, Any]:
        rows, before = self.rows, self.parent.model.training
        heads = {"calibrate": rows.calibrate, "certify": rows.certify, "holdout": rows.holdout}
        parts = {"fit": rows.fit.truth} | {name: part.truth for name, part in heads.items()}
        truth = np.concatenate(list(parts.values()))
        base = rows.origins.get("base", 0)
        return {
            "parent": self.parent.model_folder_id,
            "kept_from": [] if found.new_words else sorted(like(self.parent))[-KEPT:],
            "log": {
                "first_seq": self.seqs[0],
                "last_seq": self.seqs[1],
                "learnt_up_to": rows.learnt_up_to,
                "origins": dict(rows.origins),
                "left_out": dict(rows.left),
            },
            "fingerprint": self.digest,
            "files": {"routing log": sum(rows.origins.values()) - base} | ({"base labels": base} if base else {}),
            "rows": {name: len(part) for name, part in parts.items()},
            "groups": len({*rows.fit.groups, *rows.holdout_groups}) + len(rows.calibrate) + len(rows.certify),
            "labels": {name: int((truth == i).sum()) for i, name in enumerate(self.taxonomy.names)},
            "novel": len(rows.novel_texts),
            "novel_label": before.get("novel_label"),
            "text_version": self.parent.text_version,
            "duplicates": {"exact": rows.duplicates, "near": 0, "overlap": 0},
            "contradictions": 0,
            "encoder": before.get("encoder", "of the parent"),
            "candidates": [],
            "C": found.search.strength,
            "cross_validation": {str(c): round(loss, 5) for c, loss in found.search.losses.items()},
            "signals": found.search.signals,
            "head": KEPT_HEAD if found.kept_head else "learnt",
            "recipe": asdict(self.recipe) | {"encoder": list(self.recipe.encoder)},
            "seed": self.recipe.seed,
            "row_hashes": overlap.remember(rows.fit_texts),
            "encoder_hashes": overlap.of_encoders(before),
        }


def _joined(recent: Pair, fixed: Pair) -> Pair:
    """The rows of both, of the fixed ones no more than of the recent ones: the traffic of today shall decide."""
    n = len(recent.champion.truth)
    at = np.sort(np.random.default_rng(0).permutation(len(fixed.champion.truth))[:n])
    sides = ((recent.challenger, fixed.challenger), (recent.champion, fixed.champion))
    joined = [_concatenated(one, other, at) for one, other in sides]
    return Pair(joined[0], joined[1], fixed.n_known, fixed.unchecked)


def _concatenated(one: Seen, other: Seen, at: Any) -> Seen:
    names = ("truth", "predicted", "stage", "confidence", "strangeness")
    columns = {name: np.concatenate([getattr(one, name), getattr(other, name)[at]]) for name in names}
    shift = one.groups.max(initial=-1) + 1
    groups = np.unique(np.concatenate([one.groups, other.groups[at] + shift]), return_inverse=True)[1]
    return Seen(**columns, groups=groups.astype(np.int64))
