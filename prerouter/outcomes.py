"""`prerouter label --from-outcomes`: scores of past answers, by tier -> the cheapest tier that did the job.

Labels from outcomes ask nobody's opinion. Of tiers whose scores are equal the cheapest is taken, and a stronger tier
that did worse than a weaker one changes nothing: what counts is the cheapest that was good enough.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from prerouter.errors import ConfigError, DataError
from prerouter.examples import body_of, read_bodies
from prerouter.files import expanded, open_output
from prerouter.progress import Progress
from prerouter.settings import Settings, load_settings
from prerouter.tables import did_you_mean
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

NoneEnough = Literal["skip", "top", "cheapest"]
THRESHOLD = 0.5  # of scores in [0, 1], where correct is 1
LABELLED_BY = "outcomes"


@dataclass(frozen=True, slots=True)
class Rules:
    """How scores become labels. Make it with `load`.

    labels: (tier, label) pairs, weakest tier first. threshold: the least score that is good enough; None: THRESHOLD,
    and scores must be in [0, 1]. none_enough: what a row gets of which no tier was: no label, the top or cheapest one.
    """

    labels: tuple[tuple[str, str], ...]
    threshold: float | None = None
    none_enough: NoneEnough = "skip"

    @classmethod
    def load(
        cls, taxonomy: Taxonomy, tiers: TierTable, *, threshold: float | None = None, none_enough: NoneEnough = "skip"
    ) -> Rules:
        """The rules for a taxonomy. Raises ConfigError where a tier does not say which label is meant."""
        if not taxonomy.has_tiers:
            step = "give each label a tier, or pass --taxonomy"
            raise ConfigError("the taxonomy has no tiers", where=taxonomy.where, next_step=step)
        pairs = sorted(((label.tier or "", label.name) for label in taxonomy.labels), key=lambda p: tiers.rank(p[0]))
        shared = [tier for tier, n in Counter(tier for tier, _ in pairs).items() if n > 1]
        if shared:
            what = f"several labels go to tier {shared[0]!r}: scores by tier cannot tell them apart"
            raise ConfigError(what, where=taxonomy.where, next_step="use a taxonomy with one label a tier")
        if threshold is not None and not math.isfinite(threshold):
            raise ConfigError(f"threshold is {threshold}", where="--threshold", next_step="choose a finite number")
        return cls(tuple(pairs), threshold, none_enough)

    @property
    def least(self) -> float:
        """The least score that is good enough."""
        return THRESHOLD if self.threshold is None else self.threshold

    @property
    def id(self) -> str:
        """12 hex characters: what a certificate names as the prompt of labels made by these rules."""
        content = json.dumps([self.labels, self.threshold, self.none_enough])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def label(self, scores: Mapping[str, float]) -> str | None:
        """The label of the cheapest tier that was good enough; None: no label. A tier without a score was not tried."""
        enough = (name for tier, name in self.labels if tier in scores and scores[tier] >= self.least)
        otherwise = {"skip": None, "top": self.labels[-1][1], "cheapest": self.labels[0][1]}
        return next(enough, otherwise[self.none_enough])

    def untried(self, scores: Mapping[str, float], label: str) -> bool:
        """Whether a tier below that of `label` has no score, so that a cheaper label may have been right."""
        names = [name for _, name in self.labels]
        return any(tier not in scores for tier, _ in self.labels[: names.index(label)])

    def scores(self, row: Mapping[str, Any], file: object, line: int) -> dict[str, float]:
        """A row's scores by tier, checked. Raises DataError."""
        found, tiers = row.get("scores"), [tier for tier, _ in self.labels]
        if not isinstance(found, Mapping) or not any(value is not None for value in found.values()):
            step = f'add "scores": {{{tiers[0]!r}: 0, ...}}, or leave the row out'.replace("'", '"')
            raise DataError("`scores` is missing or empty", file=file, line=line, next_step=step)
        given = {tier: value for tier, value in found.items() if value is not None}
        for tier, value in given.items():
            if tier not in tiers:
                raise DataError(
                    f"scores: unknown tier {tier!r}", file=file, line=line, next_step=did_you_mean(tier, tiers)
                )
            self._check(tier, value, file, line)
        return {tier: float(value) for tier, value in given.items()}

    def _check(self, tier: str, value: Any, file: object, line: int) -> None:
        if not isinstance(value, int | float) or not math.isfinite(value):
            step = "mend the row or leave it out"
            raise DataError(f"scores: {tier} must be a number, not {value!r}", file=file, line=line, next_step=step)
        if self.threshold is None and not 0 <= value <= 1:
            step = "say with --threshold from which score on an answer is good enough"
            raise DataError(f"scores: {tier} is {value:g}, not in [0, 1]", file=file, line=line, next_step=step)


@dataclass(slots=True)
class Counts:
    """What came of the rows. none_enough: rows that no tier did well. untried: labels below which a tier has no score.

    upsets: rows in which a stronger tier scored lower than a weaker one: a measure of noise.
    """

    rows: int = 0
    none_enough: int = 0
    untried: int = 0
    upsets: int = 0
    distribution: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The object of `prerouter label --json`; nothing was asked, so nothing was paid."""
        labelled = sum(self.distribution.values())
        paid = {"cost_usd": 0.0, "input_tokens": 0, "output_tokens": 0}
        own = {"none_enough": self.none_enough, "untried": self.untried, "upsets": self.upsets}
        counts = {"rows": self.rows, "labelled": labelled, "failed": 0, "skipped_duplicates": 0}
        return counts | own | paid | {"distribution": dict(self.distribution), "seconds": round(self.seconds, 3)}


def label_outcomes(
    inputs: Iterable[str | Path],
    output: str | Path,
    taxonomy: Taxonomy | None = None,
    *,
    threshold: float | None = None,
    none_enough: NoneEnough = "skip",
    settings: Settings | None = None,
) -> Counts:
    """Label the rows of `inputs` (JSONL or Parquet) by their `scores` and write them, in order, to `output`.

    A row is a request with `"scores": {tier: number}`; its other fields are kept. Memory does not grow with the rows.
    Raises DataError for a broken row, and when no row got a label; ConfigError.
    """
    settings, paths, started = settings or load_settings(), list(inputs), time.monotonic()
    taxonomy = taxonomy or Taxonomy.load(settings.resolve(settings.taxonomy) if settings.taxonomy else None)
    rules = Rules.load(taxonomy, TierTable.load(settings.tiers), threshold=threshold, none_enough=none_enough)
    counts = Counts()
    at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    whose = {"labelled_by": LABELLED_BY, "prompt_id": rules.id, "labelled_at": at}
    with open_output(str(output), sources=paths) as sink, Progress("labelling") as progress:
        for path in paths:
            for line, row in read_bodies(path):
                body_of(row, path, line)
                label = _counted(rules, rules.scores(row, path, line), counts)
                if label is not None:
                    print(json.dumps(row | {"label": label} | whose, ensure_ascii=False), file=sink)
                progress.advance(1)
        if not counts.distribution:
            step = "lower --threshold, or see --none-enough"
            raise DataError("no row has a tier that was good enough", file=", ".join(map(str, paths)), next_step=step)
    counts.seconds = time.monotonic() - started
    return counts


def run_from_outcomes(options: argparse.Namespace) -> int:
    """Exit code of `prerouter label --from-outcomes`."""
    taxonomy = Taxonomy.load(expanded(options.taxonomy)) if options.taxonomy else None
    counts = label_outcomes(
        options.inputs, options.output, taxonomy, threshold=options.threshold, none_enough=options.none_enough
    )
    if options.json:
        print(json.dumps(counts.to_json(), ensure_ascii=False))
    shares = ", ".join(f"{name} {n:,}" for name, n in counts.distribution.most_common())
    notes = f"; {counts.none_enough:,} rows that no tier did well" if counts.none_enough else ""
    notes += f"; below {counts.untried:,} labels a tier was not tried" if counts.untried else ""
    notes += f"; in {counts.upsets:,} rows a stronger tier did worse" if counts.upsets else ""
    print(f"prerouter: {counts.rows:,} rows: {shares}{notes}", file=sys.stderr)
    return 0


def _counted(rules: Rules, scores: Mapping[str, float], counts: Counts) -> str | None:
    label, tried = rules.label(scores), [scores[tier] for tier, _ in rules.labels if tier in scores]
    enough = max(tried) >= rules.least
    counts.rows += 1
    counts.none_enough += not enough
    counts.upsets += any(weak > strong for weak, strong in pairwise(tried))
    if label is not None:
        counts.distribution[label] += 1
        counts.untried += enough and rules.untried(scores, label)
    return label
