"""Every test starts without the user's keys, settings, state or workspace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_claude import FakeClaude
from hypothesis import settings

# No time limit for an example: a busy machine is not a defect. The rest is as Hypothesis chose, in CI fixed seeds.
settings.register_profile("patient", parent=settings.default, deadline=None)
settings.load_profile("patient")


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
