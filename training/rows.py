"""The requests that models/default learns from and is tested on. Used by rebuild_default.py and the benchmarks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prerouter import certify, text
from prerouter.certify import Part
from prerouter.examples import body_of, read_bodies, read_examples
from prerouter.records import Request
from prerouter.taxonomy import Taxonomy
from prerouter.trainset import Table

FILES = ("train.jsonl", "extra.jsonl", "authored.jsonl")
SPLIT_SEED = 3
COMPARED_SHARE = 0.19  # of all groups, see `was_compared`
HERE = Path(__file__).parent
WRITTEN = HERE / "written.jsonl"


@dataclass(frozen=True, slots=True, eq=False)
class Rows(Table):
    """Labelled rows. second: (n_rows,) label indices by an independent labeller, -1 where there is none.

    sure: (n_rows,) whether the labeller was.
    """

    second: np.ndarray
    sure: np.ndarray

    def take(self, at: np.ndarray) -> Rows:
        """The rows at these positions."""
        table = Table.take(self, at)
        return Rows(table.examples, table.truth, table.groups, self.second[at], self.sure[at])

    @property
    def file(self) -> np.ndarray:
        """(n_rows,) names."""
        return np.array([Path(example.file).name for example in self.examples])

    @property
    def source(self) -> np.ndarray:
        """(n_rows,) names; the file's where a row has none."""
        return np.array([example.source or Path(example.file).stem for example in self.examples])

    @property
    def requests(self) -> list[Request]:
        """Rendered."""
        return [example.request for example in self.examples]

    def fingerprint(self) -> str:
        """12 hex over every text and label."""
        return digest(f"{label}\0{words}\0" for words, label in zip(self.texts, self.truth.tolist(), strict=True))


def joined(*tables: Rows) -> Rows:
    """All rows of all tables."""
    return Rows(
        [example for table in tables for example in table.examples],
        np.concatenate([table.truth for table in tables]),
        [group for table in tables for group in table.groups],
        np.concatenate([table.second for table in tables]),
        np.concatenate([table.sure for table in tables]),
    )


def read_rows(paths: Sequence[Path], taxonomy: Taxonomy) -> Rows:
    """Every labelled row of these files. Raises DataError with file and line when one is missing or broken."""
    examples = read_examples(paths, taxonomy)
    index = {name: i for i, name in enumerate(taxonomy.names)} | {None: -1}
    return Rows(
        examples,
        np.array([index[example.label] for example in examples]),
        [group_of(example.request.text) for example in examples],
        np.array([index[example.second] for example in examples]),
        np.array([bool(row.get("sure", True)) for path in paths for row in read_file(path)]),
    )


def labelled(data: Path) -> list[Path]:
    """FILES in DATA_DIR/requests."""
    return [data / "requests" / name for name in FILES]


def read_unlabelled(data: Path, without: Collection[str]) -> list[Request]:
    """DATA_DIR/requests/unlabelled.jsonl, rendered, `without` these sources. Raises DataError."""
    rows = read_file(data / "requests" / "unlabelled.jsonl")
    return [text.render(body_of(row)) for row in rows if row.get("source") not in without]


def read_file(path: Path) -> list[dict[str, Any]]:
    """The rows of one JSONL file as they stand. Raises DataError."""
    return [row for _, row in read_bodies(path)]


def group_of(words: str) -> str:
    """Rows that differ in case, punctuation and spacing only are one group."""
    return hashlib.sha256(" ".join(re.findall(r"\w+", words.lower())).encode()).hexdigest()[:16]


def digest(parts: Iterable[str]) -> str:
    """12 hex."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode())
    return found.hexdigest()[:12]


def split(rows: Table, keep: np.ndarray | None = None) -> dict[Part, np.ndarray]:
    """Positions of each part, of the rows where `keep` (n_rows,) is true (default: all), in `certify.SHARES`.

    A row's part hangs on its text alone, so rows keep theirs when others are left out. Rows that recipes were compared
    on (README.md) are for fitting only: a model chosen on a row could not be certified on it. Certify gets one row per
    group.
    """
    parts: dict[Part, list[int]] = {"fit": [], "calibrate": [], "certify": []}
    share, certified = 1 / (1 - COMPARED_SHARE), set[str]()
    for i in range(len(rows.truth)) if keep is None else np.flatnonzero(keep).tolist():
        group = rows.groups[i]
        u = _uniform(SPLIT_SEED, group)
        if was_compared(group) or u >= (certify.SHARES["certify"] + certify.SHARES["calibrate"]) * share:
            parts["fit"].append(i)
        elif u >= certify.SHARES["certify"] * share:
            parts["calibrate"].append(i)
        elif group not in certified:
            certified.add(group)
            parts["certify"].append(i)
    return {part: np.array(at, np.int64) for part, at in parts.items()}


def was_compared(group: str) -> bool:
    """Whether the group's rows were among the 19 % on which recipes were compared, before this split was made."""
    return _uniform("test", group) < 0.1 or 0.5 <= _uniform(0, group) < 0.6


def _uniform(seed: object, group: str) -> float:
    """In [0, 1), from the hash."""
    return int(hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()[:12], 16) / 16.0**12


def believed(fit: Rows, n_labels: int) -> np.ndarray:
    """(n_rows, n_labels) what to believe of each row: its label, or where its labeller was not sure a second opinion.

    The second opinion on a label is how independent labellers labelled such rows, of those that two have labelled, one
    added to every count (Laplace's rule). Between neighbours a row then leaves the doubt that there is.
    """
    opinions = np.ones((n_labels, n_labels))
    doubted = np.flatnonzero(~fit.sure & (fit.second >= 0))
    np.add.at(opinions, (fit.truth[doubted], fit.second[doubted]), 1)
    opinions /= opinions.sum(axis=1, keepdims=True)
    return np.where(fit.sure[:, None], np.eye(n_labels)[fit.truth], opinions[fit.truth])


def balanced(truth: np.ndarray, n_rows: int, seed: int) -> np.ndarray:
    """Positions of `n_rows` rows, as many of each label; a row may come twice where a label has few."""
    rng, labels = np.random.default_rng(seed), np.unique(truth)
    return np.concatenate([rng.choice(np.flatnonzero(truth == k), n_rows // len(labels)) for k in labels])


def injections(name: str) -> list[str]:
    """The lines of injections_train.txt (`train`) or injections_test.txt (`test`): no wording is in both."""
    return (HERE / f"injections_{name}.txt").read_text("utf-8").splitlines()


def with_injections(texts: Sequence[str], seed: int) -> list[str]:
    """Each text with one or two prompt injections behind it, now and then also before it."""
    rng, known, out = np.random.default_rng(seed), np.array(injections("train")), []
    for words in texts:
        gap = ("\n\n", "\n", " ")[rng.integers(3)]
        lines = rng.choice(known, 1 + int(rng.random() < 0.3), replace=False).tolist()
        before = [str(rng.choice(known))] if rng.random() < 0.15 else []
        out.append(gap.join([*before, words.rstrip(), *lines]))
    return out
