"""Every test starts without the user's keys, settings, state or workspace."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import postgres_server
import pytest
from fake_claude import FakeClaude
from hypothesis import settings

# No time limit for an example: a busy machine is not a defect. The rest is as Hypothesis chose, in CI fixed seeds.
settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")
# A shell that starts the tests in the background has them ignore Ctrl-C, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _away_from_the_users_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PREROUTER_", "ANTHROPIC_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def claude() -> Iterator[FakeClaude]:
    """A strict stand-in for the Claude API on loopback."""
    with FakeClaude() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[postgres_server.Server]:
    """A PostgreSQL server for the whole run."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'prerouter[postgres]')")
    programs = postgres_server.programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    with postgres_server.running(programs) as server:
        yield server


@pytest.fixture
def postgres(postgres_process: postgres_server.Server) -> postgres_server.Server:
    """The server, running and without a log in it."""
    postgres_process.clean()
    return postgres_process


@pytest.fixture(params=["sqlite", "postgresql"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a log can be, in each kind of store."""
    if request.param == "sqlite":
        return str(tmp_path / "logs" / "routes.db")
    url: str = request.getfixturevalue("postgres").url()
    return url
