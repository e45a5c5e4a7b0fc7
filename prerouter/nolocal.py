"""In place of the local stages where none were trained on the taxonomy in force: they always abstain.

Features are made all the same, by the encoder of the classifier that is there, so that `prerouter retrain` can learn
the taxonomy from the log.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prerouter.errors import ConfigError
from prerouter.local import Explanation, LocalClassifier
from prerouter.records import Request, Scores
from prerouter.taxonomy import Taxonomy

if TYPE_CHECKING:
    import numpy as np

NO_FOLDER = "0" * 12  # `Decision.model_folder_id` where no model folder has a say

_log = logging.getLogger("prerouter")


def fits(local: LocalClassifier, taxonomy: Taxonomy) -> bool:
    """Whether `local` was trained on these labels, in this order."""
    return taxonomy.names == local.taxonomy.names and taxonomy.ordered == local.taxonomy.ordered


def fitted(local: LocalClassifier, taxonomy: Taxonomy) -> LocalClassifier:
    """`local`, or one that abstains where it was trained on other labels."""
    if fits(local, taxonomy):
        return local
    what = "no local classifier of taxonomy %r: Claude classifies every request (prerouter train FILE --taxonomy %s)"
    _log.warning(what, taxonomy.name, taxonomy.handoff.folder if taxonomy.handoff else taxonomy.where)
    return NoLocal(local, taxonomy)


class NoLocal(LocalClassifier):
    """Abstains on every request. other: whose encoder makes the features."""

    def __init__(self, other: LocalClassifier, taxonomy: Taxonomy) -> None:
        self.other, self.taxonomy, self.model = other, taxonomy, other.model
        self.taxonomy_names, self.ordered = taxonomy.names, taxonomy.ordered
        self.text_version, self.fingerprint = other.text_version, other.fingerprint
        self.model_folder_id, self.certificate = NO_FOLDER, replace(other.certificate, valid=False)

    def score(self, request: Request, *, strict: bool = False) -> Scores:
        return self._abstained(self.other.features([request])[0])

    def score_many(self, requests: Sequence[Request], *, strict: bool = False) -> list[Scores]:
        return [self._abstained(features) for features in self.other.features(requests)] if requests else []

    def every_stage(self, request: Request, scores: Scores | None = None) -> tuple[Scores, ...]:
        return ()

    def probabilities(self, requests: Sequence[Request]) -> list[tuple[tuple[float, ...], ...]]:
        return [() for _ in requests]

    def warm(self) -> None:
        """There is nothing to load."""

    def explain(self, request: Request) -> Explanation:
        step = "prerouter train FILE --taxonomy, then name the model folder"
        raise ConfigError(f"no local classifier of {self.taxonomy.name!r}", where=self.taxonomy.where, next_step=step)

    def _abstained(self, features: np.ndarray) -> Scores:
        return Scores(self.taxonomy.default, (), 0, "gate_closed", 0.0, 0.0, 0.0, 0.0, features)
