"""The routing log's file: made, opened, checked, migrated; and the key beside it.

One SQLite file in write-ahead mode (https://www.sqlite.org/wal.html): readers and one writer at a time do not wait for
each other, in one process or in several. Beside it `NAME.key`, the key of the text hashes.
"""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prerouter.errors import DataError, UpstreamError
from prerouter.logschema import MIGRATIONS

if TYPE_CHECKING:
    import sqlite3

BUSY_S = 0.25  # seconds that the writer waits for another process's transaction before it lets go and tries again
PATIENT_S = 5.0  # the same for readers and `prune`, which do not try again

# Held while a connection is in use and while the process forks: a child that inherits an open SQLite connection, or
# the lock bookkeeping of one, can corrupt the file (https://www.sqlite.org/howtocorrupt.html, 2.6).
in_use = threading.Lock()

_APPLICATION_ID = 0x50524C47  # "PRLG" in the file's header: another program's database is refused, not filled
_STATE = """
    SELECT (SELECT count(*) FROM sqlite_master), application_id, user_version
    FROM pragma_application_id, pragma_user_version
"""


def open_for_writing(path: Path, *, durable: bool) -> sqlite3.Connection:
    """A connection to the log at `path`, made with its folder when missing, migrated when older.

    Call with `in_use` held. durable: a commit reaches the disk before it returns (`synchronous=FULL`); else it survives
    the death of the process, not of the machine. Raises OSError, sqlite3.Error, DataError.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never opened by us once it exists: closing any descriptor of a file drops the process's locks on it.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    db = _connect(path, "mode=rw", BUSY_S)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # holds only in a file without tables, hence first
        _check(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        _migrate(db, path)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def existing(path: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection to the log at `path`, or None where there is no log yet; creates nothing.

    Raises DataError for a file that is no routing log or a newer one, UpstreamError for one that cannot be read now.
    """
    import sqlite3

    with in_use:
        try:
            if not path.exists():
                yield None
                return
            with closing(_connect(path, _reading(path), PATIENT_S)) as db:
                yield db if _check(db, path) else None
        except (OSError, sqlite3.OperationalError) as error:
            what = f"cannot use the routing log: {error}"
            step = "look at its permissions, and at who else holds it"
            raise UpstreamError(what, where=str(path), next_step=step, cause=error) from error
        except sqlite3.DatabaseError as error:
            raise _not_a_log(path, str(error)) from error


def shrink(db: sqlite3.Connection) -> bool:
    """Give some free pages back to the file system; False when there is nothing more to be done."""
    before = _free_pages(db)
    db.executescript("PRAGMA incremental_vacuum(1000)")  # `execute` would stop after the first page
    left = _free_pages(db)
    if 0 < left < before:
        return True
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # while others read it does nothing, and says so
    return False


def size(path: Path) -> int:
    """Bytes of the log and its write-ahead file."""
    n_bytes = 0
    for file in (path, path.with_name(path.name + "-wal")):
        with suppress(FileNotFoundError):
            n_bytes += file.stat().st_size
    return n_bytes


def of_the_file(error: Exception) -> bool:
    """True when `LogRow.write` failed for the file's sake: a later try can help. Else the row is at fault."""
    import sqlite3

    # DatabaseError itself means a damaged file; its subclass DataError, for one, a value that is too large.
    return isinstance(error, sqlite3.OperationalError | sqlite3.InternalError) or type(error) is sqlite3.DatabaseError


def may_pass(error: Exception) -> bool:
    """True when writing failed for another process's lock, which a later try may find gone."""
    import sqlite3

    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the detail (https://www.sqlite.org/rescode.html)
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


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


def keyed(key: bytes, digest: bytes) -> str:
    """`LogRow.text_hash` for the SHA-256 of a text."""
    return hmac.digest(key, digest, "sha256").hex()[:32]


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
