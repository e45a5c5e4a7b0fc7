"""Asking MLflow: a time limit that holds, one error that says what to do, no secret in it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_help import save, workspace

from prerouter import tracker
from prerouter.errors import ConfigError, MissingExtraError, UpstreamError
from prerouter.router import PreRouter
from prerouter.track import log_training


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def dead() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_is_down_is_an_upstream_error_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:s3cret-word@{dead()}")
    with pytest.raises(UpstreamError) as refusal:
        tracker.ask("set_aliases", workspace(tmp_path / "ws"), name="prerouter", aliases={"champion": "0123456789ab"})
    assert refusal.value.exit_code == 3
    assert "s3cret-word" not in str(refusal.value)
    assert "MLFLOW_TRACKING_URI" in refusal.value.next_step


def test_a_server_that_never_answers_is_left_at_the_time_limit(
    tmp_path: Path, deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", deaf)
    settings = workspace(tmp_path / "ws", "[track]\ntimeout_s = 3.0\n")
    started = time.monotonic()
    with pytest.raises(UpstreamError, match="did not answer within 3 s"):
        tracker.ask("set_aliases", settings, name="prerouter", aliases={"champion": "0123456789ab"})
    assert time.monotonic() - started < 30


def test_a_training_whose_tracker_is_down_is_complete_and_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{dead()}")
    save(tmp_path / "model")
    assert log_training(tmp_path / "model", workspace(tmp_path / "ws")) is None
    lines = [line for line in capsys.readouterr().err.splitlines() if "waiting for MLflow" not in line]
    assert len(lines) == 1
    assert lines[0].endswith(f"later: prerouter track {tmp_path / 'model'}")


def test_without_mlflow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"prerouter\[track\]"):
        tracker.ask("set_aliases", workspace(tmp_path / "ws"), name="prerouter", aliases={})


def test_a_process_that_breaks_is_an_upstream_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text(
        "import os, sys\nprint('out of luck', file=sys.stderr, flush=True)\nos._exit(7)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UpstreamError, match="ended with 7: out of luck"):
        tracker.ask("set_aliases", workspace(tmp_path / "ws"), name="prerouter", aliases={})


def test_a_module_of_that_name_in_the_current_folder_is_not_what_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prerouter.py").write_text("raise SystemExit('wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{dead()}")
    with pytest.raises(UpstreamError, match="MLflow refused"):
        tracker.ask("set_aliases", workspace(tmp_path / "ws"), name="prerouter", aliases={"champion": "0123456789ab"})


def test_credentials_are_taken_out_of_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-12345678")
    monkeypatch.setenv("SHORT_KEY", "a")
    said = tracker.without_secrets("GET https://me:pw@host/x\nwith tok-12345678 failed")
    assert said == "GET https://***@host/x with *** failed"


def test_the_store_is_a_file_of_the_workspace_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = workspace(tmp_path / "ws")
    assert tracker.store(settings) == f"sqlite:///{tmp_path}/ws/.prerouter/mlflow.db"
    assert not tracker.is_there(settings)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert tracker.store(settings) == "https://mlflow.example"
    assert tracker.is_there(settings)


@pytest.mark.parametrize("source", ["models:/", "models:/a/b/c", "models:/prerouter@", "models:/prerouter/latest"])
def test_only_names_with_alias_or_version_are_sources(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models:/NAME@ALIAS"):
        PreRouter.load(source, settings=workspace(tmp_path / "ws"))


def test_no_registry_is_made_by_looking_for_a_model(tmp_path: Path) -> None:
    settings = workspace(tmp_path / "ws")
    with pytest.raises(ConfigError, match="no registry"):
        PreRouter.load("models:/prerouter@champion", settings=settings)
    assert not settings.state_dir.exists()
