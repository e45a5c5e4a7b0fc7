from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prerouter
from prerouter.errors import ConfigError, DataError
from prerouter.files import expanded, open_output, read_jsonl, shipped, write_whole

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


def test_an_output_appears_whole_and_an_error_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with open_output(str(path)) as out:
        out.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(ZeroDivisionError), open_output(str(path)) as out:
        out.write(str(1 / 0))
    assert path.read_text() == "new"
    assert not list(tmp_path.glob("*.part"))


def _interrupted(path: Path) -> None:
    with open_output(str(path)) as out:
        out.write("so far")
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_was_written(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _interrupted(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "so far"


def test_an_output_through_a_link_replaces_the_links_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with open_output(str(tmp_path / "link")) as out:
        out.write("new")
    assert (tmp_path / "target").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def test_what_is_read_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("rows")
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(ConfigError, match="overwrite"), open_output(str(tmp_path / "link"), sources=[tmp_path / "in"]):
        pass
    assert (tmp_path / "in").read_text() == "rows"


def test_half_a_surrogate_pair_becomes_its_json_escape(tmp_path: Path) -> None:
    with open_output(str(tmp_path / "out")) as out:
        out.write(json.dumps({"id": "\ud800"}, ensure_ascii=False))
    assert json.loads((tmp_path / "out").read_bytes()) == {"id": "\ud800"}


def test_a_home_that_does_not_exist_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no home folder"):
        expanded("~no-such-user/x")
