"""Requests to be labelled -> the journal: read from JSONL, Parquet or a routing log, sampled, redacted, rendered.

What leaves here is redacted; the raw text is nowhere kept. Memory is bounded: what was read goes to the journal's file.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from prerouter.errors import ConfigError, DataError, InvalidRequest
from prerouter.examples import body_of, read_bodies
from prerouter.files import expanded, read_jsonl
from prerouter.journal import Journal
from prerouter.progress import Progress
from prerouter.records import Request
from prerouter.redact import redact
from prerouter.text import TEXT_VERSION, render

BODY_KEYS = ("text", "messages", "system", "tools")  # of a row: what is redacted
LABEL_KEYS = ("label", "votes", "confidence", "stated", "labelled_by", "prompt_id", "labelled_at")
ROWS_AT_ONCE = 2_000  # per transaction
MAX_WEIGHT = 10.0  # of a row from a rare stratum: a few rows must not outweigh all others (DESIGN.md, section 8)
_SQLITE = b"SQLite format 3\0"
_LENGTHS = 4.0  # one stratum's longest request is so many times its shortest
_SURROGATE = "surrogatepass"


@dataclass(frozen=True, slots=True)
class Source:
    """Which requests: files, "-" for standard input. sample: a uniform one of so many rows, None for all.

    stratify: as many rows of each source and length as of any other, weighted back. seed: names the sample.
    """

    paths: tuple[str, ...]
    sample: int | None = None
    stratify: bool = False
    seed: int = 0
    redact: bool = True

    def fingerprint(self) -> str:
        """Changes when the rows that would be read may have changed."""
        files = [self._file(path) for path in self.paths]
        return json.dumps([files, self.sample, self.stratify, self.seed, self.redact, TEXT_VERSION])

    @staticmethod
    def _file(path: str) -> list[Any]:
        if path == "-":
            return [path, os.urandom(8).hex()]
        found = _stat(expanded(path))
        return [str(expanded(path).resolve()), found.st_size, found.st_mtime_ns]


@dataclass(slots=True)
class _Strata:
    """How many rows each stratum has, and the last place in its order that can still be in the sample."""

    seen: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)


def index(journal: Journal, source: Source) -> None:
    """Put the rows of `source` into `journal`; nothing when they are there. Raises DataError with file and line."""
    wanted = source.fingerprint()
    if journal.get("rows") == wanted:
        return
    with journal.writing():
        journal.set(rows="", written="")
        journal.clear_rows()
    strata, rows = _Strata(), _numbered(source.paths)
    with Progress("reading") as progress:
        while page := list(islice(rows, ROWS_AT_ONCE)):
            with journal.writing():
                for seq, place, row in page:
                    _add(journal, source, strata, seq, place, row)
            progress.advance(len(page))
    with journal.writing():
        _cut(journal, source, strata)
        journal.finish_rows()
        journal.set(rows=wanted)


def asked(data: str) -> Request:
    """The request of a stored row, as it is asked about."""
    return render(body_of(json.loads(data)))


def key_of(request: Request) -> bytes:
    """The same for requests that are asked about once."""
    return hashlib.sha256(request.text.encode("utf-8", _SURROGATE)).digest()[:16]


def redacted(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` without personal data and secrets in what it asks; its other fields stay as they are."""
    return {**row, **redact({key: row[key] for key in BODY_KEYS if key in row})}


def dumped(row: Mapping[str, Any], file: object = "", line: int = 0) -> str:
    """One line of JSON that UTF-8 can hold. Raises DataError for NaN."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)
        return text if text.isascii() or text.encode() else ""
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(row, allow_nan=False, default=str)
    except (ValueError, RecursionError) as error:
        what = f"cannot be written as JSON: {error}"
        raise DataError(what, file=file, line=line, next_step="mend the row or leave it out") from error


@dataclass(frozen=True, slots=True)
class _Place:
    file: str
    line: int
    name: str  # what a row without an id is called


def _numbered(paths: Sequence[str]) -> Iterator[tuple[int, _Place, dict[str, Any]]]:
    seq = 0
    for path in paths:
        for line, row in _bodies(path):
            seq += 1
            name = str(line) if len(paths) == 1 else f"{Path(path).name}:{line}"
            yield seq, _Place(path, line, name), row


def _bodies(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    if path != "-" and _is_log(path):
        return _logged(path)
    return read_bodies(path)


def _is_log(path: str) -> bool:
    _stat(expanded(path))
    with open(expanded(path), "rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _logged(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a routing log that have a text, as rows of a file."""
    from prerouter.routelog import RouteLog

    found = 0
    with tempfile.TemporaryFile() as spool, RouteLog.open(path) as log:
        out = io.TextIOWrapper(spool, encoding="utf-8", errors="backslashreplace", write_through=True)
        log.export(out)
        out.detach().seek(0)
        for number, row in read_jsonl(iter(spool), path):
            if isinstance(row, dict) and row.get("text") is not None:
                found += 1
                tags = {"tags": row["tags"]} if row["tags"] else {}
                yield number, {"id": row["id"], "text": row["text"], "at": row["at"], "source": "log", **tags}
    if not found:
        step = "set `text = true` under [log] to keep texts from now on"
        raise DataError("the routing log keeps no texts", file=path, next_step=step)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"cannot read it: {error.strerror}", file=path, next_step="check the path") from error


def _add(journal: Journal, source: Source, strata: _Strata, seq: int, place: _Place, row: dict[str, Any]) -> None:
    pick = _pick(source.seed, seq) if source.sample else 0
    if source.sample and not source.stratify and pick > strata.last.get("", pick):
        return  # cannot be in the sample: no need to look at it
    row = redacted(row) if source.redact else row
    name = place.name if row.get("id") in (None, "") else str(row["id"])
    try:
        request = render(body_of(row, place.file, place.line))
    except InvalidRequest as error:
        what = f"{error.what} ({error.where})" if error.where else error.what
        raise DataError(what, file=place.file, line=place.line, next_step="mend the row or leave it out") from error
    stratum = _stratum(row, request) if source.stratify else ""
    strata.seen[stratum] += 1
    if pick > strata.last.get(stratum, pick):
        return
    data = dumped({"id": name} | row | {"id": row.get("id", name)}, place.file, place.line)
    weight = _weight(row, place)
    n = journal.add_row(seq, key_of(request), name, data, weight=weight, pick=pick, stratum=stratum)
    if not request.text.strip():
        journal.settle(n, "null")
    _trim(journal, source, strata, stratum)


def _pick(seed: int, seq: int) -> int:
    """A row's place in the sample's order: the rows with the smallest are a uniform sample, whatever is added later."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {seq}".encode(), digest_size=7).digest(), "big")


def _stratum(row: Mapping[str, Any], request: Request) -> str:
    length = math.floor(math.log(max(1, request.n_chars), _LENGTHS))
    return f"{row.get('source') or ''!s:.60} {length}"


def _weight(row: Mapping[str, Any], place: _Place) -> float:
    weight = row.get("weight", 1.0)
    right = isinstance(weight, int | float) and not isinstance(weight, bool) and math.isfinite(weight) and weight > 0
    if right:
        return float(weight)
    step = "give a number above 0, or leave it out"
    raise DataError("`weight` is no number above 0", file=place.file, line=place.line, next_step=step)


def _trim(journal: Journal, source: Source, strata: _Strata, stratum: str) -> None:
    strata.held[stratum] += 1
    if source.sample and strata.held[stratum] >= 2 * source.sample + ROWS_AT_ONCE:
        last = journal.trim(stratum, source.sample)
        if last is not None:
            strata.last[stratum], strata.held[stratum] = last, source.sample


def _cut(journal: Journal, source: Source, strata: _Strata) -> None:
    """Leave the sample, and weigh its strata so that together they stand for all rows."""
    if not source.sample:
        return
    if not source.stratify:
        journal.trim("", source.sample)
        return
    quotas = shared_out(source.sample, strata.seen)
    n_seen, n_kept = strata.seen.total(), sum(quotas.values())
    for stratum, quota in quotas.items():
        journal.trim(stratum, quota)
        if quota:
            share = (strata.seen[stratum] / n_seen) / (quota / n_kept)
            journal.weigh(stratum, min(MAX_WEIGHT, share))


def shared_out(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """`total` places for groups of these sizes, as evenly as the sizes allow."""
    left, quotas = total, {}
    for done, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: (item[1], item[0]))):
        quotas[name] = min(size, left // (len(sizes) - done))
        left -= quotas[name]
    return quotas


def take_over(journal: Journal, output: Path, fits: Callable[[Mapping[str, Any]], bool], redacting: bool) -> int:
    """Take answers over from an earlier output; how many of its rows fit. Raises ConfigError when a row is not ours.

    What would be lost by replacing the output is asked for before, not after.
    """
    taken = 0
    with journal.writing():
        for line, row in read_bodies(output):
            mine = journal.knows(key_of(_rendered(redacted(row) if redacting else row, output, line)))
            if not mine:
                what = f"the output exists and its line {line} is not among the requests to label"
                raise ConfigError(what, where=str(output), next_step="name another output, or move this one away")
            if fits(row):
                fields = dumped({key: row[key] for key in LABEL_KEYS if key in row})
                journal.settle(mine, fields)
                taken += 1
        journal.set(taken="yes")
    return taken


def _rendered(row: Mapping[str, Any], file: object, line: int) -> Request:
    try:
        return render(body_of(row, file, line))
    except InvalidRequest as error:
        raise DataError(error.what, file=file, line=line, next_step="name another output") from error
