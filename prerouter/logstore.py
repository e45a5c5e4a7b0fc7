"""What a store of the routing log is: an SQLite file (`logfile`) or a PostgreSQL database (`postgres`).

SQL is written once, in what both understand, with ? for values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """Rows that an INSERT, UPDATE or DELETE changed."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class Db(Protocol):
    """A connection."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor:
        """Run one statement."""

    def executemany(self, sql: str, values: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each of `values`."""


class Store(Protocol):
    """Where one log is kept. Thread-safe; nothing is opened before it is used.

    where: for people; holds no password. Failures of the store itself come as `of_the_store` errors from `write`, and
    as DataError (not a log, or a newer one) and UpstreamError (cannot be used now) from the others.
    """

    where: str

    def write(self, work: Callable[[Db, bytes], T]) -> T:
        """`work(db, key)` in a transaction that no other writer is in, on a connection that is kept; made if missing.

        key: of the text hashes. What `work` raises undoes it. Where a failure left open whether the transaction took
        place, the same `work` given again is done only if it did not.
        """

    def disconnect(self) -> None:
        """Close the kept connection; the next `write` opens another."""

    def reading(self) -> AbstractContextManager[Db | None]:
        """A connection for statements that stand alone; None where there is no log. Creates nothing."""

    def changing(self, *, create: bool = False) -> AbstractContextManager[Db | None]:
        """As `reading`, in a transaction that no other writer is in. create: make what is missing."""

    def row_at_a_time(self, db: Db) -> AbstractContextManager[None]:
        """Around a statement whose failure must not undo the ones before it in the transaction."""

    def of_the_store(self, error: Exception) -> bool:
        """True when a statement failed for the store's sake: a later try can help. Else its values are at fault."""

    def used(self, db: Db) -> int | None:
        """Bytes that `db` needs for what it holds, without free space; None where that is not known."""

    def may_pass(self, error: Exception) -> bool:
        """True when writing failed for another process's sake, which a later try may find gone."""

    def close(self) -> None:
        """Close what else is open."""

    def size(self) -> int:
        """Bytes."""

    def shrink(self) -> bool:
        """Give some free space back to the system; False when there is nothing more to be done."""

    def before_fork(self) -> None:
        """Make it safe for the process to fork. Call with `logfile.in_use` held."""

    def in_child(self) -> None:
        """Forget what only the parent of a fork may use."""
