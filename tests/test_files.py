from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prerouter
from prerouter.errors import DataError
from prerouter.files import read_jsonl, shipped, write_whole

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4)


def _read(data: bytes) -> list[tuple[int, object]]:
    return list(read_jsonl(io.BytesIO(data), "f.jsonl"))


def test_in_a_checkout_the_shipped_files_are_the_checkouts() -> None:
    assert shipped("models/default") == Path(prerouter.__file__).parent.parent / "models" / "default"
    assert shipped("labels/complexity.toml").is_file()


@given(st.lists(objects), st.sampled_from([b"\n", b"\r\n", b"\n\n  \n"]))
def test_what_json_writes_is_read_back(rows: list[dict[str, object]], end: bytes) -> None:
    data = b"".join(json.dumps(row).encode() + end for row in rows)
    assert [row for _, row in _read(data)] == rows


@given(st.binary())
def test_any_bytes_are_objects_or_errors_that_name_their_line(data: bytes) -> None:
    for number, row in _read(data):
        assert isinstance(row, dict) or (isinstance(row, DataError) and row.line == number and row.next_step)


def test_line_numbers_count_blank_lines_and_a_byte_order_mark_is_no_error() -> None:
    (first, second) = _read(b'\xef\xbb\xbf{"a": 1}\n\n[]\n')
    assert first == (1, {"a": 1})
    assert second[0] == 3
    assert isinstance(second[1], DataError)
    assert str(second[1]).startswith("a line must be a JSON object (f.jsonl, line 3); ")


def test_a_deeply_nested_line_is_an_error_not_a_crash() -> None:
    ((_, row),) = _read(b"[" * 200_000)
    assert isinstance(row, DataError)


def test_a_whole_file_is_there_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f.txt"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["f.txt"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f.txt"
    write_whole(path, b"one")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["f.txt"]
