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
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.records import Priority
from prerouter.tables import convert, did_you_mean, hints, mapping, read_table, read_toml

Mode = Literal["off", "shadow", "on"]


@dataclass(frozen=True, slots=True)
class ClassifierSettings:
    """How an unsure request is asked about."""

    model: str = "claude-haiku-5-5"
    fall_through: Literal["wait", "async", "off"] = "wait"  # async: default label now, answer into the cache
    deadline_s: float = 3.0  # total seconds, retries and waiting included
    attempts: int = 3  # calls per request, at most
    max_in_flight: int = 256  # calls at a time; more than the burst, so that the rate is what limits
    rpm: int = 1000  # calls per minute; a burst of six seconds' worth is allowed
    cache_size: int = 10_000  # answers kept
    cache_ttl_s: float = 86_400.0
    breaker_failures: int = 5  # failures in a row that open the circuit breaker
    breaker_reset_s: float = 30.0  # seconds until one call may try again
    ask: tuple[str, ...] = ()  # any of "params", "fallback_label", "rationale"


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """What happens around the label."""

    priority: Priority = "cost"
    on_failure: Literal["default", "top_tier"] = "default"  # tier when neither local nor the classifier decided


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The random share of all requests whose label is checked off the request path."""

    rate: float = 0.05  # probability in (0, 1]


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    """How `Dispatch` sends a request once it is decided."""

    # Seconds from the call to the end of the answer, classification and retries included. What is not streamed is given
    # 600 by the SDK, unless `timeout` says otherwise; a stream of 128,000 tokens takes most of an hour.
    deadline_s: float = 3600.0
    attempt_s: float = 600.0  # seconds that one attempt may keep silent while another could follow
    retries: int = 2  # more tries per model, after what may pass: 429, 5xx, a broken connection, a cut answer
    fallback: Literal["availability", "quality", "off"] = "availability"  # then: tiers below, then above; above; none
    refusal_final: tuple[str, ...] = ("cyber", "bio")  # refusals of these categories are not tried on another model
    dead_model_s: float = 600.0  # seconds for which a model that answered 404 is left out
    summary: bool = False  # write the ledger's summary to the log when the client is closed


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Where and what the routing log keeps."""

    path: str | None = None  # default: routes.db in the state folder
    text: bool = False  # keep the rendered request text
    durable: bool = False  # survive power loss, not only a killed process
    queue: int = 10_000  # rows waiting for the writer before new ones are dropped and counted


@dataclass(frozen=True, slots=True)
class CostSettings:
    """What is assumed about requests when the cost of a policy is worked out from texts alone."""

    chars_per_token: float = 4.0  # English prose in the tokenizer of Claude 4.6; later ones count more, see tiers.toml
    answer_tokens: int = 400  # of an answer, the same whatever the model, thinking included
    other_tokens: int = 0  # system prompt, tools and history of a request, which a data row does not show


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """How trainings are logged to MLflow. Where: MLFLOW_TRACKING_URI, else mlflow.db in the state folder."""

    experiment: str = "prerouter"  # MLFLOW_EXPERIMENT_NAME stands above it
    model: str = "prerouter"  # registered under this name, loaded as models:/NAME@champion
    timeout_s: float = 300.0  # seconds for logging or downloading one model, MLflow's start included


@dataclass(frozen=True, slots=True)
class LabelSettings:
    """How `prerouter label` asks."""

    model: str | None = None  # the labeller; default: classifier.model
    rpm: int | None = None  # calls per minute; default: what the API's headers name
    concurrency: int | None = None  # calls at a time; default: what that rate needs
    attempts: int = 8  # calls per question in one run, at most
    poll_s: float = 30.0  # seconds between two looks at batches that are on their way
    batch_requests: int = 10_000  # per batch; the API takes 100,000, at ten times the memory here
    batch_mb: int = 100  # per batch; the API takes 256
    batch_queue: int = 100_000  # requests in batches at a time; the lowest limit of the API is 200,000
    target: float = 0.8  # share of rows that must agree with --against


@dataclass(frozen=True, slots=True)
class Rule:
    """Requests whose tags include all of `tags` get these limits."""

    name: str
    tags: Mapping[str, str]
    min_tier: str | None = None
    max_tier: str | None = None
    force_model: str | None = None
    priority: Priority | None = None
    # The rest is for Dispatch, see `dispatchconfig.DispatchConfig`.
    context_window: Literal["standard", "extended"] | None = None
    max_usd: Decimal | None = None
    deadline_s: float | None = None
    speculative: Literal["cheap", "generalist", "off"] | None = None
    per_step: bool | None = None
    shadow: bool | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What requests whose tags include all of `tags` may cost on one day (UTC), classifier included; for Dispatch."""

    name: str
    usd: Decimal  # US dollars a day
    tags: Mapping[str, str] = field(default_factory=dict)  # none: every request
    action: Literal["warn", "degrade", "refuse"] = "warn"  # when it is used up
    max_tier: str | None = None  # of degraded requests; default: the weakest tier
    warn_at: float = 0.8  # share of usd at which a first warning goes out, once a day
    webhook: str | None = None  # URL that is told of warnings by a POST of JSON


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
    log: LogSettings = field(default_factory=LogSettings)
    costs: CostSettings = field(default_factory=CostSettings)
    label: LabelSettings = field(default_factory=LabelSettings)
    track: TrackSettings = field(default_factory=TrackSettings)
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
    "log.queue": (1, 10_000_000),
    "track.timeout_s": (0.1, 86_400),
    "label.attempts": (1, 100),
    "label.poll_s": (0.01, 86_400),
    "label.batch_requests": (1, 100_000),
    "label.batch_mb": (1, 256),
    "label.batch_queue": (1, 500_000),
    "label.target": (0.0, 1.0),
    "costs.chars_per_token": (0.1, 100),
    "costs.answer_tokens": (1, 1_000_000),
    "costs.other_tokens": (0, 1_000_000),
}


def _checked(settings: Settings) -> Settings:
    for path, (low, high) in _RANGES.items():
        section, key = path.split(".")
        value = getattr(getattr(settings, section), key)
        if not low <= value <= high:  # NaN fails too
            step = f"choose a value from {low:g} to {high:g}"
            raise ConfigError(f"{path} is {value}", where="settings", next_step=step)
    unknown = set(settings.classifier.ask) - {"params", "fallback_label", "rationale"}
    if unknown:
        step = did_you_mean(unknown.pop(), ("params", "fallback_label", "rationale"))
        raise ConfigError("classifier.ask names an unknown field", where="settings", next_step=step)
    return settings
