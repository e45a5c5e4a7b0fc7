"""The requests that models/default learns from and is tested on. Used by rebuild_default.py and the benchmarks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prerouter import certify, text
from prerouter.errors import DataError
from prerouter.files import read_jsonl
from prerouter.taxonomy import Taxonomy

FILES = ("train.jsonl", "extra.jsonl", "authored.jsonl")
SPLIT_SEED = 3
COMPARED_SHARE = 0.19  # of all groups, see `was_compared`
HERE = Path(__file__).parent
DATA_STEP = "pass the folder that holds requests/*.jsonl"


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Labelled rows, column by column. signals: (n_rows, n_signals) float32.

    truth: (n_rows,) label indices, -1 where there is no label; second: the same by an independent labeller.
    """

    texts: Sequence[str]
    signals: np.ndarray
    truth: np.ndarray
    second: np.ndarray
    sure: np.ndarray
    source: np.ndarray
    file: np.ndarray
    group: Sequence[str]

    def take(self, at: np.ndarray) -> Rows:
        """The rows at these positions."""
        return Rows(
            texts=[self.texts[i] for i in at],
            signals=self.signals[at],
            truth=self.truth[at],
            second=self.second[at],
            sure=self.sure[at],
            source=self.source[at],
            file=self.file[at],
            group=[self.group[i] for i in at],
        )

    def fingerprint(self) -> str:
        """12 hex over every text and label."""
        digest = hashlib.sha256()
        for words, label in zip(self.texts, self.truth.tolist(), strict=True):
            digest.update(f"{label}\0{words}\0".encode())
        return digest.hexdigest()[:12]


def joined(*tables: Rows) -> Rows:
    """All rows of all tables."""
    return Rows(
        texts=[words for table in tables for words in table.texts],
        signals=np.concatenate([table.signals for table in tables]),
        truth=np.concatenate([table.truth for table in tables]),
        second=np.concatenate([table.second for table in tables]),
        sure=np.concatenate([table.sure for table in tables]),
        source=np.concatenate([table.source for table in tables]),
        file=np.concatenate([table.file for table in tables]),
        group=[group for table in tables for group in table.group],
    )


def read_rows(data: Path, taxonomy: Taxonomy) -> Rows:
    """Every labelled row of FILES in DATA_DIR/requests, rendered. Raises DataError when a file is missing or broken."""
    return _rows([(name, row) for name in FILES for row in read_file(data / "requests" / name)], taxonomy)


def read_written(taxonomy: Taxonomy) -> Rows:
    """The requests that were written for training, `written.jsonl` in this folder."""
    return _rows([("written.jsonl", row) for row in read_file(HERE / "written.jsonl")], taxonomy)


def read_unlabelled(data: Path, taxonomy: Taxonomy) -> Rows:
    """DATA_DIR/requests/unlabelled.jsonl; truth is -1."""
    return _rows([("unlabelled.jsonl", row) for row in read_file(data / "requests" / "unlabelled.jsonl")], taxonomy)


def _rows(table: Sequence[tuple[str, dict[str, Any]]], taxonomy: Taxonomy) -> Rows:
    requests = [text.render({"messages": r["messages"]} if r.get("messages") else r["text"]) for _, r in table]
    return Rows(
        texts=[request.text for request in requests],
        signals=np.array([request.signals for request in requests], np.float32),
        truth=np.array([_index(row.get("label"), taxonomy) for _, row in table]),
        second=np.array([_index(row.get("second"), taxonomy) for _, row in table]),
        sure=np.array([bool(row.get("sure", True)) for _, row in table]),
        source=np.array([row.get("source", name.removesuffix(".jsonl")) for name, row in table]),
        file=np.array([name for name, _ in table]),
        group=[group_of(request.text) for request in requests],
    )


def _index(label: str | None, taxonomy: Taxonomy) -> int:
    return -1 if label is None else taxonomy.index(label)


def read_file(path: Path) -> list[dict[str, Any]]:
    """The rows of one JSONL file."""
    if not path.is_file():
        raise DataError("data file is missing", file=path, next_step=DATA_STEP)
    with path.open("rb") as lines:
        rows = [row for _, row in read_jsonl(lines, path)]
    for row in rows:
        if isinstance(row, DataError):
            raise row
    return [row for row in rows if not isinstance(row, DataError)]


def group_of(words: str) -> str:
    """Rows that differ in case, punctuation and spacing only are one group."""
    return hashlib.sha256(" ".join(re.findall(r"\w+", words.lower())).encode()).hexdigest()[:16]


def split(rows: Rows, keep: np.ndarray | None = None) -> dict[certify.Part, np.ndarray]:
    """Positions of each part, of the rows where `keep` (n_rows,) is true (default: all), in `certify.SHARES`.

    A row's part hangs on its text alone, so rows keep theirs when others are left out. Rows that recipes were compared
    on (README.md) are for fitting only: a model chosen on a row could not be certified on it. Certify gets one row per
    group.
    """
    parts: dict[certify.Part, list[int]] = {"fit": [], "calibrate": [], "certify": []}
    share, certified = 1 / (1 - COMPARED_SHARE), set[str]()
    for i in range(len(rows.truth)) if keep is None else np.flatnonzero(keep).tolist():
        group = rows.group[i]
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
