from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerouter.errors import ConfigError
from prerouter.settings import Settings, load_settings, mode


def _workspace(folder: Path, text: str = "", name: str = "prerouter.toml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder.resolve()


def _loaded(folder: Path, text: str, **environ: str) -> Settings:
    return load_settings(_workspace(folder, text), environ=environ)


def test_without_a_workspace_the_defaults_hold(tmp_path: Path) -> None:
    assert load_settings(environ={}) == Settings()


def test_the_nearest_parent_with_prerouter_toml_is_the_workspace(tmp_path: Path) -> None:
    outer = _workspace(tmp_path / "outer", "[router]\npriority = 'speed'")
    (outer / "a" / "b").mkdir(parents=True)
    os.chdir(outer / "a" / "b")
    settings = load_settings(environ={})
    assert (settings.workspace, settings.router.priority) == (outer, "speed")


def test_a_pyproject_with_a_prerouter_table_is_a_workspace(tmp_path: Path) -> None:
    folder = _workspace(tmp_path / "p", "[tool.prerouter.classifier]\nrpm = 50", "pyproject.toml")
    (folder / "src").mkdir()
    os.chdir(folder / "src")
    settings = load_settings(environ={})
    assert (settings.workspace, settings.classifier.rpm) == (folder, 50)


def test_another_projects_pyproject_is_not_a_workspace(tmp_path: Path) -> None:
    os.chdir(_workspace(tmp_path / "p", "[tool.ruff]\nline-length = 99", "pyproject.toml"))
    assert load_settings(environ={}).workspace is None


def test_a_broken_pyproject_of_somebody_else_is_passed_over(tmp_path: Path) -> None:
    os.chdir(_workspace(tmp_path / "p", "[tool.ruff\n# prerouter", "pyproject.toml"))
    assert load_settings(environ={}).workspace is None


@pytest.mark.parametrize("text", ["[tool.prerouter]\n[tool.ruff", "[tool.prerouter.log]\ntext = 1", "[tool.prerouter"])
def test_a_broken_pyproject_of_ours_is_an_error(tmp_path: Path, text: str) -> None:
    os.chdir(_workspace(tmp_path / "p", text + "]" * text.endswith("prerouter"), "pyproject.toml"))
    if text.endswith("prerouter"):
        assert load_settings(environ={}).workspace == tmp_path / "p"
        return
    with pytest.raises(ConfigError):
        load_settings(environ={})


@pytest.mark.parametrize("text", ["tool = 5", "[tool]\nprerouter = 5", "a = " + "9" * 5000, "a = " + "[" * 5000])
def test_odd_toml_is_a_config_error_or_no_setting(tmp_path: Path, text: str) -> None:
    folder = _workspace(tmp_path / "p", text, "pyproject.toml")
    with pytest.raises(ConfigError):
        load_settings(folder, environ={})


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    by_flag, by_variable = _workspace(tmp_path / "flag"), _workspace(tmp_path / "variable")
    assert load_settings(by_flag, environ={"PREROUTER_WORKSPACE": str(by_variable)}).workspace == by_flag
    assert load_settings(environ={"PREROUTER_WORKSPACE": str(by_variable)}).workspace == by_variable
    text = "[classifier]\ndeadline_s = 1.0\nrpm = 7"
    settings = _loaded(tmp_path / "w", text, PREROUTER_CLASSIFIER__DEADLINE_S="0.5")
    assert (settings.classifier.deadline_s, settings.classifier.rpm) == (0.5, 7)


def test_tables_given_in_code_stand_above_everything(tmp_path: Path) -> None:
    folder = _workspace(tmp_path / "w", "[classifier]\nrpm = 7\nattempts = 2")
    environ = {"PREROUTER_CLASSIFIER__RPM": "8"}
    settings = load_settings(folder, environ=environ, flags={"classifier": {"rpm": 9}, "router": {"priority": "speed"}})
    assert (settings.classifier.rpm, settings.classifier.attempts, settings.router.priority) == (9, 2, "speed")
    for wrong in ({"workspace": "x"}, {"classifier": {"rpn": 1}}, {"classifier": 3}, {"classifier": {"rpm": "9"}}):
        with pytest.raises(ConfigError, match="flags"):
            load_settings(folder, environ=environ, flags=wrong)


def test_state_lives_in_the_workspace_or_in_the_state_home(tmp_path: Path) -> None:
    folder = _workspace(tmp_path / "w")
    assert load_settings(folder, environ={}).state_dir == folder / ".prerouter"
    assert load_settings(environ={}).state_dir == tmp_path / "state" / "prerouter"


def test_rules_and_tags_are_read(tmp_path: Path) -> None:
    text = "[[rules]]\nname = 'vip'\ntags = { vip = true, team = 'x', seat = 3 }\nmin_tier = 'sonnet'"
    (rule,) = _loaded(tmp_path / "w", text).rules
    assert (rule.name, rule.tags, rule.min_tier) == ("vip", {"vip": "true", "team": "x", "seat": "3"}, "sonnet")


def _leaves(record: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        found += _leaves(value, (*path, f.name)) if dataclasses.is_dataclass(value) else [((*path, f.name), value)]
    return found


SAMPLES = {bool: "true", int: "7", float: "0.25", str: "speed", type(None): "some/place", tuple: "[]", dict: "{}"}
SPECIAL = {
    "fall_through": "async",
    "on_failure": "top_tier",
    "ask": "rationale, params",
    "rpm": "77",
    "concurrency": "7",
    "fallback": "quality",
    "audit.ask": "false",
    "keep_days": "14",
    "min_holdout": "77",
    "rows": "5000",
}
LEAVES = [leaf for leaf in _leaves(Settings()) if leaf[0] != ("workspace",)]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: ".".join(leaf[0]))
def test_every_setting_has_an_environment_variable(leaf: tuple[tuple[str, ...], Any]) -> None:
    path, default = leaf
    value = SPECIAL.get(".".join(path)) or SPECIAL.get(path[-1], SAMPLES[type(default)])
    settings: Any = load_settings(environ={"PREROUTER_" + "__".join(path).upper(): value})
    for key in path:
        settings = getattr(settings, key)
    assert settings != default or value in ("[]", "{}")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[classifer]\nrpm = 1", "did you mean 'classifier'?"),
        ("[classifier]\nrpn = 1", "did you mean 'rpm'?"),
        ("[classifier]\nrpm = 'many'", "classifier.rpm must be a whole number of zero or more, not 'many'"),
        ("[classifier]\nrpm = true", "classifier.rpm must be a whole number of zero or more, not True"),
        ("[classifier]\nfall_through = 'maybe'", "one of wait, async, off"),
        ("classifier = 3", "classifier must be a table, not 3"),
        ("[classifier]\ndeadline_s = nan", "classifier.deadline_s is nan"),
        ("[classifier]\ndeadline_s = 0", "choose a value from 0.001 to 3600"),
        ("[classifier]\nask = ['reason']", "params"),
        ("[classifier]\nask = 'params'", "classifier.ask must be a list"),
        ("[audit]\nrate = 0.0", "audit.rate is 0.0"),
        ("[[rules]]\ntags = {}", "rules[1].name is missing"),
        ("[router\n", "cannot read settings"),
    ],
)
def test_a_wrong_file_is_refused_with_what_where_and_next(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _loaded(tmp_path / "w", text)
    assert named in str(caught.value)
    assert caught.value.where
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("PREROUTER_CLASSIFIER__DEADLINE", "1", "deadline_s"),
        ("PREROUTER_CLASSIFIER", "1", "is a section .*such as PREROUTER_CLASSIFIER__ASK"),
        ("PREROUTER_CLASSIFIER__DEADLINE_S", "9" * 400, "must be a number"),
        ("PREROUTER_RULES", "[" * 50_000, "must be a list"),
        ("PREROUTER_PRIORITY", "cost", "PREROUTER_PRIORITY"),
        ("PREROUTER_CLASSIFIER__RPM", "fast", "'fast'"),
        ("PREROUTER_ROUTER__PRIORITY__X", "1", "priority"),
    ],
)
def test_a_wrong_variable_is_refused(name: str, value: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_settings(environ={name: value})


def test_a_missing_workspace_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="prerouter init"):
        load_settings(tmp_path / "nowhere", environ={})


def test_the_kill_switch_knows_three_words() -> None:
    assert [mode({}), mode({"PREROUTER_MODE": ""}), mode({"PREROUTER_MODE": "off"})] == ["on", "on", "off"]
    with pytest.raises(ConfigError, match="off, shadow or on"):
        mode({"PREROUTER_MODE": "of"})


@given(st.text(), st.text())
def test_no_variable_whatever_raises_anything_but_config_error(name: str, value: str) -> None:
    try:
        settings = load_settings(environ={"PREROUTER_" + name: value})
    except ConfigError:
        return
    assert settings.workspace is None
