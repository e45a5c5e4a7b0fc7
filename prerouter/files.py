"""Files: those that ship with prerouter, and the few ways in which every room reads and writes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar

from prerouter.errors import ConfigError, DataError

F = TypeVar("F", bound=IO[Any])


def shipped(name: str) -> Path:
    """A shipped file or folder, e.g. `models/default`: under `prerouter/shipped` in a wheel, else in the checkout."""
    package = Path(__file__).parent
    inside = package / "shipped" / name
    return inside if inside.exists() else package.parent / name


def write_whole(path: Path, data: bytes) -> None:
    """Write `path` so that a reader, or a crash, sees the old content or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path, open(path.with_name(f".{path.name}.{os.urandom(6).hex()}"), "xb")) as out:
        out.write(data)


@contextmanager
def appearing(path: Path) -> Iterator[TextIO]:
    """A text file that is there whole, on disk, or not at all: an interrupted run leaves the old one."""
    with _replacing(path, open(path.with_name(f"{path.name}.part"), "w", encoding="utf-8")) as out:
        yield out
    _sync_folder(path.parent)


@contextmanager
def _replacing(path: Path, beside: F) -> Iterator[F]:
    """What is written to `beside` takes the place of `path` once it is on disk; after an error it goes."""
    try:
        with beside:
            yield beside
            beside.flush()
            os.fsync(beside.fileno())
        os.replace(beside.name, path)
    except BaseException:
        Path(beside.name).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Have the rename itself on disk. Windows opens no folders and needs none."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expanded(name: str | Path) -> Path:
    """`name` with `~` replaced. Raises ConfigError when there is no such home folder."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"no home folder for {name}", where=str(name), next_step="write the path out") from error


@contextmanager
def open_output(name: str | None, *, sources: Iterable[str | Path] = ()) -> Iterator[TextIO]:
    """A text file that appears whole: it is written beside and renamed, by Ctrl-C too, which keeps what is there.

    name: None or "-" is standard output. After an error the old file stays. sources: files that are being read, which
    it may not be: ConfigError.
    """
    if name in (None, "-"):
        yield sys.stdout
        return
    path = expanded(str(name)).resolve()
    if any(_same(path, source) for source in sources):
        raise ConfigError("the output would overwrite what is read", where=str(path), next_step="name another file")
    if path.exists() and not path.is_file():  # a device or a pipe, which cannot be renamed over
        with _text(path) as out:
            yield out
        return
    beside = path.with_name(f"{path.name}.part")
    try:
        with _text(beside) as out:
            yield out
    except Exception:
        beside.unlink(missing_ok=True)
        raise
    except BaseException:
        os.replace(beside, path)
        raise
    os.replace(beside, path)


def _text(path: Path) -> TextIO:
    # Half of a surrogate pair, which JSON may hold, becomes its JSON escape.
    return open(path, "w", encoding="utf-8", errors="backslashreplace")


def _same(path: Path, source: str | Path) -> bool:
    try:
        return os.path.samefile(path, source)
    except OSError:
        return False


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
