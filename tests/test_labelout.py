"""The output appears whole, with every row once: in it, or in the errors file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from label_help import errors, read

from prerouter.ballot import Ballot
from prerouter.files import appearing
from prerouter.journal import Answer, Journal
from prerouter.labelout import count, errors_path, write
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

BALLOT = Ballot.of(Taxonomy.load(), TierTable.load().model("claude-haiku-5-5"), 1)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal")
    with journal.writing():
        for seq, key in enumerate("aba", start=1):
            row = {"id": f"r{seq}", "text": key, "label": "old", "team": {"x": 1}}
            journal.add_row(seq, key.encode(), f"r{seq}", json.dumps(row), weight=seq)
    return journal


def said(request: int, label: str | None, error: str | None = None) -> Answer:
    return Answer(request, BALLOT.id, 0, label, 0.5, error, label is not None, 2, 0.0)


def test_rows_and_errors(journal: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with journal:
        journal.record([said(1, "simple"), said(2, None, "HTTP 529")])
        tally = write(journal, BALLOT, out, "not asked")
        assert count(journal, BALLOT) == tally
    first, last = read(out)
    assert (first["id"], first["label"], first["weight"], first["team"]) == ("r1", "simple", 1.0, {"x": 1})
    assert (last["id"], last["weight"]) == ("r3", 3.0)
    assert first["labelled_at"] == "1970-01-01T00:00:00+00:00"
    assert errors(out) == [{"id": "r2", "error": "HTTP 529", "attempts": 2}]
    assert (tally.labelled, tally.failed, tally.distribution) == (2, 1, {"simple": 2})


def test_old_errors_go_when_there_are_none(journal: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with journal:
        assert write(journal, BALLOT, out, "not asked").failed == 3
        assert errors(out)[0] == {"id": "r1", "error": "not asked", "attempts": 0}
        journal.record([said(1, "simple"), said(2, "complex")])
        write(journal, BALLOT, out, "not asked")
    assert not errors_path(out).exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")

    def broken_off() -> None:
        with appearing(path) as out:
            out.write("new")
            raise error

    with pytest.raises(error):
        broken_off()
    assert (path.read_text(), [p.name for p in tmp_path.glob("out*")]) == ("old", ["out.jsonl"])
