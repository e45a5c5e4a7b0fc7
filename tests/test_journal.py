"""The journal: what was recorded survives, questions are told once, and two processes do not share it."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from prerouter.errors import ConfigError, DataError
from prerouter.journal import PAGE, Answer, Ask, Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl.journal"


def filled(path: Path, keys: str = "abca") -> Journal:
    """One row per letter; rows with the same letter ask the same."""
    journal = Journal(path)
    with journal.writing():
        journal.clear_rows()
        for seq, key in enumerate(keys, start=1):
            journal.add_row(seq, key.encode(), f"r{seq}", key)
        journal.finish_rows()
    return journal


def answer(request: int, label: str | None = "x", vote: int = 0, *, final: bool = True, error: str = "") -> Answer:
    return Answer(request, "p", vote, label, 0.5, error or None, final, 1, 1.0, Decimal("0.001"), 10, 2)


def told(journal: Journal, votes: int = 1, **options: tuple[str, ...]) -> list[tuple[int, int]]:
    return [(ask.request, ask.vote) for ask in journal.pending("p", votes, **options)]


def test_requests_with_the_same_text_are_asked_once(path: Path) -> None:
    with filled(path) as journal:
        assert journal.count() == (4, 3)
        assert [(ask.request, ask.data) for ask in journal.pending("p", 1)] == [(1, "a"), (2, "b"), (3, "c")]
        assert [(row.id, row.request) for row in journal.rows()] == [("r1", 1), ("r2", 2), ("r3", 3), ("r4", 1)]


def test_answers_survive_and_are_not_asked_again(path: Path) -> None:
    with filled(path) as journal:
        journal.record([answer(1), answer(2, None, final=False, error="later")])
    with Journal(path) as journal:
        assert not journal.is_new
        assert told(journal) == [(2, 0), (3, 0)]
        assert told(journal, 2) == [(1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
        assert (journal.spent().usd, journal.spent().input_tokens) == (Decimal("0.002"), 20)
        assert journal.n_answered("p", 1) == 1


def test_another_prompt_is_another_question(path: Path) -> None:
    with filled(path) as journal:
        journal.record([answer(1)])
        assert len(list(journal.pending("q", 1))) == 3


def test_attempts_add_up_over_runs(path: Path) -> None:
    with filled(path) as journal:
        for _ in range(3):
            journal.record([answer(1, None, final=False, error="no")])
        assert [(a.attempts, a.error) for a in journal.answers(1)] == [(3, "no")]


def test_split_and_refused_requests(path: Path) -> None:
    with filled(path, "abcd") as journal:
        journal.record([answer(1, "x"), answer(1, "y", 1), answer(2, "x"), answer(2, "x", 1)])
        journal.record([answer(3, "x"), answer(3, None, 1, error="refused")])
        found = [ask.request for ask in journal.pending("second", 1, split=("p",))]
        assert found == [1, 3]
        assert journal.n_split("p") == 1


def test_pages_of_questions_while_answers_come_in(path: Path) -> None:
    journal = Journal(path)
    with journal, journal.writing():
        for seq in range(1, 3 * PAGE):
            journal.add_row(seq, str(seq).encode(), str(seq), "x")
    with Journal(path) as journal:
        seen = []
        for ask in journal.pending("p", 1):
            seen.append(ask.request)
            journal.record([answer(ask.request)])
        assert seen == list(range(1, 3 * PAGE))


def test_rows_that_are_gone_are_not_asked_but_their_answers_stay(path: Path) -> None:
    with filled(path, "ab") as journal:
        journal.record([answer(1)])
    with filled(path, "bc") as journal:
        assert [ask.data for ask in journal.pending("p", 1)] == ["b", "c"]
    with filled(path, "ca") as journal:
        assert [ask.data for ask in journal.pending("p", 1)] == ["c"]


def test_a_sample_is_what_comes_first_in_its_order(path: Path) -> None:
    with Journal(path) as journal, journal.writing():
        for seq, pick in enumerate([50, 10, 40, 20, 30], start=1):
            journal.add_row(seq, str(seq).encode(), str(seq), "x", pick=pick)
        assert journal.trim("", 9) is None
        assert journal.trim("", 3) == 30
        journal.finish_rows()
        assert [row.id for row in journal.rows()] == ["2", "4", "5"]
        assert journal.trim("", 0) == -1
        assert list(journal.rows()) == []


def test_what_is_written_in_one_go_is_kept_whole_or_not_at_all(path: Path) -> None:
    with filled(path, "ab") as journal:
        with pytest.raises(ConfigError), journal.writing():
            _broken_off(journal)
        assert journal.get("key") is None


def _broken_off(journal: Journal) -> None:
    journal.set(key="value")
    raise ConfigError("broken off")


def test_batches_hold_their_questions_until_they_are_dropped(path: Path) -> None:
    with filled(path) as journal:
        journal.intend("n1", [Ask(1, "p", 0, ""), Ask(2, "p", 0, "")], Decimal("0.5"))
    with Journal(path) as journal:
        (batch,) = journal.batches()
        assert (batch.nonce, batch.count, batch.id, batch.reserved) == ("n1", 2, None, Decimal("0.5"))
        assert told(journal) == [(3, 0)]
        journal.sent("n1", "msgbatch_1")
        assert journal.batches()[0].id == "msgbatch_1"
        assert journal.in_batch("n1", 1, "p", 0)
        journal.record([answer(1)])
        assert not journal.in_batch("n1", 1, "p", 0)
        journal.drop("n1")
        assert (journal.batches(), told(journal)) == ([], [(2, 0), (3, 0)])


def test_what_was_lost_is_remembered(path: Path) -> None:
    with filled(path) as journal:
        journal.record([], lost=Decimal("0.25"))
        journal.record([answer(1)], lost=Decimal("0.25"))
        assert journal.spent().lost_usd == Decimal("0.50")


def test_one_process_at_a_time(path: Path) -> None:
    code = f"from prerouter.journal import Journal; from pathlib import Path; Journal(Path({str(path)!r}))"
    with Journal(path), pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "another prerouter label is at work" in caught.value.stderr
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_thread_of_the_same_process_may_not_open_it_twice(path: Path) -> None:
    with Journal(path), pytest.raises(ConfigError, match="at work"):
        Journal(path)


def test_what_a_killed_process_recorded_is_there(path: Path) -> None:
    filled(path).close()
    code = f"""
import os
from decimal import Decimal
from pathlib import Path
from prerouter.journal import Answer, Journal
journal = Journal(Path({str(path)!r}))
journal.record([Answer(1, "p", 0, "x", 1.0, None, True, 1, 1.0, Decimal(1), 1, 1)])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    with Journal(path) as journal:
        assert told(journal) == [(2, 0), (3, 0)]


def test_a_file_that_is_no_journal_is_refused(path: Path) -> None:
    path.write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match="not a journal"):
        Journal(path)
    assert path.read_bytes() == b"x" * 5000


def test_removed_it_leaves_nothing(path: Path) -> None:
    filled(path).remove()
    assert os.listdir(path.parent) == ["cwd"] if (path.parent / "cwd").exists() else []
