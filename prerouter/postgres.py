"""The routing log in a PostgreSQL database, for services on many hosts; see `logstore.Store`.

All tables are in the schema `prerouter`. One transaction at a time writes, which makes the order of the rows' numbers
the order in which they appear, as readers that follow the log need. Needs psycopg 3.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prerouter.errors import ConfigError, DataError, MissingExtraError, PreRouterError, UpstreamError
from prerouter.logmigrations import POSTGRES as MIGRATIONS
from prerouter.logstore import Cursor, Db, T
from prerouter.redact import redact

if TYPE_CHECKING:
    import psycopg

SCHEMA = "prerouter"
# What the URL does not set. Seconds, but for the milliseconds of tcp_user_timeout. A host that is gone is noticed.
CONNECTING = {"connect_timeout": "5", "tcp_user_timeout": "10000", "application_name": "prerouter"}
CONNECTING |= {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3"}
_SETTINGS = (
    f"SET LOCAL search_path = {SCHEMA}; SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '60s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '60s'"
)
_ALONE = f"SELECT pg_advisory_xact_lock({0x50524C47})"  # "PRLG"; held until the transaction ends


class PostgresStore:
    """The log in the database at `url`, postgresql://USER:PASSWORD@HOST:PORT/DATABASE and libpq's other parameters.

    A commit is on the server's disk before it returns, unless the server is set otherwise (`synchronous_commit`).
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.where = f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"  # what may hold a password left out
        self._url = url
        self._writer, self._reader = _Line(self._connected), _Line(self._connected)
        self._doubt: tuple[object, str, Any] | None = None
        self._key = b""

    def write(self, work: Callable[[Db, bytes], T]) -> T:
        """See `Store`. Raises psycopg.Error, DataError, ConfigError, MissingExtraError."""
        with self._writer.held() as connection:
            self._made(self._writer, connection)
            with self._alone(connection) as db:
                done = self._done_before(db, work)
                if done is None:
                    self._key = self._key or _key(db)
                    result = work(db, self._key)
                    # Should the answer to COMMIT get lost, this tells whether it took place (manual, 9.27.8).
                    done = work, db.execute("SELECT CAST(pg_current_xact_id() AS TEXT)").fetchone()[0], result
                self._doubt = done
            self._doubt = None
            return done[2]

    def disconnect(self) -> None:
        """See `Store`."""
        self._writer.close()

    def close(self) -> None:
        """See `Store`."""
        self._reader.close()

    @contextmanager
    def reading(self) -> Iterator[Db | None]:
        """See `Store`. Raises DataError, UpstreamError, MissingExtraError."""
        with self._naming_errors(), self._reader.held() as connection:
            if not self._found(self._reader, connection):
                yield None
                return
            with _transaction(connection, "ISOLATION LEVEL REPEATABLE READ READ ONLY") as db:
                yield db

    @contextmanager
    def changing(self, *, create: bool = False) -> Iterator[Db | None]:
        """See `Store`. Raises DataError, UpstreamError, MissingExtraError."""
        with self._naming_errors(), self._reader.held() as connection:
            if create:
                self._made(self._reader, connection)
            elif not self._found(self._reader, connection):
                yield None
                return
            with self._alone(connection) as db:
                yield db

    @contextmanager
    def row_at_a_time(self, db: Db) -> Iterator[None]:
        """See `Store`."""
        db.execute("SAVEPOINT one")
        try:
            yield
        except BaseException:
            db.execute("ROLLBACK TO SAVEPOINT one")
            raise
        db.execute("RELEASE SAVEPOINT one")

    def of_the_store(self, error: Exception) -> bool:
        """See `Store`."""
        import psycopg

        values = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
        return isinstance(error, psycopg.Error | OSError | PreRouterError) and not values

    def used(self, db: Db) -> int | None:
        """See `Store`: a server keeps the space of deleted rows, so that no figure would ever fall."""
        return None

    def may_pass(self, error: Exception) -> bool:
        """See `Store`."""
        import psycopg

        return isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.SerializationFailure)

    def size(self) -> int:
        """Bytes of the log's tables and their indexes."""
        tables = "SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = CAST(? AS regnamespace)"
        with self.reading() as db:
            sql = f"SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM ({tables}) AS ours"
            return int(db.execute(sql, (SCHEMA,)).fetchone()[0]) if db else 0

    def shrink(self) -> bool:
        """See `Store`: the server's autovacuum does it."""
        return False

    def before_fork(self) -> None:
        """See `Store`."""

    def in_child(self) -> None:
        """See `Store`: psycopg leaves a connection alone that another process made, once it is forgotten."""
        self._writer, self._reader, self._doubt = _Line(self._connected), _Line(self._connected), None

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtraError("psycopg", "postgres") from error
        try:
            given = psycopg.conninfo.conninfo_to_dict(self._url)
        except psycopg.ProgrammingError:  # its message quotes the URL
            step = "give postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %XX"
            raise ConfigError("not a PostgreSQL URL", where="log.path", next_step=step) from None
        return psycopg.connect(**(CONNECTING | given), autocommit=True)  # type: ignore[arg-type]

    def _found(self, line: _Line, connection: psycopg.Connection[Any]) -> bool:
        """Whether there is a log; an older one is migrated."""
        if not line.ready and _version(connection, self.where):
            self._made(line, connection)
        return line.ready

    def _made(self, line: _Line, connection: psycopg.Connection[Any]) -> None:
        """Make what is missing."""
        if not line.ready and _version(connection, self.where) < len(MIGRATIONS):
            with _transaction(connection, also=_ALONE) as db:
                db.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                db.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
                for number in range(_version(connection, self.where), len(MIGRATIONS)):
                    for statement in MIGRATIONS[number].split(";"):
                        db.execute(statement)
                    db.execute("DELETE FROM schema_version")
                    db.execute("INSERT INTO schema_version VALUES (?)", (number + 1,))
        line.ready = True

    def _done_before(self, db: Db, work: object) -> tuple[object, str, Any] | None:
        """The same work's transaction whose outcome was left open, if it took place."""
        doubt, self._doubt = self._doubt, None
        if doubt is None or doubt[0] != work:
            return None
        found = db.execute("SELECT pg_xact_status(CAST(? AS xid8))", (doubt[1],)).fetchone()[0]
        return doubt if found == "committed" else None

    def _alone(self, connection: psycopg.Connection[Any]) -> AbstractContextManager[Db]:
        """A transaction that begins when other writers' have ended."""
        return _transaction(connection, also=_ALONE)

    @contextmanager
    def _naming_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "psycopg" and not isinstance(error, OSError):
                raise
            what = f"cannot use the routing log: {redact(str(error)).strip() or type(error).__name__}"
            step = "look at the server, and at the user's rights"
            raise UpstreamError(what, where=self.where, next_step=step, cause=error) from None


class _Line:
    """A connection that is kept between uses, of one thread at a time. One that failed is not used again.

    ready: whether it has found the log, in the newest schema.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]]) -> None:
        self._connect, self.ready = connect, False
        self._lock = threading.RLock()
        self._connection: psycopg.Connection[Any] | None = None

    @contextmanager
    def held(self) -> Iterator[psycopg.Connection[Any]]:
        with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection, self.ready = self._connect(), False
            try:
                yield self._connection
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        with self._lock:
            if self._connection:
                with suppress(Exception):
                    self._connection.close()
            self._connection = None


class _Db:
    """A psycopg connection as `logstore.Db`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = (), /) -> Cursor:
        done: Cursor = self._connection.execute(_translated(sql), [_storable(value) for value in values])
        return done

    def executemany(self, sql: str, values: Iterable[Sequence[Any]], /) -> object:
        with self._connection.cursor() as cursor:
            cursor.executemany(_translated(sql), [[_storable(value) for value in row] for row in values])
        return None


def _translated(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()


def _storable(value: Any) -> Any:
    """PostgreSQL's text holds every character but NUL."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value


@contextmanager
def _transaction(connection: psycopg.Connection[Any], mode: str = "", also: str = "SELECT 1") -> Iterator[_Db]:
    """All settings are for this transaction only: a pooler may share its connections to the server among clients."""
    connection.execute(f"BEGIN {mode}; {_SETTINGS}; {also}".encode())
    yield _Db(connection)
    if connection.execute(b"COMMIT").statusmessage != "COMMIT":
        import psycopg

        raise psycopg.OperationalError("the transaction was undone")


def _version(connection: psycopg.Connection[Any], where: str) -> int:
    """The schema's version, 0 where there is none. Raises DataError for a newer one."""
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.schema_version",)).fetchone()
    there = found is not None and found[0]
    row = connection.execute(f"SELECT version FROM {SCHEMA}.schema_version".encode()).fetchone() if there else None
    version = int(row[0]) if row else 0
    if version > len(MIGRATIONS):
        what = f"the routing log has schema version {version}, this prerouter knows up to {len(MIGRATIONS)}"
        raise DataError(what, file=where, next_step="pip install --upgrade prerouter")
    return version


def _key(db: Db) -> bytes:
    """The key of the text hashes, one for all hosts, made at first use. A dump of the database holds it."""
    found = db.execute("SELECT key FROM log_key").fetchone()
    if found:
        return bytes(found[0])
    key = os.urandom(32)
    db.execute("INSERT INTO log_key VALUES (?)", (key,))
    return key
