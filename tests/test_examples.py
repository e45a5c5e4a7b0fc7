"""Labelled rows are read as they stand, or refused with file and line."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter import text
from prerouter.errors import ConfigError, DataError
from prerouter.examples import Example, body_of, read_bodies, read_examples
from prerouter.taxonomy import Taxonomy


def _file(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _one(folder: Path, row: Any, **options: Any) -> Example:
    (found,) = read_examples([_file(folder, row)], Taxonomy.load(), **options)
    return found


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "text": "What is 2 + 2?",
        "label": "Simple",
        "weight": 2,
        "group": "chat-1",
        "at": "2026-11-01T10:00:00Z",
        "votes": {"simple": 2, "moderate": 1},
        "second": "moderate",
        "confidence": 0.75,
        "labelled_by": "claude-haiku-5-5",
        "prompt_id": "0123456789ab",
        "source": "search",
        "anything": {"else": True},
    }
    found = _one(tmp_path, row)
    assert found == Example(
        request=text.render("What is 2 + 2?"),
        label="simple",
        is_novel=False,
        weight=2.0,
        group="chat-1",
        at="2026-11-01T10:00:00Z",
        votes={"simple": 2, "moderate": 1},
        second="moderate",
        confidence=0.75,
        labelled_by="claude-haiku-5-5",
        prompt_id="0123456789ab",
        source="search",
        id="7",
        file=str(tmp_path / "rows.jsonl"),
        line=1,
    )


def test_what_a_row_leaves_out_has_its_default(tmp_path: Path) -> None:
    found = _one(tmp_path, {"text": "Hello", "label": "simple", "second": None})
    assert (found.weight, found.group, found.votes, found.second, found.id) == (1.0, None, {}, None, "1")


def test_messages_come_with_system_and_tools(tmp_path: Path) -> None:
    body = {"system": "You are a clerk.", "messages": [{"role": "user", "content": "Sort these invoices by date."}]}
    found = _one(tmp_path, body | {"label": "simple", "text": "not this"})
    assert found.request == text.render(body)


def test_later_turns_of_one_conversation_share_a_group_and_others_do_not(tmp_path: Path) -> None:
    turns = [("user", "Draft a letter."), ("assistant", "Dear Sir,"), ("user", "Shorter."), ("assistant", "Sir,")]
    other = [("user", "Draft a letter."), ("assistant", "Dear Madam,"), ("user", "Shorter.")]
    talks = [turns[:1], turns[:3], [*turns, ("user", "Longer.")], other]
    rows = [{"label": "simple", "messages": [{"role": r, "content": c} for r, c in talk]} for talk in talks]
    groups = [row.group for row in read_examples([_file(tmp_path, *rows)])]
    assert groups[0] is None
    assert groups[1] == groups[2] != groups[3]


def test_a_label_may_be_written_in_any_case_and_any_label_passes_without_a_taxonomy(tmp_path: Path) -> None:
    path = _file(tmp_path, {"text": "a", "label": " card  arrival "}, {"text": "b", "label": "refund"})
    assert [row.label for row in read_examples([path])] == ["card arrival", "refund"]
    with pytest.raises(DataError, match="'card arrival' is not a label of the taxonomy 'complexity'"):
        read_examples([path], Taxonomy.load())


def test_novel_rows_are_of_no_class(tmp_path: Path) -> None:
    path = _file(tmp_path, {"text": "a", "label": "OOS"}, {"text": "b", "label": "complex"})
    rows = read_examples([path], Taxonomy.load(), novel_label="oos")
    assert [(row.label, row.is_novel) for row in rows] == [(None, True), ("complex", False)]
    with pytest.raises(ConfigError, match="the novel label is a label of the taxonomy"):
        read_examples([path], Taxonomy.load(), novel_label="complex")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "`label` is missing"),
        ({"text": "a", "label": None}, "`label` is missing"),
        ({"text": "a", "label": ""}, "`label` must be text that is not empty"),
        ({"text": "a", "label": 3}, "`label` must be text that is not empty"),
        ('{"text": "a", "label": NaN}', "`label` must be text that is not empty"),
        (
            {"text": "a", "label": "simpel"},
            "'simpel' is not a label of the taxonomy 'complexity'.*did you mean 'simple'",
        ),
        ({"text": "a", "label": "simple", "second": "hard"}, "`second` = 'hard' is not a label"),
        ({"text": "a", "label": "simple", "votes": {"hard": 2}}, "`votes` = 'hard' is not a label"),
        ({"text": "a", "label": "simple", "votes": {"simple": 1.5}}, "`votes` must count in whole numbers"),
        ({"text": "a", "label": "simple", "votes": ["simple"]}, "`votes` must be an object"),
        ('{"text": "a", "label": "simple", "weight": NaN}', "`weight` must be a number above 0 up to 1000"),
        ('{"text": "a", "label": "simple", "weight": Infinity}', "`weight` must be a number"),
        ({"text": "a", "label": "simple", "weight": 0}, "`weight` must be a number above 0"),
        ({"text": "a", "label": "simple", "weight": -1}, "`weight` must be a number above 0"),
        ({"text": "a", "label": "simple", "weight": "2"}, "`weight` must be a number above 0"),
        ({"text": "a", "label": "simple", "weight": True}, "`weight` must be a number above 0"),
        ({"text": "a", "label": "simple", "confidence": 1.2}, "`confidence` must be a number from 0 to 1"),
        ('{"text": "a", "label": "simple", "group": NaN}', "`group` must be text"),
        ({"text": 3, "label": "simple"}, "neither `text` nor `messages`"),
        ({"label": "simple"}, "neither `text` nor `messages`"),
        ({"messages": "not json", "label": "simple"}, "`messages` is not JSON"),
        ({"messages": [], "label": "simple"}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}], "label": "simple"}, r"messages\[0\].role"),
        ("[1]", "a line must be a JSON object"),
        ("{", "not a line of JSON"),
    ],
)
def test_a_broken_row_is_refused_with_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    path = _file(tmp_path, {"text": "fine", "label": "simple"}, "", row)
    with pytest.raises(DataError, match=message) as error:
        read_examples([path], Taxonomy.load())
    assert (error.value.file, error.value.line) == (str(path), 3)
    assert error.value.next_step


def test_a_message_never_shows_the_request(tmp_path: Path) -> None:
    path = _file(tmp_path, {"text": "secret words", "label": "secret-label" * 50})
    with pytest.raises(DataError) as error:
        read_examples([path], Taxonomy.load())
    assert "secret words" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read it: No such file"):
        read_examples([tmp_path / "none.jsonl"])
    with pytest.raises(DataError, match="cannot read it: Is a directory"):
        read_examples([tmp_path])


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.TextIOWrapper(io.BytesIO(b'{"text": "a", "label": "simple"}\n'))
    monkeypatch.setattr(sys, "stdin", data)
    (row,) = read_examples(["-"], Taxonomy.load())
    assert (row.file, row.line, row.label) == ("-", 1, "simple")


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"text": "a", "label": "simple", "votes": {"simple": 3, "moderate": None}, "weight": 2.0},
        {"text": None, "messages": [{"role": "user", "content": "b"}], "label": "complex"},
        {"text": "c", "label": "moderate", "confidence": 0.5},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema(pyarrow)), tmp_path / "rows.data")
    found = read_examples([tmp_path / "rows.data"], Taxonomy.load())
    plain = read_examples([_file(tmp_path, *rows)], Taxonomy.load())
    assert [(r.request, r.label, r.weight, r.votes, r.line) for r in found] == [
        (r.request, r.label, r.weight, r.votes, r.line) for r in plain
    ]
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": ["simple", None]}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="`label` is missing") as error:
        read_examples([tmp_path / "bad.parquet"], Taxonomy.load())
    assert error.value.line == 2
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "rows.data").read_bytes()[:200])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(read_bodies(tmp_path / "cut.parquet"))


def _schema(pyarrow: Any) -> Any:
    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    return pyarrow.schema(
        [
            ("text", pyarrow.string()),
            ("messages", pyarrow.list_(message)),
            ("label", pyarrow.string()),
            ("votes", pyarrow.struct([("simple", pyarrow.int64()), ("moderate", pyarrow.int64())])),
            ("weight", pyarrow.float64()),
            ("confidence", pyarrow.float64()),
        ]
    )


def test_bodies_are_raw_rows_read_one_by_one(tmp_path: Path) -> None:
    path = _file(tmp_path, {"text": "a", "n": 1}, {"messages": '[{"role": "user", "content": "b"}]'}, "broken")
    rows = read_bodies(path)
    assert next(rows) == (1, {"text": "a", "n": 1})
    line, row = next(rows)
    assert body_of(row) == {"messages": [{"role": "user", "content": "b"}]}
    with pytest.raises(DataError, match="not a line of JSON") as error:
        next(rows)
    assert (line, error.value.line) == (2, 3)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_KEYS = ("text", "messages", "label", "votes", "second", "weight", "confidence", "group", "id", "at", "source")


@given(row=st.dictionaries(st.sampled_from(_KEYS), _VALUES))
def test_whatever_a_row_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, row: Any) -> None:
    path = _file(tmp_path_factory.getbasetemp(), row, name="any.jsonl")
    try:
        (found,) = read_examples([path])
    except DataError as refused:
        error = refused
    else:
        assert found.label
        assert 0 < found.weight <= 1000
        return
    assert error.line == 1
