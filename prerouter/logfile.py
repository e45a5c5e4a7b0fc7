"""The routing log in a file: made, opened, checked, migrated; and the key beside it.

One SQLite file in write-ahead mode (https://www.sqlite.org/wal.html): readers and one writer at a time do not wait for
each other, in one process or in several. Beside it `NAME.key`, the key of the text hashes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prerouter.errors import DataError, UpstreamError
from prerouter.logmigrations import SQLITE as MIGRATIONS
from prerouter.logstore import Db, T

if TYPE_CHECKING:
    import sqlite3

BUSY_S = 0.25  # seconds that the writer waits for another process's transaction before it lets go and tries again
PATIENT_S = 5.0  # the same for readers and `prune`, which do not try again

# Held while a connection is in use and while the process forks: a child that inherits an open SQLite connection, or
# the lock bookkeeping of one, can corrupt the file (https://www.sqlite.org/howtocorrupt.html, 2.6).
in_use = threading.Lock()

_APPLICATION_ID = 0x50524C47  # "PRLG" in the file's header: another program's database is refused, not filled
_SIZES = "page_count", "freelist_count", "page_size"
_STATE = """
    SELECT (SELECT count(*) FROM sqlite_master), application_id, user_version
    FROM pragma_application_id, pragma_user_version
"""


class FileStore:
    """The log in an SQLite file; see `logstore.Store`.

    durable: a commit reaches the disk before it returns (`synchronous=FULL`); else it survives the death of the
    process, not of the machine.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path, self.where = path, str(path)
        self._durable = durable
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._key = b""

    def write(self, work: Callable[[Db, bytes], T]) -> T:
        """See `Store`. Raises OSError, sqlite3.Error, DataError, and closes the connection when it does."""
        with in_use:
            try:
                db = self._connected()
                with _transaction(db):
                    self._key = self._key or text_key(self.path)
                    return work(db, self._key)
            except BaseException:
                self._close()
                raise

    def disconnect(self) -> None:
        """See `Store`."""
        with in_use:
            self._close()

    @contextmanager
    def reading(self) -> Iterator[Db | None]:
        """See `Store`. Raises DataError, UpstreamError."""
        with in_use, self._naming_errors():
            if not self.path.exists():
                yield None
                return
            with closing(self._open_existing()) as db:
                db.execute("BEGIN")
                yield db if _check(db, self.path) else None

    @contextmanager
    def changing(self, *, create: bool = False) -> Iterator[Db | None]:
        """See `Store`. Raises DataError, UpstreamError."""
        with in_use, self._naming_errors():
            if not (create or self.path.exists()):
                yield None
                return
            with closing(self._open(PATIENT_S)) as db, _transaction(db):
                yield db

    def row_at_a_time(self, db: Db) -> AbstractContextManager[None]:
        """See `Store`: a statement that fails in SQLite undoes itself alone."""
        return nullcontext()

    def of_the_store(self, error: Exception) -> bool:
        """See `Store`."""
        import sqlite3

        # DatabaseError itself means a damaged file; its subclass DataError, for one, a value that is too large.
        of_the_file = sqlite3.OperationalError | sqlite3.InternalError
        return isinstance(error, of_the_file | OSError | DataError) or type(error) is sqlite3.DatabaseError

    def used(self, db: Db) -> int | None:
        """See `Store`."""
        pages, free, page = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in _SIZES)
        return int((pages - free) * page)

    def may_pass(self, error: Exception) -> bool:
        """See `Store`."""
        import sqlite3

        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the detail (https://www.sqlite.org/rescode.html)
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)

    def close(self) -> None:
        """See `Store`: nothing else stays open."""

    def size(self) -> int:
        """Bytes of the log and its write-ahead file."""
        n_bytes = 0
        for file in (self.path, self.path.with_name(self.path.name + "-wal")):
            with suppress(FileNotFoundError):
                n_bytes += file.stat().st_size
        return n_bytes

    def shrink(self) -> bool:
        """See `Store`."""
        with in_use, self._naming_errors(), closing(self._open_existing()) as db:
            before = _free_pages(db)
            db.executescript("PRAGMA incremental_vacuum(1000)")  # `execute` would stop after the first page
            left = _free_pages(db)
            if 0 < left < before:
                return True
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # while others read it does nothing, and says so
            return False

    def before_fork(self) -> None:
        """See `Store`."""
        self._close()

    def in_child(self) -> None:
        """See `Store`."""

    def _close(self) -> None:
        if self._db:
            self._db.close()
        self._db = None

    def _connected(self) -> sqlite3.Connection:
        # A file that was deleted or replaced still takes writes, into nowhere.
        if self._db and self._file != _identity(self.path):
            self._close()
        if self._db is None:
            self._db = self._open(BUSY_S)
            self._file, self._key = _identity(self.path), b""
        return self._db

    def _open(self, busy_s: float) -> sqlite3.Connection:
        """A connection for writing; the file is made with its folder when missing, migrated when older."""
        if not self.path.exists():
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Never opened by us once it exists: closing any descriptor of a file drops the process's locks on it.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL, 0o600))
        db = _connect(self.path, "mode=rw", busy_s)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # holds only in a file without tables, hence first
            _check(db, self.path)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            _migrate(db, self.path)
        except BaseException:
            db.close()
            raise
        return db

    def _open_existing(self) -> sqlite3.Connection:
        options = _reading(self.path)
        db = _connect(self.path, options, PATIENT_S)
        try:
            if not 0 < _check(db, self.path) < len(MIGRATIONS):
                return db
        except BaseException:
            db.close()
            raise
        db.close()
        if options != "mode=rw":
            step = "copy it and its -wal file into a folder that can be written to"
            raise DataError("an older routing log, which cannot be changed here", file=self.path, next_step=step)
        return self._open(PATIENT_S)

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        import sqlite3

        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            what = f"cannot use the routing log: {error}"
            step = "look at its permissions, and at who else holds it"
            raise UpstreamError(what, where=self.where, next_step=step, cause=error) from error
        except sqlite3.DatabaseError as error:
            raise _not_a_log(self.path, str(error)) from error


def text_key(path: Path) -> bytes:
    """The 32 random bytes in `NAME.key` beside the log, made at first use. Raises OSError, DataError.

    Not in the log: whoever is given the log alone cannot try out texts on its hashes. Call within a transaction that
    writes: it keeps other processes from making a second key.
    """
    file = path.with_name(path.name + ".key")
    if not file.exists():
        _write_private(file, os.urandom(32))
    key = file.read_bytes()
    if len(key) != 32:
        step = "move it away; a new one is made, and texts seen before look new"
        raise DataError("not a key of 32 bytes", file=file, next_step=step)
    return key


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    with db:
        yield


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _free_pages(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])


def _write_private(file: Path, data: bytes) -> None:
    # `files.write_whole` would let others read it. One name suffices, as there is one writer.
    new = file.with_name(file.name + ".new")
    with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(new, file)


def _connect(path: Path, options: str, busy_s: float) -> sqlite3.Connection:
    import sqlite3

    uri = f"{path.as_uri()}?{options}"  # never mode=rwc: a reader must not create, the writer creates with its own mode
    return sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)


def _reading(path: Path) -> str:
    """Options for a reader: it needs a writable folder for the write-ahead files, or the word that there are none.

    Not mode=ro in a writable folder: that leaves the files it makes behind.
    """
    if os.access(path.parent, os.W_OK):
        return "mode=rw"
    return "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"


def _check(db: sqlite3.Connection, path: Path) -> int:
    """The file's schema version, 0 for an empty file. Raises DataError when it is not for us."""
    # One statement sees one state of the file: another process may be making its tables at this moment.
    tables, application, version = db.execute(_STATE).fetchone()
    if tables and application != _APPLICATION_ID:
        raise _not_a_log(path, "it is another program's database")
    if version > len(MIGRATIONS):
        what = f"the routing log has schema version {version}, this prerouter knows up to {len(MIGRATIONS)}"
        raise DataError(what, file=path, next_step="pip install --upgrade prerouter")
    return int(version)


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    if _check(db, path) == len(MIGRATIONS):
        return
    db.execute("BEGIN IMMEDIATE")  # one process migrates; the version is read again once we are the one
    with db:
        for number in range(_check(db, path), len(MIGRATIONS)):
            for statement in MIGRATIONS[number].split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def _not_a_log(path: Path, why: str) -> DataError:
    step = "move the file away; a new log is made at the next row"
    return DataError(f"not a routing log: {why}", file=path, next_step=step)
