"""What goes into the journal: every row once, redacted, from any kind of source, sampled without bias."""

from __future__ import annotations

import json
import random
import sys
import tracemalloc
from collections import Counter
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_help import rows_file, texts

from prerouter import DataError, PreRouter, RouteLog
from prerouter.intake import Source, asked, dumped, index, key_of, shared_out
from prerouter.journal import Journal, Row
from prerouter.sections import LogSettings
from prerouter.settings import Settings
from prerouter.text import render


def taken(folder: Path, source: Source) -> list[Row]:
    with Journal(folder / "journal") as journal:
        index(journal, source)
        return list(journal.rows())


def sources(*paths: Path, **options: Any) -> Source:
    return Source(tuple(map(str, paths)), **options)


def test_several_files_are_one_input(tmp_path: Path) -> None:
    one = rows_file(tmp_path / "a.jsonl", [{"text": "x"}])
    two = rows_file(tmp_path / "b.jsonl", [{"text": "y"}, {"id": 7, "text": "x"}])
    rows = taken(tmp_path, sources(one, two))
    assert [row.id for row in rows] == ["a.jsonl:1", "b.jsonl:1", "7"]
    assert [row.request for row in rows] == [1, 2, 1]
    assert json.loads(rows[2].data)["id"] == 7


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b'{"text": "x"}\n{"text": "y"}\n')))
    assert [row.id for row in taken(tmp_path, Source(("-",)))] == ["1", "2"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="comes with prerouter[train]")
    from pyarrow import parquet

    table = pyarrow.table({"text": ["x", "y"], "team": ["a", None]})
    parquet.write_table(table, tmp_path / "in.parquet")
    rows = taken(tmp_path, sources(tmp_path / "in.parquet"))
    assert [json.loads(row.data) for row in rows] == [{"id": "1", "text": "x", "team": "a"}, {"id": "2", "text": "y"}]


@pytest.mark.parametrize("keeps_text", [True, False])
def test_the_routing_log(tmp_path: Path, keeps_text: bool) -> None:
    settings = Settings(workspace=tmp_path, log=LogSettings(text=keeps_text))
    with RouteLog.open(settings=settings) as log, PreRouter.load(settings=settings, log=log) as router:
        for text in ("Say hi to jo@example.com.", "Prove it."):
            router.decide(text, local_only=True, tags={"team": "x"})
    if not keeps_text:
        with pytest.raises(DataError, match="keeps no texts"):
            taken(tmp_path, sources(log.path))
        return
    first, second = (json.loads(row.data) for row in taken(tmp_path, sources(log.path)))
    assert (first["text"], second["text"]) == ("Say hi to [EMAIL_1].", "Prove it.")
    assert first["tags"] == {"team": "x"}
    assert first["at"] <= second["at"]


def test_messages_are_redacted_in_every_part(tmp_path: Path) -> None:
    body = {
        "system": "You work for jo@example.com.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Mail ann@example.com and jo@example.com"}]}
        ],
        "note": "jo@example.com",
    }
    (row,) = taken(tmp_path, sources(rows_file(tmp_path / "in.jsonl", [body])))
    kept = json.loads(row.data)
    assert "example.com" not in json.dumps({**kept, "note": ""})
    assert kept["note"] == "jo@example.com"  # no part of what is asked
    assert asked(row.data).text.count("[EMAIL_") == 2


def test_a_second_look_reads_nothing(tmp_path: Path) -> None:
    source = rows_file(tmp_path / "in.jsonl", texts(3))
    with Journal(tmp_path / "journal") as journal:
        index(journal, sources(source))
        with journal.writing():
            journal.clear_rows()
        index(journal, sources(source))
        assert journal.count()[0] == 0
        rows_file(source, texts(4))
        index(journal, sources(source))
        assert journal.count()[0] == 4


def test_a_broken_row_leaves_the_old_rows_to_be_read_again(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "x"}\nbroken\n')
    with Journal(tmp_path / "journal") as journal:
        with pytest.raises(DataError):
            index(journal, sources(source))
        source.write_text('{"text": "x"}\n')
        index(journal, sources(source))
        assert journal.count() == (1, 1)


def test_a_sample_takes_every_row_equally_often(tmp_path: Path) -> None:
    source = rows_file(tmp_path / "in.jsonl", texts(40))
    counts: Counter[str] = Counter()
    for seed in range(80):
        folder = tmp_path / str(seed)
        folder.mkdir()
        counts.update(row.id for row in taken(folder, sources(source, sample=10, seed=seed)))
    assert sum(counts.values()) == 800
    assert len(counts) == 40
    assert min(counts.values()) > 4  # 20 expected, standard deviation 3.9: four of them
    assert max(counts.values()) < 36


def test_a_sample_larger_than_the_input_is_all_of_it(tmp_path: Path) -> None:
    assert len(taken(tmp_path, sources(rows_file(tmp_path / "in.jsonl", texts(5)), sample=10))) == 5


def test_a_stratified_sample_takes_the_rare_and_weighs_it_back(tmp_path: Path) -> None:
    rows = [{"text": f"Short {i}.", "source": "a"} for i in range(900)]
    rows += [{"text": f"Other {i}.", "source": "b"} for i in range(100)]
    random.Random(0).shuffle(rows)
    kept = taken(tmp_path, sources(rows_file(tmp_path / "in.jsonl", rows), sample=100, stratify=True))
    by_source = Counter(json.loads(row.data)["source"] for row in kept)
    assert by_source == {"a": 50, "b": 50}
    weights = {json.loads(row.data)["source"]: row.weight for row in kept}
    assert weights == {"a": pytest.approx(1.8), "b": pytest.approx(0.2)}


@given(st.integers(1, 200), st.dictionaries(st.text(max_size=3), st.integers(1, 100), min_size=1, max_size=8))
def test_places_are_shared_out_evenly(total: int, sizes: dict[str, int]) -> None:
    quotas = shared_out(total, sizes)
    assert sum(quotas.values()) == min(total, sum(sizes.values()))
    assert all(0 <= quotas[name] <= size for name, size in sizes.items())
    full = [quotas[name] for name, size in sizes.items() if quotas[name] < size]
    assert not full or max(full) - min(full) <= 1


def test_the_same_text_has_the_same_key_in_any_context() -> None:
    turn = {"role": "user", "content": "Prove it."}
    bare, dressed = render({"messages": [turn]}), render({"messages": [turn], "system": "Be kind."})
    assert key_of(bare) == key_of(dressed) == key_of(render("Prove it."))
    assert key_of(bare) != key_of(render("Prove it!"))
    assert key_of(render("\ud800")) != key_of(render("?"))


def test_a_line_is_always_utf_8_and_json() -> None:
    assert dumped({"text": "naïve"}) == '{"text": "naïve"}'
    assert json.loads(dumped({"text": "\ud800"}).encode()) == {"text": "\ud800"}
    with pytest.raises(DataError, match="as JSON"):
        dumped({"x": float("nan")})


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read it"):
        taken(tmp_path, sources(tmp_path / "none.jsonl"))


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(n: int) -> int:
        folder = tmp_path / str(n)
        folder.mkdir()
        source = sources(rows_file(folder / "in.jsonl", texts(n)))
        with Journal(folder / "journal") as journal:
            tracemalloc.start()
            try:
                index(journal, source)
                for _ in journal.rows():
                    pass
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    peak(100)  # imports
    assert peak(12_000) < 1.2 * peak(4_000)
