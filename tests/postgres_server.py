"""A real PostgreSQL server on loopback, found on this machine, started in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "pw-sk-ant-not-a-real-one"


def programs() -> Path | None:
    """The folder of initdb and postgres, or None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    here = [Path(found).resolve().parent] if found else []
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return next((folder for folder in (*debian[::-1], *here) if (folder / "initdb").exists()), None)


class Server:
    """One that can be stopped, killed and started again. `url`: of a database named by `database`."""

    def __init__(self, folder: Path, bin: Path) -> None:
        self.folder, self._bin = folder, bin
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        # PostgreSQL refuses to run as root.
        self._user = {"user": "nobody" if _no_user("postgres") else "postgres"} if os.getuid() == 0 else {}
        if self._user:
            shutil.chown(folder, self._user["user"])
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        data = ["-D", "data", "-U", "tester", "--pwfile=password", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
        self._run("initdb", *data, "--no-sync")
        self.start()

    def url(self, database: str = "postgres", port: int = 0) -> str:
        return f"postgresql://tester:{PASSWORD}@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> None:
        options = [f"-p{self.port}", "-h127.0.0.1", "-cunix_socket_directories=", "-cfsync=off", "-cmax_connections=40"]
        command = [str(self._bin / "postgres"), "-D", "data", *options]
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self._user)  # type: ignore[call-overload]
        log.close()
        ready = ["-h127.0.0.1", f"-p{self.port}", "-q"]
        deadline = time.monotonic() + 60
        while subprocess.run([self._bin / "pg_isready", *ready], cwd=self.folder).returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text())
            time.sleep(0.05)

    def clean(self) -> None:
        """Without a log in it."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'tester'"
            connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
            connection.execute("DROP SCHEMA IF EXISTS prerouter CASCADE")

    def stop(self) -> None:
        """At once, as a crash: the clients' connections break."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")
        self._process.wait(30)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True, **self._user)  # type: ignore[call-overload]


@contextmanager
def running(bin: Path) -> Iterator[Server]:
    """A server for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = Server(Path(folder), bin)
        try:
            yield server
        finally:
            server.stop()


def _no_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return True
    return False
