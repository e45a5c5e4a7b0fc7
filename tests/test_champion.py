"""A running router takes up the champion within a look, fails no request meanwhile, and refuses what is broken."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from model_help import save, workspace

from prerouter import PreRouter, links, registry
from prerouter.champion import Watch
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.promote import promote, rollback
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy

EASY, HARD = "please do the easy easy task", "please do the hard hard task"
QUICK = "[router]\nlook_s = 0.05\n"


@pytest.fixture
def space(tmp_path: Path) -> Settings:
    """A workspace with two models, of which `small` serves."""
    settings = workspace(tmp_path / "ws", QUICK)
    for name, sees in (("small", "easy"), ("good", "easy hard")):
        save(tmp_path / "ws" / "models" / name, sees=sees)
    links.point(tmp_path / "ws" / "models", "champion", tmp_path / "ws" / "models" / "small")
    return settings


@pytest.fixture
def models(space: Settings) -> Path:
    assert space.workspace
    return space.workspace / "models"


def id_of(folder: Path) -> str:
    return LocalClassifier.load(folder).model_folder_id


def taken(router: PreRouter, wanted: str, seconds: float = 20.0) -> bool:
    """Whether the router serves the model `wanted` soon; requests go on meanwhile."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if router.decide(HARD, local_only=True).model_folder_id == wanted:
            return True
        time.sleep(0.01)
    return False


def test_a_promoted_model_is_taken_up_and_a_rollback_too(space: Settings, models: Path) -> None:
    with PreRouter.load(settings=space) as router:
        before = router.decide(HARD, local_only=True)
        assert (before.decided_by, before.model_folder_id) == ("default", id_of(models / "small"))
        promote(models / "good", force=True, settings=space)
        assert taken(router, id_of(models / "good"))
        after = router.decide(HARD, local_only=True)
        assert (after.decided_by, after.label) == ("local", "complex")
        rollback(settings=space)
        assert taken(router, id_of(models / "small"))


def test_the_first_champion_of_a_workspace_takes_over_from_the_shipped_model(space: Settings, models: Path) -> None:
    (models / "champion").unlink()
    with PreRouter.load(settings=space) as router:
        assert router.decide(EASY, local_only=True).model_folder_id == id_of(shipped("models/default"))
        save(models / "own", sees="easy", taxonomy=router.taxonomy)
        promote(models / "own", force=True, settings=space)
        assert taken(router, id_of(models / "own"))


def test_switching_under_load_fails_no_request(space: Settings, models: Path) -> None:
    """Eight threads decide while the champion is switched twenty times."""
    ids = {id_of(models / name) for name in ("small", "good")}
    stop, served = threading.Event(), list[tuple[str, str, str]]()
    with PreRouter.load(settings=space) as router:

        def work(text: str) -> None:
            while not stop.is_set():
                made = router.decide(text, local_only=True)
                served.append((text, made.model_folder_id, made.decided_by))

        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(work, text) for text in (EASY, HARD) * 4]
            for i in range(20):
                links.point(models, "champion", models / ("good", "small")[i % 2])
                time.sleep(0.06)
            stop.set()
            for each in running:
                each.result()
    assert {made[1] for made in served} == ids
    good = id_of(models / "good")
    # Each decision is the one that the model named in it makes: no request saw half of two.
    assert all((by == "local") == (text == EASY or model == good) for text, model, by in served)


def broken(models: Path, how: str) -> Path:
    folder = shutil.copytree(models / "good", models / "broken")
    if how == "words":
        (folder / "stages" / "0" / "words.txt").write_text("damaged")
    if how == "json":
        (folder / "model.json").write_bytes((folder / "model.json").read_bytes()[:100])
    if how == "encoder":
        shutil.rmtree(folder / "stages" / "0" / "encoder")
    return folder


@pytest.mark.parametrize("how", ["words", "json", "encoder"])
def test_a_corrupt_champion_is_refused_and_the_old_one_goes_on(
    space: Settings, models: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with PreRouter.load(settings=space) as router, caplog.at_level(logging.WARNING):
        links.point(models, "champion", broken(models, how))
        assert not taken(router, id_of(models / "good"), 0.5)
        refusals = [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]
        assert len(refusals) == 1  # once, though it was looked at several times
        assert f"model folder {id_of(models / 'small')} goes on serving" in refusals[0]
        links.point(models, "champion", models / "good")
        assert taken(router, id_of(models / "good"))


def test_a_champion_that_is_gone_for_a_moment_changes_nothing(space: Settings, models: Path) -> None:
    with PreRouter.load(settings=space) as router:
        links.point(models, "champion", models / "good")
        (models / "good").rename(models / "away")
        assert not taken(router, "none", 0.3)
        (models / "away").rename(models / "good")
        assert taken(router, id_of(models / "good"))


def test_a_copy_under_way_is_looked_at_again(space: Settings, models: Path) -> None:
    """model.json came first and does not change any more, while the other files still arrive."""
    now = [0.0]
    watch = Watch(None, space, clock=lambda: now[0])
    serving = LocalClassifier.load(models / "small")
    folder = broken(models, "words")
    links.point(models, "champion", folder)
    assert watch.changed(serving, serving.taxonomy) is None
    shutil.copyfile(models / "good" / "stages" / "0" / "words.txt", folder / "stages" / "0" / "words.txt")
    now[0] = 5.0
    assert watch.changed(serving, serving.taxonomy) is None
    now[0] = 31.0
    found = watch.changed(serving, serving.taxonomy)
    assert found is not None
    assert found.model_folder_id == id_of(models / "good")
    assert watch.changed(found, found.taxonomy) is None


def test_a_folder_that_was_trained_anew_is_taken_up(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    save(folder, sees="easy")
    with PreRouter.load(folder, settings=Settings(router=workspace(tmp_path / "w", QUICK).router)) as router:
        save(folder, sees="easy hard")
        assert taken(router, id_of(folder))


def test_a_model_of_another_taxonomy_needs_a_restart(
    space: Settings, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(models / "intents", taxonomy=Taxonomy.inferred(["x", "y", "z"]))
    with PreRouter.load(settings=space) as router, caplog.at_level(logging.WARNING):
        links.point(models, "champion", models / "intents")
        assert not taken(router, id_of(models / "intents"), 0.5)
    assert "restart the service" in caplog.text


def test_the_shipped_model_is_not_watched() -> None:
    assert not Watch(None, Settings()).can_change


# --- a registry -------------------------------------------------------------------------------------------------------


class Registry:
    """What MLflow's REST API says about one alias, on loopback."""

    def __init__(self) -> None:
        self.version: str | None = "1"
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                found = outer.version is not None
                body = json.dumps({"model_version": {"version": outer.version}} if found else {"error_code": "NO"})
                self.send_response(200 if found else 404)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Registry]:
    made = Registry()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_alias_is_asked_for_at_the_server_without_mlflow(
    server: Registry, monkeypatch: pytest.MonkeyPatch, space: Settings
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://us%40er:pass@{server.place}/base/")
    assert registry.mark("models:/a&b@champion", space) == "1"
    server.version = "2"
    assert registry.mark("models:/a&b@champion", space) == "2"
    path, authorization = server.asked[0]
    assert path == "/base/api/2.0/mlflow/registered-models/alias?name=a%26b&alias=champion"
    assert authorization == "Basic dXNAZXI6cGFzcw=="
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-1")
    registry.mark("models:/x@champion", space)
    assert server.asked[-1][1] == "Bearer token-1"
    server.version = None
    assert registry.mark("models:/x@champion", space) is None
    assert registry.mark("models:/x/3", space) == "models:/x/3"


def test_a_registry_that_is_down_or_lies_changes_nothing(
    server: Registry, monkeypatch: pytest.MonkeyPatch, space: Settings
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{server.place}")
    server.version = None
    assert registry.mark("models:/x@champion", space) is None
    server.server.shutdown()
    server.server.server_close()
    assert registry.mark("models:/x@champion", space) is None


def test_a_store_in_a_file_is_known_by_its_time_and_size(
    monkeypatch: pytest.MonkeyPatch, space: Settings, tmp_path: Path
) -> None:
    assert registry.mark("models:/x@champion", space) is None  # no store yet
    store = tmp_path / "mlflow.db"
    store.write_bytes(b"1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    before = registry.mark("models:/x@champion", space)
    assert before is not None
    os.utime(store, (1, 1))
    assert registry.mark("models:/x@champion", space) != before


def test_any_other_store_is_asked_seldom(monkeypatch: pytest.MonkeyPatch, space: Settings) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    assert registry.mark("models:/x@champion", space) == str(int(time.time() // registry.SELDOM_S))
