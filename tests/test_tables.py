from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.errors import ConfigError
from prerouter.tables import did_you_mean, read_table, read_toml, tag_value


@dataclass(frozen=True, slots=True)
class Inner:
    n: int


@dataclass(frozen=True, slots=True)
class Outer:
    text: str
    number: float = 0.5
    flag: bool = False
    price: Decimal | None = None
    day: datetime.date | None = None
    kind: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    tags: Mapping[str, str] | None = None


def _read(**table: Any) -> Any:
    return read_table(Outer, table, "f.toml", "top")


def test_every_kind_of_field_is_read() -> None:
    day = datetime.date(2026, 11, 20)
    whole = _read(
        text="x",
        number=3,
        flag=True,
        price="0.10",
        day=day,
        kind="b",
        words=["u", "v"],
        inner={"n": 1},
        many=[{"n": 2}, {"n": 3}],
        tags={"vip": True, "seat": 3},
    )
    expected = Outer(
        *("x", 3.0, True, Decimal("0.10"), day, "b", ("u", "v"), Inner(1), (Inner(2), Inner(3))),
        tags={"vip": "true", "seat": "3"},
    )
    assert whole == expected
    assert type(whole.number) is float


def test_a_price_keeps_the_digits_that_were_written() -> None:
    assert str(_read(text="x", price=0.1).price) == "0.1"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "top.text is missing"),
        ({"text": "x", "txet": 1}, "unknown key top.txet .*did you mean 'text'"),
        ({"text": ""}, "top.text must be text that is not empty, not ''"),
        ({"text": "a\0"}, "top.text must be text"),
        ({"text": "x", "number": True}, "top.number must be a number, not True"),
        ({"text": "x", "flag": 1}, "top.flag must be true or false"),
        ({"text": "x", "price": -1}, "top.price must be a number above zero"),
        ({"text": "x", "price": float("nan")}, "top.price must be"),
        ({"text": "x", "day": "2026-11-20"}, "without quotes"),
        ({"text": "x", "kind": "c"}, "top.kind must be one of a, b"),
        ({"text": "x", "words": "uv"}, "top.words must be a list"),
        ({"text": "x", "words": ["u", 1]}, r"top.words\[2\] must be text"),
        ({"text": "x", "inner": 1}, r"top.inner must be a table.*write \[top.inner\]"),
        ({"text": "x", "inner": {"n": -1}}, "top.inner.n must be a whole number"),
        ({"text": "x", "many": [{"n": 1}, {}]}, r"top.many\[2\].n is missing"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_with_its_place(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _read(**table)
    assert caught.value.where == "f.toml"


@given(
    st.dictionaries(st.sampled_from([*Outer.__slots__, "else"]), st.from_type(type).flatmap(st.from_type) | st.none())
)
def test_no_table_raises_anything_but_config_error(table: dict[str, Any]) -> None:
    try:
        record = read_table(Outer, table, "f.toml")
    except ConfigError:
        return
    assert isinstance(record, Outer)


@pytest.mark.parametrize("data", [b"a = ", b"\xff", b"a = 1\na = 2"])
def test_a_broken_file_is_a_config_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "f.toml").write_bytes(data)
    with pytest.raises(ConfigError, match="cannot read settings"):
        read_toml(tmp_path / "f.toml")


def test_a_missing_file_and_a_folder_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_toml(tmp_path / "f.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path)


def test_the_next_step_is_the_nearest_name_or_all_of_them() -> None:
    assert did_you_mean("modrate", ["simple", "moderate"]) == "did you mean 'moderate'?"
    assert did_you_mean("xyz", ["simple", "moderate"]) == "known: moderate, simple"


def test_tags_are_compared_as_people_write_them() -> None:
    assert [tag_value(v) for v in (True, "true", 3, None)] == ["true", "true", "3", "None"]
