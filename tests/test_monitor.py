"""`prerouter monitor`: state, figures, drift, topics, alarms, webhook, from logs of known traffic."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_help import save, workspace
from monitor_help import DAY, NOW, Traffic, pairs
from test_local import CERTIFICATE

from prerouter import webhook
from prerouter.certify import lower_bound, upper_bound
from prerouter.cli import main
from prerouter.local import LocalClassifier
from prerouter.modelfolder import FolderModel
from prerouter.monitor import Watched, monitor
from prerouter.sections import MonitorSettings
from prerouter.text import render
from prerouter.traffic import SAMPLE, _samples

KEY = "sk-ant-api03-abcdefghijklmnopqrstuvwx"


class Space:
    """A workspace with a champion and a log."""

    def __init__(self, folder: Path, **model: Any) -> None:
        self.settings = workspace(folder)
        self.model: FolderModel = save(folder / "models" / "champion", **model)
        self.local = LocalClassifier.load(folder / "models" / "champion")
        self.path = self.settings.state_dir / "routes.db"
        self._made: list[Traffic] = []

    def traffic(self, **options: Any) -> Traffic:
        """Writes into its log."""
        self._made.append(Traffic(self.path, self.local, **options))
        return self._made[-1]

    def found(self, now: float = NOW, **monitoring: Any) -> Watched:
        """What the monitor finds."""
        for traffic in self._made:
            traffic.log.flush()
        settings = replace(self.settings, monitor=MonitorSettings(**monitoring)) if monitoring else self.settings
        return monitor(settings=settings, clock=lambda: now)

    def close(self) -> None:
        """Close the logs."""
        for traffic in self._made:
            traffic.log.close()


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Space]:
    made = Space(tmp_path / "space")
    yield made
    made.close()


def test_without_a_log_nothing_is_known_and_nothing_made(space: Space) -> None:
    found = space.found()
    assert (found.state, found.audits, found.alarms) == ("unconfirmed", 0, ())
    assert found.to_json()["disagreement"] == {
        "estimate": None,
        "lower": None,
        "upper": None,
        "errors": 0,
        "limit": 0.05,
    }
    assert not space.path.exists()


def test_the_keys_of_the_contract_are_there(space: Space) -> None:
    space.traffic().audits(pairs(200, under=100))
    found = json.loads(json.dumps(space.found().to_json(), allow_nan=False))
    contract = "state audits disagreement under_routing evidence coverage fall_through_rate fallback_rate drift alarms"
    assert set(contract.split()) <= set(found)


def test_enough_good_audits_confirm(space: Space) -> None:
    traffic = space.traffic()
    traffic.audits(pairs(148, under=100))
    assert space.found().state == "unconfirmed"  # 149 without an error show a limit of 2 %
    traffic.audits(pairs(1))
    found = space.found()
    assert (found.state, found.audits) == ("confirmed", 149)
    assert (found.under_routing.errors, found.under_routing.estimate) == (1, 1 / 149)
    assert found.under_routing.lower == pytest.approx(lower_bound(1, 149, 0.975))
    assert found.under_routing.upper == pytest.approx(upper_bound(1, 149, 0.975))
    assert found.by_label["simple"]["audits"] == 149
    assert found.by_label["moderate"]["disagreement"]["estimate"] is None


def test_a_breach_is_broken_with_an_alarm_that_names_the_label(space: Space) -> None:
    space.traffic().audits(pairs(400, under=5))
    found = space.found()
    assert found.state == "broken"
    (alarm,) = [alarm for alarm in found.alarms if alarm.label]
    assert (alarm.what, alarm.label) == ("under_routing", "simple")
    assert "'simple'" in alarm.text
    assert "2.0%" in alarm.text
    assert list(found.closed) == ["simple"]
    assert not any(scope.startswith("simple") for scope in found.evidence)


def test_audits_of_others_are_counted_apart_and_never_break(space: Space) -> None:
    traffic = space.traffic()
    traffic.audits(pairs(300, under=2), whose=("claude-sonnet-5-5", "abc"))
    traffic.audits(pairs(30))
    for _ in range(40):
        traffic._append("simple", audit=True)
    found = space.found()
    assert (found.state, found.audits, found.audits_of_others, found.unlabelled) == ("unconfirmed", 30, 300, 40)
    assert found.under_routing.estimate == 0
    assert found.alarms == ()
    assert any("another labeller" in note for note in found.notes)


def test_an_invalid_certificate_has_no_bound_to_confirm(tmp_path: Path) -> None:
    space = Space(tmp_path / "space", valid=False)
    space.traffic().audits(pairs(400))
    found = space.found()
    assert found.state == "unconfirmed"
    assert "the certificate is not valid: there is no bound to check" in found.notes
    space.close()


def test_audits_from_before_the_horizon_do_not_count(space: Space) -> None:
    traffic = space.traffic(start=NOW - 90 * DAY, per_day=50)
    traffic.audits(pairs(400, under=100))
    found = space.found()
    assert (found.audits, found.state) == (0, "unconfirmed")


def test_shares_of_recent_requests(space: Space) -> None:
    traffic = space.traffic(start=NOW - 6 * DAY, per_day=1000)
    traffic.rows("simple", 60)
    traffic.rows("moderate", 25, by="llm")
    traffic.rows("moderate", 15, by="default")
    traffic.rows("complex", 50, by="pinned")
    traffic.rows("complex", 70, model_folder_id="000000000000")
    found = space.found().traffic
    assert (found.requests, found.others) == (150, 70)
    assert found.coverage == pytest.approx(0.6)
    assert found.fall_through_rate == pytest.approx(0.4)
    assert found.fallback_rate == pytest.approx(0.1)


@pytest.mark.parametrize(("n", "alarm", "note"), [(10, True, False), (5, False, False), (0, False, True)])
def test_the_fallback_rate_has_an_alarm_above_and_a_note_below(space: Space, n: int, alarm: bool, note: bool) -> None:
    traffic = space.traffic(start=NOW - 6 * DAY, per_day=1000)
    traffic.rows("simple", 100 - n)
    traffic.rows("moderate", n, by="default")
    found = space.found()
    assert [a.what for a in found.alarms] == (["fallback_rate"] if alarm else [])
    assert any("default label" in text for text in found.notes) == note
    assert space.found(max_fallback=0.5, min_fallback=0.0).alarms == ()


def test_labels_and_coverage_that_move_are_alarms(space: Space) -> None:
    traffic = space.traffic(start=NOW - 30 * DAY, per_day=40)
    traffic.rows("simple", 400)
    traffic.rows("moderate", 400, by="llm")
    traffic.clock.now = NOW - 6.5 * DAY
    traffic.rows("simple", 30)
    traffic.rows("complex", 170, by="llm")
    found = space.found()
    assert {alarm.what for alarm in found.alarms} == {"labels", "coverage"}
    assert found.traffic.labels
    assert found.traffic.labels.moved == pytest.approx(0.85, abs=0.06)
    assert found.traffic.decided
    assert found.traffic.decided.moved == pytest.approx(0.35, abs=0.06)


def test_traffic_that_stays_is_no_drift(space: Space) -> None:
    traffic = space.traffic(start=NOW - 34 * DAY, per_day=30)
    for _ in range(250):
        traffic.rows("simple", 2)
        traffic.rows("moderate", 2, by="llm")
    found = space.found()
    assert found.alarms == ()
    assert found.traffic.labels
    assert not found.traffic.labels.alarm


def embedded(space: Space, text: str, n: int) -> list[np.ndarray]:
    scores = space.local.score(render(text))
    assert scores.features is not None
    return [scores.features] * n


@pytest.mark.parametrize(("scope", "alarms"), [("ours", ["inputs"]), ("shipped data", [])])
def test_inputs_unlike_the_training_are_an_alarm_where_the_certificate_speaks_of_this_traffic(
    tmp_path: Path, scope: str, alarms: list[str]
) -> None:
    # Centroid 0 and 1 are the same point, so held-out rows are all at 0; none was beyond the limit.
    record = {"inputs": [200, 0, 0]}
    space = Space(tmp_path / "space", certificate=replace(CERTIFICATE, scope=scope), training=record)
    guard = space.local.model.stages[0].guard
    traffic = space.traffic(start=NOW - 5 * DAY, per_day=100)
    for _ in range(100):
        traffic.rows("simple", 2, features=embedded(space, "please do this task now", 2))
        traffic.rows("simple", 1, features=[-space.local.score(render("easy")).features])  # type: ignore[operator]
    found = space.found()
    assert guard.limit < 1.5
    assert [alarm.what for alarm in found.alarms] == alarms
    assert any("unlike those" in note for note in found.notes) == (not alarms)
    assert found.traffic.inputs
    assert found.traffic.inputs.moved == pytest.approx(1 / 3, abs=0.08)
    space.close()


def test_one_conversation_counts_once(space: Space) -> None:
    traffic = space.traffic(start=NOW - 5 * DAY, per_day=1000)
    far = [-embedded(space, "easy", 1)[0]] * 400
    traffic.rows("simple", 400, features=far, tags={"conversation_id": "one"})
    traffic.rows("simple", 120, features=embedded(space, "please do this task now", 120))
    found = space.found().traffic.inputs
    assert found is None or found.n == 121


def test_a_new_topic_shows_examples_where_texts_are_kept_redacted(tmp_path: Path) -> None:
    space = Space(tmp_path / "space")
    traffic = space.traffic(start=NOW - 20 * DAY, per_day=30, text=True)
    usual = ("please do this task now", "please do the medium task", "do now", "this task now please")
    for i in range(200):
        text = usual[i % 4]
        traffic.rows("moderate", by="llm", features=embedded(space, text, 1), text=text)
    traffic.clock.now = NOW - 6 * DAY
    for i in range(100):
        text = usual[i % 4]
        traffic.rows("moderate", by="llm", features=embedded(space, text, 1), text=text)
    new = f"hard hard hard {KEY}"
    traffic.rows("complex", 30, by="llm", features=embedded(space, "hard", 30), text=new, tags={"team": "legal"})
    found = space.found()
    (topic,) = found.traffic.topics
    assert (topic.rows, topic.labels, topic.tags) == (30, {"complex": 30}, {"team=legal": 30})
    assert topic.before == 0.0
    assert topic.examples[0].startswith("hard hard hard")
    assert KEY not in json.dumps(found.to_json())
    space.close()


def test_without_texts_a_topic_shows_ids_and_tags(space: Space) -> None:
    traffic = space.traffic(start=NOW - 10 * DAY, per_day=40)
    for _ in range(50):
        for text in ("please do this task now", "do now", "this task now please"):
            traffic.rows("moderate", by="llm", features=embedded(space, text, 1))
    traffic.rows("complex", 60, by="llm", features=embedded(space, "hard", 60), text=f"hard {KEY}")
    (topic,) = space.found().traffic.topics
    assert topic.examples == ()
    assert len(topic.ids) == 3


def test_a_large_log_is_sampled_evenly(space: Space) -> None:
    traffic = space.traffic(start=NOW - 6 * DAY, per_day=1500)
    features = embedded(space, "please do this task now", 6000)
    traffic.rows("simple", 3000, features=features)
    traffic.rows("moderate", 3000, features=features)
    traffic.log.flush(60)
    before, recent = _samples(traffic.log, space.local, NOW - 30 * DAY, NOW - 7 * DAY)
    assert before == []
    assert len(recent) <= SAMPLE * 1.05
    assert len(recent) == len({row.seq for row in recent})
    assert sum(row.decision.label == "simple" for row in recent) / len(recent) == pytest.approx(0.5, abs=0.03)


class Hook(ThreadingHTTPServer):
    """Keeps what it is sent; answers with `status` after `wait_s`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, Any]] = []
        self.status, self.drip, self.over = 200, False, threading.Event()

    @property
    def url(self) -> str:
        """With a secret in it."""
        return f"http://127.0.0.1:{self.server_port}/services/{KEY}"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(json.loads(body))
        if self.server.drip:
            for _ in range(600):
                if self.server.over.wait(0.05):
                    return
                self.wfile.write(b"H")
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def run(space: Space, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    assert space.settings.workspace
    monkeypatch.chdir(space.settings.workspace)
    return main(["monitor", *flags])


def breach(space: Space) -> None:
    traffic = space.traffic(start=time.time() - 5 * DAY, per_day=100)
    traffic.audits(pairs(300, under=5))
    traffic.log.flush()


def test_the_command_exits_1_on_an_alarm_and_prints_one_object(
    space: Space, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(space, monkeypatch, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "unconfirmed"
    breach(space)
    assert run(space, monkeypatch, "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "broken"
    assert "prerouter: alarm: the gate of 'simple' is closed" in err
    assert run(space, monkeypatch) == 1
    out, err = capsys.readouterr()
    assert "broken, " in out
    assert "under-routing" in out


def test_new_alarms_are_posted_once_and_again_after_a_failure(
    space: Space, hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREROUTER_MONITOR__WEBHOOK", hook.url)
    breach(space)
    hook.status = 500
    assert run(space, monkeypatch) == 1
    out, err = capsys.readouterr()
    assert "the webhook was not told: HTTP status 500" in err
    assert KEY not in out + err
    hook.status = 204
    assert [run(space, monkeypatch) for _ in range(3)] == [1, 1, 1]
    assert len(hook.got) == 2
    assert hook.got[1]["state"] == "broken"
    assert [alarm["label"] for alarm in hook.got[1]["alarms"]] == ["simple"]
    assert hook.got[1]["text"].startswith("prerouter monitor: the gate of 'simple'")


def test_a_slow_webhook_is_left_in_time(hook: Hook) -> None:
    hook.drip = True
    started = time.monotonic()
    assert webhook.post(hook.url, {}, 0.5) == "no answer within 0.5 seconds"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/x", "nonsense", "http://", f"http://127.0.0.1:1/{KEY}", "http://[x"],
)
def test_a_webhook_that_cannot_be_is_told_without_its_url(url: str) -> None:
    failed = webhook.post(url, {"a": 1}, 2.0)
    assert failed
    assert KEY not in failed
    assert "example" not in failed


def test_a_damaged_log_is_one_error(
    space: Space, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space.path.parent.mkdir(parents=True)
    space.path.write_bytes(b"not a database" * 100)
    assert run(space, monkeypatch, "--json") == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "DataError"
