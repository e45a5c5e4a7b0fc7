"""The file of reviewed rows: it only ever grows by a whole line, or loses its last one (undo).

Each answer is on disk before it counts; what a crash cuts off is dropped at the next start.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from prerouter.errors import ConfigError, DataError
from prerouter.examples import BODY_KEYS


@dataclass(frozen=True, slots=True)
class Answer:
    """A reviewed row, as far as it is counted. before: the label it had."""

    label: str
    before: str | None
    chosen: str


class Saved:
    """The file of reviewed rows, open and locked. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Not buffered: after a failed write a buffer would be written once more, later.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115, closed by `close`
        try:
            _hold(self._file, path)
            self.answers: dict[str, Answer] = {}
            self._starts: dict[str, int] = {}
            self._load()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of the file; one that was never written to is deleted."""
        with suppress(OSError):
            if not self._file.closed and not self._starts and self.path.stat().st_size == 0:
                self.path.unlink()
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self.answers

    @property
    def last(self) -> str | None:
        """The key of the last row."""
        return next(reversed(self._starts), None)

    def append(self, key: str, row: Mapping[str, Any]) -> None:
        """Add a row; on disk when this returns. After an error the file is as before."""
        start = self._file.seek(0, os.SEEK_END)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException:
            with suppress(OSError):
                self._file.truncate(start)
            raise
        self._starts[key], self.answers[key] = start, _answer(row)

    def take_back(self) -> str:
        """Remove the last row, for good when this returns, and give its key."""
        key = next(reversed(self._starts))
        self._file.truncate(self._starts[key])
        os.fsync(self._file.fileno())
        del self._starts[key], self.answers[key]
        return key

    def _load(self) -> None:
        """Read all rows. Only then the end is mended: a file that is not ours is refused as it is."""
        start, torn = 0, b""
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    self._note(line, start, number)
                except DataError:
                    if line.endswith(b"\n") or not line.startswith(b"{"):
                        raise
                    torn = line  # a crash came between its start and its end
                start += len(line)
        if torn:
            self._file.truncate(start - len(torn))
        elif start and not line.endswith(b"\n"):
            self._file.write(b"\n")

    def _note(self, line: bytes, start: int, number: int) -> None:
        if line.strip():
            row = _object(line, self.path, number)
            key = key_of(row)
            self._starts.pop(key, None)
            self._starts[key], self.answers[key] = start, _answer(row)


def key_of(row: Mapping[str, Any]) -> str:
    """The same for rows with the same request."""
    asked = [row.get(key) for key in ("text", *BODY_KEYS)]
    data = json.dumps(asked, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _answer(row: Mapping[str, Any]) -> Answer:
    before = row.get("reviewed")
    known = before if isinstance(before, Mapping) else {}
    return Answer(str(row.get("label")), known.get("label"), str(known.get("chosen")))


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a line of JSON: {error}", file=path, line=number, next_step="mend or move it") from error
    if not isinstance(row, dict):
        raise DataError("a line must be a JSON object", file=path, line=number, next_step="mend it, or move it away")
    return row


def _hold(file: IO[bytes], path: Path) -> None:
    """Keep other processes out until `file` is closed; where the system has no such locks, two may clash."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        step = "go on in its page, or end it first"
        raise ConfigError("another review of this file is running", where=str(path), next_step=step) from error
