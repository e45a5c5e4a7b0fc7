"""Budgets: warn, degrade, refuse; per day and tag; shared by the processes of a workspace."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from accounts import TABLE, account, attempt

from prerouter.budgets import Budgets, BudgetVerdict
from prerouter.errors import BudgetExceeded, ConfigError
from prerouter.settings import Settings, load_settings

NOON = 20_000 * 86_400 + 43_200.0


def settings(**budget: Any) -> Settings:
    return load_settings(flags={"budgets": [{"name": "b", "usd": 1, **budget}]})


def spend(budgets: Budgets, usd: str, **tags: str) -> None:
    budgets.spent(account(attempts=(attempt("claude-haiku-5-5", usd=usd),), tags=tags))


def test_a_budget_that_refuses(caplog: pytest.LogCaptureFixture) -> None:
    budgets = Budgets(settings(action="refuse"), TABLE)
    for _ in range(10):
        assert budgets.before({}) == BudgetVerdict()
        spend(budgets, "0.1")
    with pytest.raises(BudgetExceeded, match=r"the budget 'b' of \$1 a day is used up \(\$1.000000 spent\)"):
        budgets.before({})
    (state,) = budgets.states()
    assert (str(state.spent_usd), state.refused, state.exhausted) == ("1.0", 1, True)
    assert json.loads(json.dumps(state.to_json()))["spent_usd"] == 1.0


def test_degraded_requests_stay_below_a_tier_and_the_strictest_budget_counts() -> None:
    tables = [
        {"name": "all", "usd": 1, "action": "degrade", "max_tier": "sonnet"},
        {"name": "team", "usd": "0.5", "action": "degrade", "tags": {"team": "x"}},
    ]
    budgets = Budgets(load_settings(flags={"budgets": tables}), TABLE)
    spend(budgets, "0.6", team="x")
    assert budgets.before({"team": "x", "more": "1"}) == BudgetVerdict("haiku", "team")
    assert budgets.before({"team": "y"}) == budgets.before({}) == BudgetVerdict()
    spend(budgets, "0.6", team="y")
    assert budgets.before({}) == BudgetVerdict("sonnet", "all")
    assert budgets.before({"team": "x"}) == BudgetVerdict("haiku", "team")


def test_a_new_day_begins_with_nothing_spent() -> None:
    now = [NOON]
    budgets = Budgets(settings(action="refuse"), TABLE, clock=lambda: now[0])
    spend(budgets, "2")
    with pytest.raises(BudgetExceeded):
        budgets.before({})
    now[0] += 43_199
    with pytest.raises(BudgetExceeded):
        budgets.before({})
    now[0] += 1
    assert budgets.before({}) == BudgetVerdict()
    assert budgets.states()[0].spent_usd == 0


@pytest.mark.parametrize(
    ("budget", "what"),
    [
        ({"usd": 0}, "usd must be"),
        ({"usd": "NaN"}, "usd must be"),
        ({"usd": -1}, "usd must be"),
        ({"warn_at": 0}, "warn_at is 0"),
        ({"max_tier": "huge"}, "unknown tier 'huge'"),
        ({"webhook": "file:///etc/passwd"}, "webhook is no http"),
        ({"action": "explode"}, "action"),
        ({"per": "week"}, "unknown key"),
    ],
)
def test_what_no_budget_may_say(budget: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Budgets(settings(**budget), TABLE)


def test_two_budgets_of_one_name() -> None:
    with pytest.raises(ConfigError, match="same name"):
        Budgets(load_settings(flags={"budgets": [{"name": "b", "usd": 1}, {"name": "b", "usd": 2}]}), TABLE)


class Hook:
    """A webhook's other side; `answer` decides the status."""

    def __init__(self) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.status = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.events.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/SECRET-KEY"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


def test_warnings_go_to_log_and_webhook_once_each(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    budgets = Budgets(settings(webhook=hook.url, action="degrade", tags={"team": "x"}), TABLE)
    budgets.before({"team": "x"})
    for usd in ("0.79", "0.02", "0.02", "0.2", "0.2"):
        spend(budgets, usd, team="x")
        budgets.close()
    first, second = hook.events.get(timeout=5), hook.events.get(timeout=5)
    assert {first["event"], second["event"]} == {"nearly", "used up"}
    assert (first["budget"], first["tags"], first["usd"]) == ("b", {"team": "x"}, 1.0)
    assert hook.events.empty()
    said = [record.getMessage() for record in caplog.records if record.name == "prerouter.budgets"]
    assert [line for line in said if "used up" in line] == [
        "budget b: used up, $1.030000 of $1; requests go to a weaker tier"
    ]
    assert len(said) == 2


def test_a_jump_over_both_marks_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    budgets = Budgets(settings(), TABLE)
    budgets.before({})
    spend(budgets, "5")
    budgets.close()
    assert [record.args and record.args[1] for record in caplog.records] == ["used up"]  # type: ignore[index]


def test_a_webhook_that_fails_harms_nobody_and_its_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    told: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(told)
    logging.getLogger("prerouter.budgets").addHandler(handler)
    budgets = Budgets(settings(webhook="http://127.0.0.1:9/services/SECRET-KEY"), TABLE)
    budgets.before({})
    spend(budgets, "2")
    budgets.close()
    said = [told.get(timeout=10).getMessage() for _ in range(2)]
    logging.getLogger("prerouter.budgets").removeHandler(handler)
    assert said[1].startswith("budget b: the webhook was not told: cannot be reached")
    assert "SECRET-KEY" not in caplog.text


OTHER = """
import sys
from accounts import TABLE
from test_budgets import settings, spend
from prerouter.budgets import Budgets
budgets = Budgets(settings(action="refuse"), TABLE)
budgets.before({})
spend(budgets, "0.7")
budgets.close()
"""


def run(code: str) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)


def test_another_process_and_a_restart_count(tmp_path: Path) -> None:
    run(OTHER)
    budgets = Budgets(settings(action="refuse"), TABLE)
    budgets.before({})
    assert budgets.states()[0].spent_usd == Decimal("0.7")
    spend(budgets, "0.2")
    run(OTHER)
    with pytest.raises(BudgetExceeded):
        until(lambda: budgets.before({}))
    assert budgets.states()[0].spent_usd == Decimal("1.6")


def until(work: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Call `work` until it raises."""
    waited = threading.Event()
    for _ in range(int(timeout_s / 0.05)):
        work()
        waited.wait(0.05)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_count_its_parents_money_twice() -> None:
    budgets = Budgets(settings(action="refuse"), TABLE)
    budgets.before({})
    spend(budgets, "0.6")
    budgets.close()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            budgets.before({})
            spend(budgets, "0.1")
            os.write(write, str(budgets.states()[0].spent_usd).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        assert said.read() == "0.7"
    os.waitpid(child, 0)


def test_a_state_folder_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    budgets = Budgets(settings(action="refuse"), TABLE)
    for _ in range(3):
        budgets.before({})
        spend(budgets, "0.4")
        budgets.close()
    with pytest.raises(BudgetExceeded):
        budgets.before({})
    assert [r.name for r in caplog.records if r.levelno == logging.WARNING].count("prerouter.budgets") <= 3
    assert len([r for r in caplog.records if "cannot be shared" in r.getMessage()]) == 1


def test_broken_files_of_others_count_as_nothing(tmp_path: Path) -> None:
    budgets = Budgets(settings(), TABLE)
    budgets.before({})
    spend(budgets, "0.1")
    budgets.close()
    (mine,) = (tmp_path / "state" / "prerouter" / "budgets").glob("*/*.json")
    for i, text in enumerate(["", "[]", '{"b": "NaN"}', '{"b": -5}', '{"b": {}}', "\x00", '{"b": "0.25"}']):
        mine.with_name(f"{i}.json").write_text(text)
    budgets.close()
    assert budgets.states()[0].spent_usd == Decimal("0.35")


def test_without_budgets_nothing_is_started_or_written(tmp_path: Path) -> None:
    before = threading.active_count()
    budgets = Budgets(load_settings(), TABLE)
    budgets.before({"x": "y"})
    spend(budgets, "1")
    budgets.close()
    assert threading.active_count() == before
    assert not (tmp_path / "state").exists()
    assert budgets.states() == ()


def test_the_thread_ends_with_its_budgets() -> None:
    before = set(threading.enumerate())
    budgets = Budgets(settings(), TABLE)
    budgets.before({})
    (thread,) = set(threading.enumerate()) - before
    del budgets
    thread.join(10)
    assert not thread.is_alive()
