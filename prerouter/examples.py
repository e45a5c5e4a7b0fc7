"""Labelled requests from JSONL and Parquet files, checked row by row: the one reader of training and test data."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from prerouter import text
from prerouter.errors import ConfigError, DataError, InvalidRequest, MissingExtraError
from prerouter.files import expanded, read_jsonl
from prerouter.progress import Progress
from prerouter.records import Request
from prerouter.tables import did_you_mean
from prerouter.taxonomy import Taxonomy

BODY_KEYS = ("messages", "system", "tools")  # of a row with `messages`: what `text.render` reads
MAX_WEIGHT = 1000.0
_PARQUET = b"PAR1"  # the first four bytes of every Parquet file
_PARQUET_ROWS = 1024  # read at a time
_MEND = "mend the row or leave it out"


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled request.

    label: a label of the taxonomy; None for a novel row, which is of no class (`is_novel`).
    weight: in (0, MAX_WEIGHT], counts when fitting. group: rows of one group (conversation) stay in one part.
    at: when the request was made, as written. votes: {label: times that the labeller said so}, {} when unknown.
    second: another labeller's label. confidence: the labeller's own, in [0, 1]. labelled_by, prompt_id: whose label.
    id: the row's own, else its line number. file, line: where it stands, line from 1.
    """

    request: Request
    label: str | None
    is_novel: bool
    weight: float
    group: str | None
    at: str | None
    votes: Mapping[str, int]
    second: str | None
    confidence: float | None
    labelled_by: str | None
    prompt_id: str | None
    source: str | None
    id: str
    file: str
    line: int


def read_examples(
    paths: Sequence[str | Path],
    taxonomy: Taxonomy | None = None,
    *,
    text_version: int = text.TEXT_VERSION,
    novel_label: str | None = None,
) -> list[Example]:
    """The rows of all files, in order. taxonomy: None takes every label as it comes.

    Raises DataError with file and line for a row that is broken, without a label or with one outside the taxonomy;
    MissingExtraError for a Parquet file without pyarrow.
    """
    if taxonomy and novel_label and taxonomy.match(novel_label):
        step = f"choose another name, or take {novel_label!r} out of the taxonomy"
        raise ConfigError("the novel label is a label of the taxonomy", where="--novel-label", next_step=step)
    reader = _Reader(taxonomy, text_version, novel_label)
    found = []
    with Progress("reading") as progress:
        for path in paths:
            for line, row in read_bodies(path):
                found.append(reader.example(row, str(path), line))
                progress.advance(1)
    return found


def read_bodies(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line from 1, row as it stands) of a JSONL or Parquet file, or of standard input ("-"), in bounded memory.

    Nothing but the form is looked at. Raises DataError with file and line.
    """
    if str(path) == "-":
        yield from _whole(read_jsonl(iter(sys.stdin.buffer), "-"))
        return
    try:
        with closing(open(expanded(path), "rb")) as file:
            if file.read(4) == _PARQUET:
                yield from _parquet(expanded(path))
                return
            file.seek(0)
            yield from _whole(read_jsonl(file, path))
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror}", file=path, next_step="check the path") from error


def body_of(row: Mapping[str, Any], file: object = "", line: int = 0) -> text.Body:
    """What a row asks, as `text.render` and the API take it: its `messages` (with system, tools), else its `text`.

    Raises DataError when there is neither.
    """
    messages = row.get("messages")
    if isinstance(messages, str):  # a column of JSON
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise DataError(f"`messages` is not JSON: {error}", file=file, line=line, next_step=_MEND) from error
    if messages is not None:
        return {key: row[key] for key in BODY_KEYS if row.get(key) is not None} | {"messages": messages}
    if isinstance(row.get("text"), str):
        return str(row["text"])
    raise DataError("neither `text` nor `messages`", file=file, line=line, next_step=_MEND)


@dataclass(frozen=True, slots=True)
class _Reader:
    taxonomy: Taxonomy | None
    text_version: int
    novel_label: str | None

    def example(self, row: Mapping[str, Any], file: str, line: int) -> Example:
        cell = _Cells(row, file, line)
        body = body_of(row, file, line)
        label = self._label(row.get("label"), cell, "label")
        is_novel = _same(label, self.novel_label)
        second = self._optional(row.get("second"), cell, "second")
        return Example(
            request=self._request(body, cell),
            label=None if is_novel else label,
            is_novel=is_novel,
            weight=cell.number("weight", 1.0, MAX_WEIGHT, above_zero=True) or 1.0,
            group=cell.string("group") or _conversation(body),
            at=cell.string("at"),
            votes=self._votes(cell),
            second=second,
            confidence=cell.number("confidence", None, 1.0),
            labelled_by=cell.string("labelled_by"),
            prompt_id=cell.string("prompt_id"),
            source=cell.string("source"),
            id=cell.string("id") or str(line),
            file=file,
            line=line,
        )

    def _request(self, body: text.Body, cell: _Cells) -> Request:
        try:
            return text.render(body, version=self.text_version)
        except InvalidRequest as error:
            cell.wrong(f"{error.what} ({error.where})" if error.where else error.what)

    def _label(self, value: Any, cell: _Cells, key: str) -> str:
        if not isinstance(value, str) or not value.strip():
            what = f"`{key}` is missing" if value is None else f"`{key}` must be text that is not empty"
            cell.wrong(what, "label the row (prerouter label), or leave it out")
        name = " ".join(value.split())
        if self.taxonomy is None or _same(name, self.novel_label):
            return name
        known = self.taxonomy.match(name)
        if known is None:
            step = did_you_mean(name, self.taxonomy.names)
            cell.wrong(f"`{key}` = {name[:80]!r} is not a label of the taxonomy {self.taxonomy.name!r}", step)
        return known

    def _optional(self, value: Any, cell: _Cells, key: str) -> str | None:
        return None if value is None else self._label(value, cell, key)

    def _votes(self, cell: _Cells) -> dict[str, int]:
        votes = cell.row.get("votes") or {}
        if not isinstance(votes, Mapping):
            cell.wrong("`votes` must be an object of label: count")
        counts = {name: n for name, n in votes.items() if n is not None}  # Parquet fills in what other rows have
        if not all(type(n) is int and n >= 0 for n in counts.values()):
            cell.wrong("`votes` must count in whole numbers of zero or more")
        return {self._label(name, cell, "votes"): n for name, n in counts.items() if n}


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of one row, read with the right type or refused."""

    row: Mapping[str, Any]
    file: str
    line: int

    def wrong(self, what: str, step: str = _MEND) -> NoReturn:
        raise DataError(what, file=self.file, line=self.line, next_step=step)

    def string(self, key: str) -> str | None:
        value = self.row.get(key)
        if value is None or value == "":
            return None
        if isinstance(value, bool | Mapping | list) or value != value:  # NaN is unequal to itself
            self.wrong(f"`{key}` must be text")
        return str(value)

    def number(self, key: str, missing: float | None, top: float, *, above_zero: bool = False) -> float | None:
        value = self.row.get(key)
        if value is None:
            return missing
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not right or not 0 <= value <= top or (above_zero and value == 0):
            self.wrong(f"`{key}` must be a number {'above' if above_zero else 'from'} 0 {'up ' * above_zero}to {top:g}")
        return float(value)


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one.casefold() == other.casefold()


def _conversation(body: text.Body) -> str | None:
    """A name for the conversation that a body goes on with, or None for a first request.

    The first two messages together: later turns of one conversation share them, while a first message alone may be a
    greeting or a template that unrelated conversations share.
    """
    messages = None if isinstance(body, str) else body["messages"]
    if not isinstance(messages, Sequence) or len(messages) < 3:
        return None
    start = json.dumps(list(messages[:2]), sort_keys=True, default=str)
    return "conversation:" + hashlib.sha256(start.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _whole(rows: Iterable[tuple[int, dict[str, Any] | DataError]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in rows:
        if isinstance(row, DataError):
            raise DataError(row.what, file=row.file, line=line, next_step=_MEND)
        yield line, row


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    line = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                line += 1
                yield line, _without_nulls(row)
    except pyarrow.ArrowException as error:
        what = f"not a readable Parquet file: {error}"
        raise DataError(what, file=path, line=line, next_step="write it again") from error


def _without_nulls(value: Any) -> Any:
    """`value` without the nulls that Parquet puts where another row has a field."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
