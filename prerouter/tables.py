"""TOML tables -> frozen records by their type hints; unknown and missing keys and wrong values are refused by name."""

from __future__ import annotations

import datetime
import difflib
import functools
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from prerouter.errors import ConfigError

_T = TypeVar("_T")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def read_toml(path: Path, what: str = "settings", next_step: str = "mend the file") -> dict[str, Any]:
    """The table in a TOML file. Raises ConfigError: `cannot read WHAT: why`."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"no such file of {what}", where=str(path), next_step="check the path") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, endless digits
        raise ConfigError(f"cannot read {what}: {error}", where=str(path), next_step=next_step) from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The next step for an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(names)


def read_table(
    cls: type[_T], table: Any, where: str, path: str = "", *, given: Mapping[str, Any] = _NOTHING, hint: str = "add it"
) -> _T:
    """A `cls`, which is a dataclass, from a table and `given`, whose keys may not stand in the table.

    where: the file, for messages. path: the table's place in it, "a.b". hint: the next step for a missing key.
    """
    kinds = {key: kind for key, kind in hints(cls).items() if key not in given}
    values: dict[str, Any] = dict(given)
    for key, value in mapping(table, where, path).items():
        if key not in kinds:
            raise ConfigError(f"unknown key {_join(path, key)}", where=where, next_step=did_you_mean(str(key), kinds))
        values[key] = convert(kinds[key], value, where, _join(path, key))
    missing = next((f.name for f in fields(typing.cast(Any, cls)) if _required(f) and f.name not in values), None)
    if missing:
        raise ConfigError(f"{_join(path, missing)} is missing", where=where, next_step=hint)
    return cls(**values)


def convert(kind: Any, value: Any, where: str, path: str) -> Any:
    """`value` as a `kind`, a type hint of a record. Raises ConfigError."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return convert(next(a for a in args if a is not types.NoneType), value, where, path)
    if is_dataclass(kind):
        return read_table(typing.cast("type[Any]", kind), value, where, path)
    if origin is tuple:
        return _items(args[0], value, where, path)
    if origin is Mapping:
        items = mapping(value, where, path).items()
        return {key: tag_value(item) if args[1] is str else item for key, item in items}
    if origin is Literal:
        return _checked(lambda v: v if v in args else None, "one of " + ", ".join(args), value, where, path)
    return _checked(*_KINDS[kind], value, where, path)


def mapping(value: Any, where: str, path: str) -> Mapping[str, Any]:
    """`value` if it is a table, else ConfigError."""
    if isinstance(value, Mapping):
        return value
    step = f"write [{path}]" if path and not path.endswith("]") else "mend the file"
    raise ConfigError(f"{path or 'the content'} must be a table, not {value!r}", where=where, next_step=step)


def hints(cls: Any) -> dict[str, Any]:
    """Type hints of a dataclass's fields that a table may set (`init=True`)."""
    return dict(_hints(cls))


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    settable = {f.name for f in fields(cls) if f.init}
    return {name: kind for name, kind in typing.get_type_hints(cls).items() if name in settable}


def tag_value(value: object) -> str:
    """The string that a tag's value is compared as: true, not True."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _required(f: Any) -> bool:
    return f.init and f.default is MISSING and f.default_factory is MISSING


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _items(kind: Any, value: Any, where: str, path: str) -> tuple[Any, ...]:
    if isinstance(value, list | tuple):
        return tuple(convert(kind, item, where, f"{path}[{i}]") for i, item in enumerate(value, start=1))
    raise ConfigError(f"{path} must be a list, not {value!r}", where=where, next_step="change the value")


def _checked(read: Callable[[Any], Any], right: str, value: Any, where: str, path: str) -> Any:
    converted = read(value)
    if converted is None:
        raise ConfigError(f"{path} must be {right}, not {value!r}", where=where, next_step="change the value")
    return converted


def _price(value: Any) -> Decimal | None:
    """A number above zero. A TOML float is welcome: its `repr` has the digits that were written."""
    try:
        number = Decimal(repr(value) if type(value) is float else value)
        return number if Decimal("1e-9") <= number <= 1_000_000 and type(value) is not bool else None
    except (InvalidOperation, TypeError, ValueError):
        return None


def _text(value: Any) -> str | None:
    """None for what no file and no request can carry: empty text, NUL, half of a surrogate pair."""
    if type(value) is not str or "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        return None
    return value if value.strip() else None


_KINDS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    str: (_text, "text that is not empty"),
    int: (lambda v: v if type(v) is int and v >= 0 else None, "a whole number of zero or more"),
    float: (lambda v: float(v) if type(v) is float or (type(v) is int and abs(v) < 2**63) else None, "a number"),
    bool: (lambda v: v if type(v) is bool else None, "true or false"),
    Decimal: (_price, 'a number above zero, such as "0.10"'),
    datetime.date: (lambda v: v if type(v) is datetime.date else None, "a date such as 2026-11-30, without quotes"),
}
