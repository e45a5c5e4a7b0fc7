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

from prerouter import certify, dedup, overlap
from prerouter.certify import Part
from prerouter.dedup import Duplicates
from prerouter.errors import DataError
from prerouter.examples import Example, read_examples
from prerouter.taxonomy import Taxonomy
from prerouter.text import SIGNAL_NAMES, TEXT_VERSION

Ints = NDArray[np.int64]

NOVEL = -1  # truth of a row of no class
INFER = "infer"
SHOWN = 3  # places named in a message
ENOUGH = 200  # rows unknown to the encoder, from which on C and encoder are chosen on them alone


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

    compared: the rows of fit on which C and encoder are chosen: those that no encoder learnt from, if there are ENOUGH.
    record: counts and digests, for model.json. notes: what the user should know, one line each.
    """

    taxonomy: Taxonomy
    parts: Mapping[Part, Table]
    test: Table | None
    compared: Table
    record: Mapping[str, Any]
    notes: tuple[str, ...]


def load(
    files: Sequence[str | Path],
    taxonomy: Taxonomy | None,
    *,
    novel_label: str | None = None,
    test: Sequence[str | Path] = (),
    certify_on: Sequence[str | Path] = (),
    learnt: str = "",
    most: Mapping[Part, int] | None = None,
    seed: int = 0,
) -> TrainSet:
    """Read all files. taxonomy: None takes the labels that `files` hold. certify_on: the whole certify part, if given.

    learnt: hashes of rows that an encoder learnt from (`overlap.remember`); they are fitted on and nothing else.
    most: rows that a part gets at most; its other rows go to fit.
    Rows of `files` that are in `test` or `certify_on`, or nearly, are left out: held-out rows are no lesson.
    Raises DataError with file and line for what cannot be read, and when nothing can be learnt from the rest.
    """
    rows = read_examples(files, taxonomy, novel_label=novel_label)
    taxonomy = _taxonomy(rows, files, taxonomy)
    held_out = [read_examples(names, taxonomy, novel_label=novel_label) for names in (test, certify_on)]
    every = [*held_out[0], *held_out[1], *rows]  # so that of two alike the one held out is the first
    found = dedup.find([e.request.text for e in every], [e.label for e in every], [e.group for e in every])
    table, sizes = Table(every, _truth(every, taxonomy), found.groups), [len(part) for part in held_out]
    alike = _alike(found.groups, sum(sizes))
    own = _own(found.kept, sum(sizes), alike)
    new = _new(found.groups, overlap.known(table.texts, learnt))
    certify_rows = [i for i in new if sizes[0] <= i < sum(sizes)] if certify_on else None
    split = _split(table.groups, own, most or {}, seed, new, certify_rows)
    parts = {part: table.take(at) for part, at in split.items()}
    _check_lesson(parts["fit"], every, len(own))
    counts, notes = _told(found, every, sum(sizes), alike, len(every) - len(new))
    return TrainSet(
        taxonomy=taxonomy,
        parts=parts,
        test=_measured(table, new, sizes[0]) if test else None,
        compared=_compared(table, np.intersect1d(split["fit"], new), parts["fit"]),
        record=_record(parts, rows, taxonomy) | counts,
        notes=(*notes, *taxonomy.warnings),
    )


def _taxonomy(rows: Sequence[Example], files: Sequence[str | Path], given: Taxonomy | None) -> Taxonomy:
    """The one given, else of the rows' labels. Raises DataError where these are fewer than two."""
    names, where = {row.label for row in rows if row.label}, ", ".join(map(str, files))
    if not rows:
        raise DataError("no rows", file=where, next_step="label some requests first: prerouter label")
    if len(names) < 2:
        what = f"every row is labelled {names.pop()!r}" if names else "no row has a label"
        step = "add rows of another label; with a single one there is nothing to tell apart"
        raise DataError(what, file=rows[-1].file, line=rows[-1].line, next_step=step)
    return given or Taxonomy.inferred(row.label for row in rows if row.label)


def _alike(groups: Sequence[str], n_held_out: int) -> list[int]:
    """Positions of the rows that are alike, or of one conversation with, one of the first n_held_out."""
    held_out = set(groups[:n_held_out])
    return [i for i in range(n_held_out, len(groups)) if groups[i] in held_out]


def _new(groups: Sequence[str], learnt: Sequence[int]) -> list[int]:
    """Positions of the rows in no group with one that an encoder learnt from."""
    taught = {groups[i] for i in learnt}
    return [i for i, group in enumerate(groups) if group not in taught]


def _own(at: Sequence[int], n_held_out: int, alike: Sequence[int]) -> list[int]:
    return sorted(set(at).difference(range(n_held_out), alike))


def _compared(table: Table, new: Ints, fit: Table) -> Table:
    return table.take(new) if len(new) >= ENOUGH else fit


def _measured(table: Table, new: Sequence[int], n_test: int) -> Table:
    """The test rows, which come first, without those that the encoder learnt from."""
    left = [i for i in new if i < n_test]
    if not left:
        what = f"nothing to test on: {n_test:,} rows, all in the training data of the encoder"
        step = "test on rows that it did not learn from, or train with --encoder minilm or --finetune"
        raise DataError(what, file=table.examples[0].file if n_test else "--test", next_step=step)
    return table.take(np.asarray(left, np.int64))


def _split(
    groups: Sequence[str],
    kept: Sequence[int],
    most: Mapping[Part, int],
    seed: int,
    new: Sequence[int],
    certify_rows: Sequence[int] | None,
) -> dict[Part, Ints]:
    """Positions of each part's rows; of what a part has too many of, whole groups go to fit, by their hash.

    new: rows that may go elsewhere than to fit. certify_rows: what certify gets in place of rows in `kept`.
    """
    most = most if certify_rows is None else {**most, "certify": 0}
    at, elsewhere = np.intersect1d(kept, new).astype(np.int64), set[str]()
    split = {part: at[i] for part, i in certify.split([groups[i] for i in at.tolist()], seed).items()}
    for part in ("calibrate", "certify"):
        order = sorted(split[part].tolist(), key=lambda i: hashlib.sha256(f"{seed}:{groups[i]}".encode()).digest()[8:])
        n = min(most.get(part, len(order)), len(order))
        while 0 < n < len(order) and groups[order[n]] == groups[order[n - 1]]:
            n += 1
        split[part] = np.asarray(sorted(order[:n]), np.int64)
        elsewhere |= {groups[i] for i in order[:n]}
    split["fit"] = np.asarray([i for i in kept if groups[i] not in elsewhere], np.int64)
    if certify_rows is not None:
        split["certify"] = _first_of_each(groups, certify_rows)
    return split


def _first_of_each(groups: Sequence[str], rows: Sequence[int]) -> Ints:
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


def _told(
    found: Duplicates, rows: Sequence[Example], n_held_out: int, alike: Sequence[int], n_taught: int
) -> tuple[dict[str, Any], list[str]]:
    """For the record: how many rows were left out, and why. For the user: the same in words."""
    lost = {name: len(_own(getattr(found, name), n_held_out, alike)) for name in ("exact", "near")}
    counts = {"duplicates": lost | {"overlap": len(alike)}, "contradictions": len(found.contradictions)}
    notes = []
    if lost["exact"] or lost["near"]:
        notes.append(f"left out {lost['exact']:,} exact and {lost['near']:,} near duplicates")
    if alike:
        places = ", ".join(_place(rows[i]) for i in alike[:SHOWN])
        notes.append(f"left out {len(alike):,} rows that are held out in --test or --certify-on: {places}")
    if found.contradictions:
        pairs = "; ".join(f"{_place(rows[i])} and {_place(rows[j])}" for i, j in found.contradictions[:SHOWN])
        notes.append(f"{len(found.contradictions):,} requests stand there again with another label: {pairs}")
    if n_taught:
        notes.append(f"{n_taught:,} rows are known to the encoder: {_TAUGHT}")
    return counts | {"known_to_encoder": n_taught}, notes


_TAUGHT = (
    "it was fine-tuned on them, so the head learns from them, but they neither calibrate, certify nor test; "
    "--encoder minilm and --finetune start from an encoder that was not"
)


def _place(row: Example) -> str:
    return f"{row.file}, line {row.line}"
