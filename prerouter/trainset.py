"""The rows of a training: read, rid of duplicates, grouped, split into parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prerouter import certify, dedup
from prerouter.certify import Part
from prerouter.errors import DataError
from prerouter.examples import Example, read_examples
from prerouter.taxonomy import Taxonomy
from prerouter.text import SIGNAL_NAMES, TEXT_VERSION

Ints = NDArray[np.int64]

NOVEL = -1  # truth of a row of no class
INFER = "infer"
SHOWN = 3  # places named in a message


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Examples, and of each its label's index (or NOVEL) and the group whose rows stay together."""

    examples: Sequence[Example]
    truth: Ints
    groups: Sequence[str]

    def take(self, at: Ints) -> Table:
        """The rows at these positions."""
        positions = at.tolist()
        return Table([self.examples[i] for i in positions], self.truth[at], [self.groups[i] for i in positions])

    @property
    def texts(self) -> list[str]:
        """Rendered."""
        return [example.request.text for example in self.examples]

    @property
    def signals(self) -> NDArray[np.float32]:
        """(n_rows, n_signals)."""
        values = [example.request.signals for example in self.examples]
        return np.array(values, np.float32).reshape(-1, len(SIGNAL_NAMES))  # also without rows

    @property
    def weights(self) -> NDArray[np.float32]:
        """(n_rows,) above 0."""
        return np.array([example.weight for example in self.examples], np.float32)

    @property
    def known(self) -> Table:
        """The rows that have a label."""
        return self.take(np.flatnonzero(self.truth != NOVEL))

    @property
    def novel(self) -> Table:
        """The rows that have none."""
        return self.take(np.flatnonzero(self.truth == NOVEL))


@dataclass(frozen=True, slots=True, eq=False)
class TrainSet:
    """Everything that a training reads. parts: no group is in two of them, nor in `test`; test: None without a file.

    record: counts and digests, for model.json. notes: what the user should know, one line each.
    """

    taxonomy: Taxonomy
    parts: Mapping[Part, Table]
    test: Table | None
    record: Mapping[str, Any]
    notes: tuple[str, ...]


def load(
    files: Sequence[str | Path],
    taxonomy: Taxonomy | None,
    *,
    novel_label: str | None = None,
    test: Sequence[str | Path] = (),
    certify_on: Sequence[str | Path] = (),
    most: Mapping[Part, int] | None = None,
    seed: int = 0,
) -> TrainSet:
    """Read all files. taxonomy: None takes the labels that `files` hold. certify_on: the whole certify part, if given.

    most: rows that a part gets at most; its other rows go to fit.
    Rows of `files` that are in `test` or `certify_on`, or nearly, are left out: held-out rows are no lesson.
    Raises DataError with file and line for what cannot be read, and when nothing can be learnt from the rest.
    """
    rows = read_examples(files, taxonomy, novel_label=novel_label)
    _check_labels(rows, files)
    taxonomy = taxonomy or Taxonomy.inferred(row.label for row in rows if row.label)
    held_out = [read_examples(names, taxonomy, novel_label=novel_label) for names in (test, certify_on)]
    every = [*held_out[0], *held_out[1], *rows]  # so that of two alike the one held out is the first
    found = dedup.find([e.request.text for e in every], [e.label for e in every], [e.group for e in every])
    table, n_held_out = Table(every, _truth(every, taxonomy), found.groups), len(every) - len(rows)
    overlap = _overlap(found.groups, n_held_out)
    own = _own(found.kept, n_held_out, overlap)
    split = _split(table.groups, own, {**(most or {}), **({"certify": 0} if certify_on else {})}, seed)
    if certify_on:
        split["certify"] = _first_of_each(table.groups, range(len(held_out[0]), n_held_out))
    parts = {part: table.take(at) for part, at in split.items()}
    _check_lesson(parts["fit"], every, len(own))
    lost = {name: len(_own(getattr(found, name), n_held_out, overlap)) for name in ("exact", "near")}
    lost |= {"overlap": len(overlap)}
    return TrainSet(
        taxonomy=taxonomy,
        parts=parts,
        test=table.take(np.arange(len(held_out[0]))) if test else None,
        record=_record(parts, rows, taxonomy) | {"duplicates": lost, "contradictions": len(found.contradictions)},
        notes=(*_duplicates(lost, found.contradictions, every, overlap), *taxonomy.warnings),
    )


def _check_labels(rows: Sequence[Example], files: Sequence[str | Path]) -> None:
    names, where = {row.label for row in rows if row.label}, ", ".join(map(str, files))
    if not rows:
        raise DataError("no rows", file=where, next_step="label some requests first: prerouter label")
    if len(names) < 2:
        what = f"every row is labelled {names.pop()!r}" if names else "no row has a label"
        step = "add rows of another label; with a single one there is nothing to tell apart"
        raise DataError(what, file=rows[-1].file, line=rows[-1].line, next_step=step)


def _overlap(groups: Sequence[str], n_held_out: int) -> list[int]:
    """Positions of the rows that are alike, or of one conversation with, one of the first n_held_out."""
    held_out = set(groups[:n_held_out])
    return [i for i in range(n_held_out, len(groups)) if groups[i] in held_out]


def _own(at: Sequence[int], n_held_out: int, overlap: Sequence[int]) -> list[int]:
    return sorted(set(at).difference(range(n_held_out), overlap))


def _split(groups: Sequence[str], kept: Sequence[int], most: Mapping[Part, int], seed: int) -> dict[Part, Ints]:
    """Positions of each part's rows; of what a part has too many of, whole groups go to fit, by their hash."""
    at, elsewhere = np.asarray(kept, np.int64), set[str]()
    split = {part: at[i] for part, i in certify.split([groups[i] for i in kept], seed).items()}
    for part in ("calibrate", "certify"):
        order = sorted(split[part].tolist(), key=lambda i: hashlib.sha256(f"{seed}:{groups[i]}".encode()).digest()[8:])
        n = min(most.get(part, len(order)), len(order))
        while 0 < n < len(order) and groups[order[n]] == groups[order[n - 1]]:
            n += 1
        split[part] = np.asarray(sorted(order[:n]), np.int64)
        elsewhere |= {groups[i] for i in order[:n]}
    split["fit"] = np.asarray([i for i in kept if groups[i] not in elsewhere], np.int64)
    return split


def _first_of_each(groups: Sequence[str], rows: range) -> Ints:
    """The first of each group in `rows`."""
    return np.asarray(sorted({groups[i]: i for i in reversed(rows)}.values()), np.int64)


def _check_lesson(fit: Table, every: Sequence[Example], n: int) -> None:
    if len(np.unique(fit.known.truth)) < 2:
        what = f"too few rows: {n} are left without duplicates, and those to fit on hold fewer than two labels"
        step = "label more requests: some hundreds for a first model"
        raise DataError(what, file=every[-1].file, line=every[-1].line, next_step=step)


def _truth(rows: Sequence[Example], taxonomy: Taxonomy) -> Ints:
    index = {name: i for i, name in enumerate(taxonomy.names)}
    return np.array([NOVEL if row.label is None else index[row.label] for row in rows], np.int64)


def _record(parts: Mapping[Part, Table], rows: Sequence[Example], taxonomy: Taxonomy) -> dict[str, Any]:
    digest, counts = hashlib.sha256(), Counter(e.label for part in parts.values() for e in part.examples)
    for row in rows:
        digest.update(f"{row.label}\0{row.request.text}\0".encode())
    return {
        "fingerprint": digest.hexdigest()[:12],
        "files": {Path(name).name: n for name, n in Counter(row.file for row in rows).items()},
        "rows": {part: len(table.examples) for part, table in parts.items()},
        "groups": len({group for table in parts.values() for group in table.groups}),
        "labels": {name: counts[name] for name in taxonomy.names},
        "novel": counts[None],
        "text_version": TEXT_VERSION,
    }


def _duplicates(
    lost: Mapping[str, int], contradictions: Sequence[tuple[int, int]], rows: Sequence[Example], overlap: Sequence[int]
) -> list[str]:
    notes = []
    if lost["exact"] or lost["near"]:
        notes.append(f"left out {lost['exact']:,} exact and {lost['near']:,} near duplicates")
    if overlap:
        places = ", ".join(_place(rows[i]) for i in overlap[:SHOWN])
        notes.append(f"left out {len(overlap):,} rows that are held out in --test or --certify-on: {places}")
    if contradictions:
        pairs = "; ".join(f"{_place(rows[i])} and {_place(rows[j])}" for i, j in contradictions[:SHOWN])
        notes.append(f"{len(contradictions):,} requests stand there again with another label: {pairs}")
    return notes


def _place(row: Example) -> str:
    return f"{row.file}, line {row.line}"
