"""Settings: flag > environment > file > default.

The workspace is the nearest parent folder with `prerouter.toml` (or `[tool.prerouter]` in pyproject.toml).
Every setting has an environment variable: PREROUTER_ + path in capitals, joined by two underscores, so
`deadline_s` under `[classifier]` is PREROUTER_CLASSIFIER__DEADLINE_S. Unknown keys are refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.sections import (
    AuditSettings,
    BatchSettings,
    Budget,
    ClassifierSettings,
    CostSettings,
    DispatchSettings,
    LabelSettings,
    LogSettings,
    MonitorSettings,
    RetrainSettings,
    RouterSettings,
    Rule,
    ShadowSettings,
    TrackSettings,
)
from prerouter.tables import convert, did_you_mean, hints, mapping, read_table, read_toml

Mode = Literal["off", "shadow", "on"]


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `workspace` is None outside of one; paths in a file are relative to it."""

    workspace: Path | None = None
    taxonomy: str | None = None  # file; default: the shipped labels/complexity.toml
    model: str | None = None  # model folder; default: models/champion, else the shipped one
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    router: RouterSettings = field(default_factory=RouterSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    shadow: ShadowSettings = field(default_factory=ShadowSettings)
    log: LogSettings = field(default_factory=LogSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    costs: CostSettings = field(default_factory=CostSettings)
    label: LabelSettings = field(default_factory=LabelSettings)
    track: TrackSettings = field(default_factory=TrackSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    rules: tuple[Rule, ...] = ()
    budgets: tuple[Budget, ...] = ()
    tiers: Mapping[str, Any] = field(default_factory=dict)  # overrides of tiers.toml, see `tiers.TierTable.load`

    @property
    def state_dir(self) -> Path:
        """Folder of log, journals, caches and gate state; not created here."""
        if self.workspace:
            return self.workspace / ".prerouter"
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return expanded(base) / "prerouter"

    def resolve(self, name: str) -> Path:
        """A path from the settings file, relative to the workspace."""
        return (self.workspace or Path()) / expanded(name)


def load_settings(
    workspace: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings of `workspace` (default: PREROUTER_WORKSPACE, else the nearest parent that is one, else none).

    flags: tables in the form of the file, such as {"classifier": {"rpm": 50}}; they stand above everything else.
    Raises ConfigError for a missing workspace, broken TOML, an unknown key or a value of the wrong type.
    """
    environ = os.environ if environ is None else environ
    folder = _find_workspace(workspace or environ.get("PREROUTER_WORKSPACE"))
    table, where = _read_file(folder) if folder else ({}, "")
    settings = read_table(Settings, table, where, given={"workspace": folder})
    for name, value in environ.items():
        # An empty variable is an unset one, as everywhere on the shell.
        if name.startswith(_PREFIX) and value and name not in ("PREROUTER_WORKSPACE", "PREROUTER_MODE"):
            settings = _with_variable(settings, name, value)
    return _checked(_with_table(settings, flags or {}, ""))


def mode(environ: Mapping[str, str] | None = None) -> Mode:
    """PREROUTER_MODE, read anew at every call so that it works as a kill switch; "on" when unset."""
    value = (os.environ if environ is None else environ).get("PREROUTER_MODE") or "on"
    if value not in ("off", "shadow", "on"):
        raise ConfigError(f"unknown mode {value!r}", where="PREROUTER_MODE", next_step="set it to off, shadow or on")
    return typing.cast(Mode, value)


def tag_pair(text: str) -> tuple[str, str]:
    """Key and value of a `K=V` from the command line. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"{text!r} is not K=V", where="--tag", next_step="such as --tag team=search")
    return key, value


_PREFIX = "PREROUTER_"


def _find_workspace(named: str | Path | None) -> Path | None:
    if named:
        folder = expanded(named).resolve()
        if not folder.is_dir():
            raise ConfigError("no such workspace", where=str(folder), next_step=f"prerouter init {named}")
        return folder
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if _is_workspace(folder)), None)


def _is_workspace(folder: Path) -> bool:
    if (folder / "prerouter.toml").is_file():
        return True
    project = folder / "pyproject.toml"
    try:
        text = project.read_text("utf-8", "replace")
    except OSError:
        return False
    # Searched as text, since parsing every parent's pyproject would make the start slow; and since one that names us
    # and is broken must be an error, not a workspace that was not found.
    return _OURS.search(text) is not None


_OURS = re.compile(r"^[ \t]*\[+[ \t]*tool[ \t]*\.[ \t]*prerouter[ \t]*[.\]]", re.MULTILINE)


def _tool_table(project: Path) -> Any:
    return mapping(read_toml(project).get("tool", {}), str(project), "tool").get("prerouter", {})


def _read_file(folder: Path) -> tuple[Any, str]:
    own = folder / "prerouter.toml"
    if own.is_file():
        return read_toml(own), str(own)
    project = folder / "pyproject.toml"
    return (_tool_table(project), str(project)) if project.is_file() else ({}, "")


def _with_variable(settings: Settings, name: str, value: str) -> Settings:
    keys = name[len(_PREFIX) :].lower().split("__")
    return typing.cast(Settings, _replaced(settings, keys, value, name))


def _replaced(record: Any, keys: list[str], value: str, name: str) -> Any:
    kinds = _kinds(record)
    key, *rest = keys
    if key in kinds and not rest and dataclasses.is_dataclass(kinds[key]):
        step = f"set one of its keys, such as {name}__{hints(kinds[key]).popitem()[0].upper()}"
        raise ConfigError(f"{name} is a section", where="environment", next_step=step)
    if key not in kinds or bool(rest) != dataclasses.is_dataclass(kinds[key]):
        raise ConfigError(f"unknown setting {name}", where="environment", next_step=did_you_mean(key, kinds))
    if rest:
        return dataclasses.replace(record, **{key: _replaced(getattr(record, key), rest, value, name)})
    return dataclasses.replace(record, **{key: convert(kinds[key], _parsed(kinds[key], value), name, key)})


def _with_table(record: Any, table: Any, path: str) -> Any:
    kinds, changed = _kinds(record), {}
    for key, value in mapping(table, "flags", path).items():
        place = f"{path}.{key}" if path else str(key)
        if key not in kinds:
            raise ConfigError(f"unknown key {place}", where="flags", next_step=did_you_mean(str(key), kinds))
        nested = dataclasses.is_dataclass(kinds[key])
        old = getattr(record, key)
        changed[key] = _with_table(old, value, place) if nested else convert(kinds[key], value, "flags", place)
    return dataclasses.replace(record, **changed)


def _kinds(record: Any) -> dict[str, Any]:
    return {key: kind for key, kind in hints(type(record)).items() if key != "workspace"}


def _parsed(hint: Any, value: str) -> Any:
    """The text of a variable as the TOML value it stands for; what cannot be parsed stays text and is refused later."""
    if hint in (str, str | None) or typing.get_origin(hint) is Literal:
        return value
    if typing.get_args(hint) == (str, ...):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


_RANGES: dict[str, tuple[float, float]] = {
    "classifier.deadline_s": (0.001, 3600),
    "classifier.attempts": (1, 10),
    "classifier.max_in_flight": (1, 10_000),
    "classifier.rpm": (1, 1_000_000),
    "classifier.cache_size": (0, 10_000_000),
    "classifier.cache_ttl_s": (0, 10**9),
    "classifier.breaker_failures": (1, 10**6),
    "classifier.breaker_reset_s": (0, 10**6),
    "audit.rate": (1e-6, 1.0),
    "dispatch.deadline_s": (0.001, 86_400),
    "dispatch.attempt_s": (0.001, 86_400),
    "dispatch.retries": (0, 10),
    "dispatch.dead_model_s": (0, 10**6),
    "audit.rpm": (1, 100_000),
    "audit.usd_per_hour": (1e-6, 1e6),
    "audit.queue": (1, 1_000_000),
    "router.look_s": (0.01, 86_400),
    "shadow.rate": (0.0, 1.0),
    "shadow.usd_per_day": (0.0, 1e6),
    "shadow.concurrency": (1, 100),
    "shadow.queue": (1, 100_000),
    "log.queue": (1, 10_000_000),
    "log.keep_days": (0.001, 100_000),
    "log.max_gb": (0.001, 1_000_000),
    "monitor.horizon_days": (1, 3650),
    "monitor.closed_rpm": (1, 1_000_000),
    "monitor.window_days": (1 / 24, 365),
    "monitor.max_fallback": (0.0, 1.0),
    "monitor.min_fallback": (0.0, 1.0),
    "monitor.webhook_timeout_s": (0.1, 300),
    "track.timeout_s": (0.1, 86_400),
    "retrain.days": (0.001, 36_500),
    "retrain.half_life_days": (0.01, 36_500),
    "retrain.certify_days": (0.001, 36_500),
    "retrain.holdout": (0.01, 0.9),
    "retrain.min_new": (1, 10**9),
    "retrain.min_holdout": (10, 10**9),
    "retrain.rows": (1_000, 10_000_000),
    "retrain.keep": (1, 1_000),
    "label.attempts": (1, 100),
    "label.poll_s": (0.01, 86_400),
    "label.batch_requests": (1, 100_000),
    "label.batch_mb": (1, 256),
    "label.batch_queue": (1, 500_000),
    "label.target": (0.0, 1.0),
    "batch.requests": (1, 100_000),
    "batch.megabytes": (1, 256),
    "batch.concurrency": (1, 1_000),
    "batch.patience_s": (0, 86_400),
    "batch.poll_s": (0.01, 86_400),
    "costs.chars_per_token": (0.1, 100),
    "costs.answer_tokens": (1, 1_000_000),
    "costs.other_tokens": (0, 1_000_000),
}


def _checked(settings: Settings) -> Settings:
    for path, (low, high) in _RANGES.items():
        section, key = path.split(".")
        value = getattr(getattr(settings, section), key)
        if value is not None and not low <= value <= high:  # NaN fails too
            step = f"choose a value from {low:g} to {high:g}"
            raise ConfigError(f"{path} is {value}", where="settings", next_step=step)
    unknown = set(settings.classifier.ask) - {"params", "fallback_label", "rationale"}
    if unknown:
        step = did_you_mean(unknown.pop(), ("params", "fallback_label", "rationale"))
        raise ConfigError("classifier.ask names an unknown field", where="settings", next_step=step)
    return settings
