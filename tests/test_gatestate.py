"""Closed gates as a router obeys them: through the public door, with a real log and a fake Claude."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_claude import Answer, FakeClaude
from model_help import save
from monitor_help import Clock
from test_local import CERTIFICATE

from prerouter import PreRouter, gatestate
from prerouter.errors import UpstreamError
from prerouter.gatestate import ClosedGates
from prerouter.routelog import RouteLog
from prerouter.settings import Settings, load_settings
from prerouter.text import render

SURE, OTHER, UNSURE = "please do the easy easy task", "please do the hard task", "please do the medium task"
HOW = {"label": "simple", "kind": "under_routing", "overall": False, "limit": 0.02, "at": "2026-11-21T00:00:00Z"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model", sees="easy hard")
    return tmp_path / "model"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RouteLog]:
    with RouteLog.open(tmp_path / "routes.db", settings=Settings()) as log:
        yield log


def load(claude: FakeClaude, folder: Path, log: RouteLog, **tables: Any) -> PreRouter:
    given = {"audit": {"ask": False}, **tables}
    return PreRouter.load(folder, client=claude.client(), settings=load_settings(flags=given), log=log)


def close(log: RouteLog, router: PreRouter, label: str = "simple") -> None:
    log.set_state(gatestate.key(router.local.model_folder_id, label), HOW)


def test_requests_of_a_closed_label_fall_through_and_the_others_do_not(
    claude: FakeClaude, folder: Path, log: RouteLog
) -> None:
    claude.always(Answer({"label": "moderate", "confidence": 0.9}))
    with load(claude, folder, log) as router:
        assert router.decide(SURE).decided_by == "local"
        close(log, router)
        router.lookout.wait()
        assert router.gates
        router.gates.look()
        decision = router.decide(SURE)
        assert (decision.decided_by, decision.label, decision.reason) == ("llm", "moderate", "classified")
        assert decision.probabilities["simple"] > 0.9
        assert router.decide(OTHER).decided_by == "local"
        local_only = router.decide(SURE, local_only=True)
        assert (local_only.decided_by, local_only.label, local_only.reason) == ("default", "moderate", "gate_closed")
        assert [d.reason for d in router.decide_many([SURE, OTHER])] == ["gate_closed", "above_gate"]


def test_a_router_sees_a_closing_within_its_look_and_at_its_first_request(
    claude: FakeClaude, folder: Path, log: RouteLog
) -> None:
    claude.always(Answer({"label": "moderate", "confidence": 0.9}))
    with load(claude, folder, log, router={"look_s": 0.01}) as router:
        close(log, router)
        for _ in range(1000):
            if router.decide(SURE).decided_by != "local":
                break
            router.lookout.wait()
        assert router.decide(SURE).decided_by in ("llm", "cache")
    with load(claude, folder, log) as later:
        assert later.decide(SURE).decided_by == "llm"


def test_another_model_folder_is_open(claude: FakeClaude, folder: Path, log: RouteLog, tmp_path: Path) -> None:
    with load(claude, folder, log) as router:
        close(log, router)
    save(tmp_path / "next", sees="easy")
    with load(claude, tmp_path / "next", log) as router:
        assert router.decide(SURE).decided_by == "local"


def test_only_so_many_a_minute_are_asked_about_the_rest_gets_the_default(
    claude: FakeClaude, folder: Path, log: RouteLog
) -> None:
    claude.always(Answer({"label": "simple", "confidence": 0.9}))
    with load(claude, folder, log, monitor={"closed_rpm": 1}) as router:
        close(log, router)
        assert router.gates
        router.gates.look()
        first, *rest = [router.decide(f"{SURE} {'now ' * i}") for i in range(8)]
        assert first.decided_by == "llm"
        assert {(d.decided_by, d.label, d.reason) for d in rest} == {("default", "moderate", "gate_closed")}
        assert router.decide(UNSURE).decided_by == "llm"  # what falls through anyway is not bounded


def test_the_bucket_fills_again(folder: Path, log: RouteLog) -> None:
    clock = Clock()
    router = PreRouter.load(folder, log=log)
    close(log, router)
    gates = ClosedGates(log, 60, clock=clock)
    gates.look()
    folder_id, scores = router.local.model_folder_id, router.local.score(render(SURE))
    held = gates.held(folder_id, scores)
    assert (held.reason, held.risk, held.label) == ("gate_closed", scores.risk, "simple")
    assert [gates.may_ask(folder_id, held) for _ in range(7)] == [True] * 6 + [False]
    clock.now += 2
    assert [gates.may_ask(folder_id, held) for _ in range(3)] == [True, True, False]
    assert gates.may_ask(folder_id, scores)
    assert gates.may_ask(folder_id, None)


class Unreachable:
    """A log whose server is gone."""

    def states(self, prefix: str = "") -> Any:
        raise UpstreamError("gone")


def test_what_was_known_stays_in_force_while_the_log_cannot_be_read(log: RouteLog) -> None:
    log.set_state(gatestate.key("0123456789ab", "simple"), HOW)
    gates = ClosedGates(log, 60)
    gates.look()
    gates._log = Unreachable()  # type: ignore[assignment]
    with pytest.raises(UpstreamError):
        gates.look()
    assert gates.closes("0123456789ab", "simple")
    assert not gates.closes("0123456789ab", "moderate")
    ClosedGates(Unreachable(), 60).begin()  # type: ignore[arg-type]


def test_labels_may_have_any_name(log: RouteLog) -> None:
    for label in ("a:b", "", "ü %_", "gate:"):
        log.set_state(gatestate.key("0123456789ab", label), HOW)
    gates = ClosedGates(log, 60)
    gates.look()
    assert all(gates.closes("0123456789ab", label) for label in ("a:b", "", "ü %_", "gate:"))
    assert set(gatestate.closed(log, "0123456789ab")) == {"a:b", "", "ü %_", "gate:"}


def test_a_router_without_a_log_has_no_gates(folder: Path) -> None:
    with PreRouter.load(folder) as router:
        assert router.gates is None
        assert router.decide(SURE).decided_by == "local"


def test_loading_a_router_makes_no_log(folder: Path, tmp_path: Path) -> None:
    log = RouteLog.open(tmp_path / "never.db", settings=Settings())
    PreRouter.load(folder, log=log).close()
    assert not (tmp_path / "never.db").exists()


def test_a_live_breach_closes_the_gate_of_every_process(claude: FakeClaude, folder: Path, tmp_path: Path) -> None:
    """From requests alone: the labeller says that what local calls simple is complex, in one process, and another
    process, at its first request, does not decide it any more."""
    (tmp_path / "space").mkdir()
    settings = load_settings(
        tmp_path / "space", flags={"audit": {"rate": 1.0, "rpm": 100_000}, "router": {"look_s": 0.05}}
    )
    claude.always(Answer({"label": "complex", "confidence": 0.9}))
    with RouteLog.open(settings=settings) as log:
        router = PreRouter.load(folder, client=claude.client(), settings=settings, log=log)
        whose = (settings.classifier.model, router.classifier.prompt.id)
    save(tmp_path / "own", sees="easy hard", certificate=replace(CERTIFICATE, labelled_by=whose[0], prompt_id=whose[1]))
    with RouteLog.open(settings=settings) as log:
        with PreRouter.load(tmp_path / "own", client=claude.client(), settings=settings, log=log) as router:
            for i in range(400):
                if router.decide(f"please do the easy easy task {'now ' * (i % 7)}").decided_by != "local":
                    break
                router.lookout.wait()
            assert list(gatestate.closed(log, router.local.model_folder_id)) == ["simple"]
        path = log.path
    script = f"""
import json, sys
from prerouter import PreRouter, RouteLog
with RouteLog.open({str(path)!r}) as log, PreRouter.load({str(tmp_path / "own")!r}, log=log) as router:
    print(json.dumps([router.decide({SURE!r}).reason, router.decide({OTHER!r}).reason]))
"""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("ANTHROPIC")}
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, env=environ, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["no_key", "above_gate"]
