"""Files that ship with prerouter, and the two ways every room reads and writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prerouter.errors import DataError


def shipped(name: str) -> Path:
    """A shipped file or folder, e.g. `models/default`: under `prerouter/shipped` in a wheel, else in the checkout."""
    package = Path(__file__).parent
    inside = package / "shipped" / name
    return inside if inside.exists() else package.parent / name


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` so that a reader, or a crash, sees the old content or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        with open(beside, "xb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_jsonl(lines: Iterator[bytes], file: object) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """Each non-blank line as (1-based number, object), or the DataError that says what is wrong with it."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _json_object(line, file, number)


def _json_object(line: bytes, file: object, number: int) -> dict[str, Any] | DataError:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        return DataError(f"not a line of JSON: {error}", file=file, line=number, next_step="mend it or pass --skip-bad")
    if isinstance(value, dict):
        return value
    return DataError("a line must be a JSON object", file=file, line=number, next_step="mend it or pass --skip-bad")
