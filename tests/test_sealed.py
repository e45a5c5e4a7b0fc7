from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter import sealed

contents = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5).filter(lambda key: key != "checksum"),
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.none(),
    max_size=4,
)


@given(contents)
def test_what_is_written_is_read_and_whole(content: dict[str, object]) -> None:
    data = sealed.write(content)
    read = sealed.read(data)
    assert {key: value for key, value in read.items() if key != "checksum"} == content
    assert sealed.is_whole(read, data)


@given(contents, st.data())
def test_any_changed_byte_is_seen(content: dict[str, object], data: st.DataObject) -> None:
    whole = sealed.write(content)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    try:
        read = sealed.read(changed)
    except sealed.Broken:
        return
    assert not sealed.is_whole(read, changed)


@given(st.binary() | st.sampled_from([b"[1]", b"3", b'{"a": NaN}', b"[" * 100_000]))
def test_what_is_no_object_is_broken(data: bytes) -> None:
    try:
        content = sealed.read(data)
    except sealed.Broken:
        return
    assert isinstance(json.loads(data), dict)
    assert isinstance(content, dict)


def test_nothing_that_json_does_not_have_is_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        sealed.write({"a": float("nan")})
