"""The output of a labelling run: labelled rows in the order of the input, and beside it the rows without an answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prerouter.ballot import Ballot
from prerouter.files import appearing
from prerouter.intake import dumped
from prerouter.journal import Answer, Journal, Row
from prerouter.progress import Progress


@dataclass(slots=True)
class Tally:
    """What was written. distribution: {label: rows}. failed: rows in the errors file."""

    distribution: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    @property
    def labelled(self) -> int:
        """Rows in the output."""
        return self.distribution.total()

    def add(self, fields: Mapping[str, Any] | None) -> None:
        """Count one row: its label fields, or None when it has none."""
        if fields:
            self.distribution[fields["label"]] += 1
        else:
            self.failed += 1


def errors_path(output: Path) -> Path:
    """Where the rows without an answer are."""
    return output.with_name(output.name + ".errors.jsonl")


def write(journal: Journal, ballot: Ballot, output: Path, unasked: str) -> Tally:
    """Write both files; each appears whole. unasked: the error of rows that nobody was asked about."""
    tally = Tally()
    with appearing(output) as out, appearing(errors_path(output)) as errors:
        for row, fields in _results(journal, ballot):
            tally.add(fields)
            if fields:
                print(dumped(json.loads(row.data) | {"weight": row.weight} | fields), file=out)
            else:
                print(dumped(_error(row, journal.answers(row.request), unasked)), file=errors)
    if not tally.failed:
        errors_path(output).unlink()
    return tally


def count(journal: Journal, ballot: Ballot) -> Tally:
    """What `write` would write."""
    tally = Tally()
    for _, fields in _results(journal, ballot):
        tally.add(fields)
    return tally


def _results(journal: Journal, ballot: Ballot) -> Iterator[tuple[Row, dict[str, Any] | None]]:
    with Progress("writing") as progress:
        for row in journal.rows():
            yield row, json.loads(row.settled) if row.settled else ballot.result(journal.answers(row.request))
            progress.advance(1)


def _error(row: Row, said: list[Answer], unasked: str) -> dict[str, Any]:
    failed = [answer for answer in said if answer.error]
    unasked = "an empty request" if row.settled else unasked
    error = max(failed, key=lambda answer: answer.at).error if failed else unasked
    return {"id": row.id, "error": error, "attempts": sum(answer.attempts for answer in failed)}
