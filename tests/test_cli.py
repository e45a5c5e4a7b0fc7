"""The command line by its contract: exit codes, one error line, results on standard output only."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_claude import Answer, Error, FakeClaude

from prerouter.cli import main
from prerouter.files import shipped

SURE = "What is the capital of Mongolia?"
UNSURE = "次の文を英語に翻訳してください。「会議は来週の火曜日に延期されました。」"
ERROR_LINE = re.compile(r"prerouter: error: .+; .+\n")


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Result:
        code = main(arguments)
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def key(claude: FakeClaude, monkeypatch: pytest.MonkeyPatch) -> FakeClaude:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
    return claude


def _file(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def _process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "prerouter", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_route_prints_one_line_for_people(run: Any) -> None:
    result = run("route", SURE)
    assert (result.code, result.out.count("\n")) == (0, 1)
    assert result.out.startswith("simple -> claude-haiku-5-5  (local stage 0, above_gate, ")


def test_route_json_is_one_decision(run: Any) -> None:
    decision = run("route", SURE, "--json").json
    assert (decision["label"], decision["decided_by"], decision["adjusted_by"]) == ("simple", "local", [])


def test_route_takes_a_messages_body(run: Any) -> None:
    body = {"system": "Be brief.", "messages": [{"role": "user", "content": SURE}]}
    assert run("route", json.dumps(body), "--json").json["label"] == "simple"


def test_route_takes_json_that_is_no_body_as_text(run: Any) -> None:
    assert run("route", '{"a": 1}', "--json").code == 0
    assert run("route", '{"a": ', "--json").code == 0


def test_route_asks_claude_when_unsure(run: Any, key: FakeClaude) -> None:
    key.script(Answer({"label": "complex", "confidence": 0.75}))
    decision = run("route", UNSURE, "--json").json
    assert (decision["decided_by"], decision["model"], decision["confidence"]) == ("llm", "claude-opus-5-5", 0.75)
    assert decision["cost_usd"] > 0


def test_route_local_only_asks_nobody(run: Any, key: FakeClaude) -> None:
    assert run("route", UNSURE, "--local-only", "--json").json["decided_by"] == "default"
    assert key.requests == []


def test_route_never_exits_3(run: Any, key: FakeClaude) -> None:
    key.always(Error(401, "authentication_error"))
    result = run("route", UNSURE, "--json")
    assert (result.code, result.json["reason"]) == (0, "classifier_error")


def test_without_a_key_one_hint_names_the_next_step(run: Any) -> None:
    result = run("route", UNSURE, "--json")
    assert (result.code, result.json["reason"]) == (0, "no_key")
    assert result.err.count("\n") == 1
    assert "ANTHROPIC_API_KEY" in result.err
    assert run("route", SURE).err == ""


def test_explain_names_stage_threshold_and_words(run: Any) -> None:
    shown = run("route", SURE, "--explain").out
    assert "Mongolia" in shown
    explanation = run("route", SURE, "--explain", "--json").json["explanation"]
    assert explanation["risk"] <= explanation["threshold"]
    assert explanation["distance"] <= explanation["limit"]
    assert explanation["words"]


def test_bounds_and_rules(run: Any, tmp_path: Path) -> None:
    assert run("route", SURE, "--min-tier", "opus", "--json").json["adjusted_by"] == ["min_tier"]
    text = "[[rules]]\nname = 'cf'\ntags = { audience = 'customer' }\nmin_tier = 'sonnet'\n"
    (tmp_path / "ws").mkdir()
    _file(tmp_path / "ws" / "prerouter.toml", text)
    result = run("route", SURE, "--tag", "audience=customer", "--workspace", str(tmp_path / "ws"), "--json")
    assert result.json["adjusted_by"] == ["rule:cf"]
    os.environ.pop("PREROUTER_WORKSPACE")


def test_a_file_keeps_order_and_ids(run: Any, tmp_path: Path) -> None:
    lines = [json.dumps({"id": "a", "text": SURE, "label": "kept out"}), "", json.dumps({"text": UNSURE})]
    lines += [json.dumps({"id": 7, "messages": [{"role": "user", "content": SURE}]})]
    out = tmp_path / "out.jsonl"
    result = run("route", "--input", _file(tmp_path / "in.jsonl", *lines), "--output", str(out), "--local-only")
    assert (result.code, result.out) == (0, "")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["decided_by"]) for row in rows] == [("a", "local"), ("3", "default"), ("7", "local")]


def test_a_file_to_standard_output(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", json.dumps({"text": SURE}))
    assert run("route", "--input", source, "--output", "-").rows[0]["label"] == "simple"
    assert run("route", "--input", source).out.startswith("1: simple -> ")


def test_a_files_summary_as_json(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", *[json.dumps({"text": SURE})] * 3)
    result = run("route", "--input", source, "--output", str(tmp_path / "o"), "--json")
    assert result.json == {"rows": 3, "failed": 0, "by_decided_by": {"local": 3}, "cost_usd": 0}


BAD_LINES = ["{", "[1]", '{"txt": "x"}', '{"messages": []}', '{"text": 3}', "\udcff", '{"id": true, "text": "x"}']


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_broken_line_ends_the_run_with_its_number(run: Any, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(json.dumps({"text": SURE}).encode() + b"\n" + bad.encode("utf-8", "surrogateescape") + b"\n")
    result = run("route", "--input", str(path), "--output", "-", "--json")
    assert result.code == 2
    assert ERROR_LINE.fullmatch(result.err)
    assert "line 2" in result.err
    assert result.rows[-1]["error"]["type"] == "DataError"


@pytest.mark.parametrize("bad", BAD_LINES)
def test_skip_bad_reports_the_line_and_goes_on(run: Any, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(bad.encode("utf-8", "surrogateescape") + b"\n" + json.dumps({"text": SURE}).encode())
    result = run("route", "--input", str(path), "--output", "-", "--skip-bad")
    assert result.code == 1
    first, second = result.rows
    assert set(first) == {"id", "error"}
    assert first["id"] == "1"
    assert second["label"] == "simple"


@pytest.mark.parametrize(
    "arguments",
    [
        ("route",),
        ("route", "a", "--input", "b"),
        ("route", "a", "--output", "b"),
        ("route", "a", "--nope"),
        ("route", "a", "--priority", "cheap"),
        ("route", "a", "--min-tier", "gold"),
        ("route", "a", "--tag", "x"),
        ("route", "a", "--model", "nowhere"),
        ("route", "--input", "nowhere.jsonl"),
        ("route", "a", "--workspace", "nowhere"),
        ("nope",),
        (),
        ("log",),
        ("log", "tail", "-n", "0"),
        ("log", "prune"),
        ("log", "prune", "--older-than", "soon"),
        ("log", "export", "no/such/folder/x.jsonl"),
        ("log", "tail", "-n", "99999999999999999999"),
        ("log", "tail", "-n", "abc"),
        ("log", "path", "--workspace", "~no-such-user"),
        ("init", "~no-such-user/x"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2_with_one_line(run: Any, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    os.environ.pop("PREROUTER_WORKSPACE", None)
    assert result.code == 2
    assert result.out == ""
    assert ERROR_LINE.fullmatch(result.err)


def test_an_error_as_json(run: Any) -> None:
    result = run("route", "a", "--model", "nowhere", "--json")
    error = result.json["error"]
    assert set(error) == {"type", "message", "where", "next"}
    assert error["type"] == "ModelFolderError"


@pytest.mark.parametrize("damage", ["flip", "remove", "newer", "text_version", "not_json"])
def test_a_damaged_model_folder_exits_2(run: Any, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "m"
    shutil.copytree(shipped("models/default"), folder)
    model = json.loads((folder / "model.json").read_text())
    head = next(folder.rglob("head.safetensors"))
    if damage == "flip":
        head.write_bytes(head.read_bytes()[:-1] + bytes([head.read_bytes()[-1] ^ 1]))
    elif damage == "remove":
        head.unlink()
    else:
        model["schema_version" if damage == "newer" else "text_version"] = 99
        (folder / "model.json").write_text(json.dumps(model) if damage != "not_json" else "{")
    result = run("route", SURE, "--model", str(folder))
    assert result.code == 2
    assert ERROR_LINE.fullmatch(result.err)


@pytest.mark.parametrize("command", [(), ("route",), ("log",), ("log", "tail"), ("init",), ("doctor",), ("demo",)])
def test_help_has_a_description(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert "usage: prerouter" in shown
    assert len(command) != 1 or "examples:" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_the_log_has_what_was_routed(run: Any) -> None:
    assert run("log", "stats", "--json").json["rows"] == 0
    run("route", SURE, "--tag", "team=search")
    run("route", UNSURE, "--local-only")
    stats = run("log", "stats", "--json").json
    assert (stats["rows"], stats["by_decided_by"]) == (2, {"local": 1, "default": 1})
    assert [row["label"] for row in run("log", "tail", "--json").json["rows"]] == ["simple", "moderate"]
    assert "simple -> claude-haiku-5-5" in run("log", "tail").out
    rows = run("log", "export", "-").rows
    assert [row["tags"] for row in rows] == [{"team": "search"}, {}]
    assert SURE not in json.dumps(rows)
    assert run("log", "prune", "--tag", "team=search", "--json").json == {"rows": 1}
    assert run("log", "stats", "--json").json["rows"] == 1
    assert Path(run("log", "path").out.strip()).is_file()


def test_the_log_path_is_known_before_there_is_a_log(run: Any, tmp_path: Path) -> None:
    path = Path(run("log", "path", "--json").json["path"])
    assert path.parent == tmp_path / "state" / "prerouter"
    assert not path.exists()


def test_init_makes_a_workspace_that_works_and_keeps_what_is_there(run: Any, tmp_path: Path) -> None:
    made = run("init", str(tmp_path / "ws"), "--json").json
    assert Path(made["workspace"]) == tmp_path / "ws"
    assert "prerouter.toml" in made["made"]
    (tmp_path / "ws" / "prerouter.toml").write_text("[router]\npriority = 'speed'\n")
    assert "prerouter.toml" not in run("init", str(tmp_path / "ws"), "--json").json["made"]
    os.chdir(tmp_path / "ws")
    assert run("route", UNSURE, "--json").json["reason"] == "fall_through_off"
    assert (tmp_path / "ws" / ".prerouter").is_dir()


def test_doctor_without_a_key_is_content_and_says_so(run: Any) -> None:
    report = run("doctor", "--json")
    assert (report.code, report.json["ok"]) == (0, True)
    assert {"settings", "model", "prices", "log", "key"} <= {check["name"] for check in report.json["checks"]}
    assert "ANTHROPIC_API_KEY" in run("doctor").out


def test_doctor_compares_with_the_api(run: Any, key: FakeClaude) -> None:
    assert run("doctor", "--json").code == 0


def test_doctor_finds_a_retired_model(run: Any, key: FakeClaude, tmp_path: Path) -> None:
    (tmp_path / "cwd" / "prerouter.toml").write_text("[tiers.sonnet]\nmodels = ['claude-sonnet-4-5']\n")
    dated = "claude-sonnet-4-5-20250929"
    key.models[dated] = replace(key.models[dated], lifecycle="retired")
    result = run("doctor", "--json")
    assert result.code == 1
    problems = [check for check in result.json["checks"] if check["state"] == "problem"]
    assert any("claude-sonnet-4-5" in check["found"] for check in problems)


def test_doctor_reports_broken_settings_and_a_refusing_api(run: Any, key: FakeClaude, tmp_path: Path) -> None:
    key.always(Error(401, "authentication_error"), path="/v1/models")
    assert run("doctor", "--json").code == 1
    (tmp_path / "cwd" / "prerouter.toml").write_text("[nope]\n")
    result = run("doctor", "--json")
    assert (result.code, result.json["ok"]) == (1, False)


def test_the_demo_needs_no_key_and_leaves_nothing(run: Any, tmp_path: Path) -> None:
    report = run("demo", "--json")
    assert report.code == 0
    assert report.json["labelled"]["labelled"] == report.json["labelled"]["rows"] >= 200
    assert 0.5 < report.json["trained"]["accuracy"] < 1
    rows = report.json["decisions"]
    assert {"local", "llm"} <= {row["decided_by"] for row in rows}
    assert all(row["simulated"] == (row["decided_by"] == "llm") for row in rows)
    assert not (tmp_path / "state").exists()
    shown = run("demo").out
    assert "Trained a model on them" in shown
    assert shown.count("simulated") >= sum(row["simulated"] for row in rows)


def test_ctrl_c_exits_130_and_keeps_the_rows_so_far(tmp_path: Path, key: FakeClaude) -> None:
    rows = [json.dumps({"text": SURE})] * 512 + [json.dumps({"text": UNSURE + str(i)}) for i in range(40)]
    out = tmp_path / "out.jsonl"
    key.always(Answer({"label": "simple", "confidence": 0.9}, delay_s=2.0))
    process = _process("route", "--input", _file(tmp_path / "in.jsonl", *rows), "--output", str(out))
    deadline = time.monotonic() + 30
    part = tmp_path / "out.jsonl.part"
    while time.monotonic() < deadline and (not part.exists() or part.read_bytes().count(b"\n") < 512):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()][:512] == ["simple"] * 512


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", *[json.dumps({"text": SURE})] * 2000)
    command = f"{sys.executable} -m prerouter route --input {source} --output - | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_an_unwritable_output_exits_2(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", json.dumps({"text": SURE}))
    result = run("route", "--input", source, "--output", str(tmp_path))
    assert result.code == 2
    assert ERROR_LINE.fullmatch(result.err)


def test_a_full_disk_exits_2(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", *[json.dumps({"text": SURE})] * 50)
    result = run("route", "--input", source, "--output", "/dev/full", "--local-only")
    assert result.code == 2
    assert "No space left" in result.err


def test_the_input_is_never_overwritten(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", json.dumps({"text": SURE}))
    (tmp_path / "link").symlink_to(source)
    for output in (source, str(tmp_path / "link")):
        result = run("route", "--input", source, "--output", output, "--local-only")
        assert result.code == 2
        assert ERROR_LINE.fullmatch(result.err)
    assert json.loads(Path(source).read_text()) == {"text": SURE}


def test_the_log_is_never_overwritten_by_its_export(run: Any) -> None:
    run("route", SURE)
    path = run("log", "path").out.strip()
    assert run("log", "export", path).code == 2
    assert run("log", "stats", "--json").json["rows"] == 1


def test_a_failed_run_leaves_the_old_output(run: Any, tmp_path: Path) -> None:
    out = Path(_file(tmp_path / "out.jsonl", "old"))
    source = _file(tmp_path / "in.jsonl", json.dumps({"text": SURE}), "{")
    assert run("route", "--input", source, "--output", str(out)).code == 2
    assert out.read_text() == "old\n"


def test_half_a_surrogate_pair_in_an_id_comes_back_as_it_was(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", r'{"id": "\ud800", "text": "a"}', '{"id": "", "text": "a"}')
    out = tmp_path / "out.jsonl"
    assert run("route", "--input", source, "--output", str(out), "--local-only").code == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["\ud800", ""]


def test_null_messages_are_absent_ones(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", json.dumps({"text": SURE, "messages": None}))
    assert run("route", "--input", source, "--output", "-").rows[0]["label"] == "simple"


@pytest.mark.parametrize("data", [b"h\xff", b"\xef\xbb\xbf" + SURE.encode()])
def test_standard_input_is_utf_8_whatever_the_locale(data: bytes) -> None:
    command = [sys.executable, "-m", "prerouter", "route", "-", "--local-only", "--json"]
    for encoding in ("utf-8", "latin-1"):
        environ = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, input=data, capture_output=True, env=environ)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["label"] in ("simple", "moderate", "complex")


@pytest.mark.parametrize("command", ["route hi >&-", "route - --local-only <&-", "route hi --json >/dev/full"])
def test_closed_and_full_streams_cause_no_traceback(command: str) -> None:
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m prerouter {command}"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.returncode == (2 if "full" in command else 0)


def test_a_cut_messages_body_is_pointed_out(run: Any) -> None:
    result = run("route", '{"messages": [{"role": "user", "content": "hi"}]', "--local-only")
    assert result.code == 0
    assert "routed as text, for it is not JSON" in result.err


def test_a_file_of_unsure_requests_is_not_held_up_by_our_own_rate(
    run: Any, key: FakeClaude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREROUTER_CLASSIFIER__DEADLINE_S", "2")
    monkeypatch.setenv("PREROUTER_CLASSIFIER__RPM", "3000")
    source = _file(tmp_path / "in.jsonl", *(json.dumps({"text": f"{UNSURE} {i}"}) for i in range(400)))
    result = run("route", "--input", source, "--output", str(tmp_path / "out"), "--json")
    assert result.json["by_decided_by"] == {"llm": 400}


def test_failures_are_named_in_the_summary(run: Any, tmp_path: Path) -> None:
    source = _file(tmp_path / "in.jsonl", json.dumps({"text": UNSURE}))
    assert "default 1; 1 no_key" in run("route", "--input", source, "--output", str(tmp_path / "out")).err


def test_a_state_folder_that_cannot_be_written_costs_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not-a-folder").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "not-a-folder"))
    begin = time.monotonic()
    out, _ = _process("route", SURE, "--json").communicate(timeout=30)
    assert json.loads(out)["label"] == "simple"
    assert time.monotonic() - begin < 4  # it used to be 5 s more than a decision
