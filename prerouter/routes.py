"""Routes: what the labels of a taxonomy folder mean for dispatch, beyond their tier.

DIR/taxonomy.toml        labels, as in any taxonomy, and the keys of `Handoff`
DIR/LABEL/route.toml     the keys of `Route`, and [params]
DIR/LABEL/system.md      the specialist's system prompt
DIR/LABEL/examples.jsonl {"user": ..., "assistant": ...} on each line
DIR/LABEL/tools.json     a list of tools, as in a Messages body
DIR/LABEL/taxonomy.toml  instead of these: the label's own categories, each with a folder of its own

Every file may be missing but taxonomy.toml.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from prerouter.errors import ConfigError, DataError
from prerouter.files import read_jsonl
from prerouter.tables import did_you_mean, mapping, read_table, read_toml

LowConfidence = Literal["generalist", "clarify", "stronger_classifier"]
Human = Literal["queue", "callback"]

THRESHOLD = 0.75  # of the classifier's own confidence: CLAUDE_API.md has no better figure, calibration corrects it
MAX_OPTIONAL = 24  # optional parameters that the API takes in one schema (CLAUDE_API.md, section 4)
FILES = ("route.toml", "system.md", "examples.jsonl", "tools.json", "taxonomy.toml")
KINDS = ("string", "integer", "number", "boolean")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


@dataclass(frozen=True, slots=True)
class Param:
    """A fact that the classifier takes out of the request for the specialist.

    kind: its JSON type. one_of: the values that it may have; (): any. required: asked for in any case, also where the
    local gate decided the route. about: what it is, for the classifier.
    """

    name: str
    kind: str = "string"
    one_of: tuple[str, ...] = ()
    required: bool = False
    about: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        """Its JSON schema, in the subset that structured outputs take."""
        schema: dict[str, Any] = {"type": self.kind} | ({"enum": list(self.one_of)} if self.one_of else {})
        return schema | ({"description": self.about} if self.about else {})

    def read(self, value: object) -> Any | None:
        """`value`, if it is of this type; the value of `one_of` that it is in any capitals; else None."""
        if self.one_of:
            return next((known for known in self.one_of if known.casefold() == str(value).casefold()), None)
        fits = isinstance(value, _TYPES[self.kind]) and (self.kind == "boolean" or not isinstance(value, bool))
        return value if fits else None


@dataclass(frozen=True, slots=True)
class Route:
    """One route: the keys of route.toml, then what stands in the other files.

    tier: where taxonomy.toml names none. max_tokens: of the answer, where the caller names none. threshold: confidence
    in (0, 1] below which the classifier's answer is not followed. fallback_route: label that takes the request when
    this specialist gives it back and the classifier named no second best. cache: lifetime of the static part in the
    prompt cache. escalate: how the specialist gives a request back: by a tool, by a line of JSON, or not at all.
    handoff: no model but a person gets the request.
    """

    label: str
    tier: str | None = None
    max_tokens: int | None = None
    threshold: float = THRESHOLD
    fallback_route: str | None = None
    on_low_confidence: LowConfidence | None = None
    cache: Literal["5m", "1h", "off"] = "5m"
    escalate: Literal["tool", "text", "off"] = "tool"
    handoff: Human | None = None
    params: tuple[Param, ...] = ()
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_specialist(self) -> bool:
        """Whether it has anything to say to the model."""
        return bool(self.system or self.examples or self.tools or self.params)

    @property
    def needs_params(self) -> bool:
        """Whether the classifier is asked for parameters even where local decided."""
        return any(param.required for param in self.params)

    @property
    def params_schema(self) -> dict[str, Any]:
        """JSON schema of its parameters; `route` tells the alternatives of several routes apart."""
        properties = {"route": {"type": "string", "enum": [self.label]}} | {p.name: p.schema for p in self.params}
        required = ["route", *(param.name for param in self.params if param.required)]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def read_params(self, value: object) -> dict[str, Any]:
        """The parameters in the classifier's answer: those that are of their type."""
        said = value if isinstance(value, Mapping) and value.get("route") == self.label else {}
        read = {param.name: param.read(said.get(param.name)) for param in self.params}
        return {name: found for name, found in read.items() if found is not None}


@dataclass(frozen=True, slots=True)
class Handoff:
    """How the requests of a taxonomy folder are handed to its routes: keys of taxonomy.toml beside the labels.

    on_low_confidence: what happens below a route's threshold. stronger_classifier: the model that is asked then;
    None: the first of the tier above the classifier's. plan: a request for several pieces of work goes through their
    routes in turn, at most plan_steps of them, and no further one is begun that could bring it above plan_usd.
    calibration: a labelled file that shows how often the classifier is right; see `calibration`.
    routes: one for each label.
    """

    folder: Path
    routes: Mapping[str, Route]
    on_low_confidence: LowConfidence = "generalist"
    stronger_classifier: str | None = None
    plan: bool = False
    plan_steps: int = 3
    plan_usd: Decimal | None = None
    calibration: str | None = None

    def low_confidence(self, label: str) -> LowConfidence:
        """What happens when the classifier is not sure of `label`."""
        return self.routes[label].on_low_confidence or self.on_low_confidence


NO_ROUTES: Mapping[str, Route] = MappingProxyType({})
_TAXONOMY_KEYS = ("name", "ordered", "labels", "default", "torn", "from_data")
HANDOFF_KEYS = tuple(name for name in Handoff.__slots__ if name not in ("folder", "routes"))


@dataclass(slots=True)
class Split:
    """A taxonomy.toml, its keys sorted by whom they are for."""

    labels: dict[str, Any]
    handoff: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Split:
        """From the file. Raises ConfigError."""
        table = read_toml(file, "the taxonomy")
        for key in table.keys() - {*HANDOFF_KEYS, *_TAXONOMY_KEYS}:
            step = did_you_mean(key, (*HANDOFF_KEYS, *_TAXONOMY_KEYS))
            raise ConfigError(f"unknown key {key}", where=str(file), next_step=step)
        own = {key: table.pop(key) for key in HANDOFF_KEYS if key in table}
        return cls({"ordered": False} | table, own)  # routes are seldom weaker or stronger than each other

    def names(self) -> list[str]:
        """The labels' names, as far as they are there."""
        labels = self.labels.get("labels")
        rows = labels if isinstance(labels, list) else []
        return [row["name"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("name"), str)]


def read_handoff(folder: Path, table: Mapping[str, Any], routes: Mapping[str, Route]) -> Handoff:
    """The Handoff of a folder. Raises ConfigError."""
    made = read_table(Handoff, table, str(folder / "taxonomy.toml"), given={"folder": folder, "routes": routes})
    if not 1 <= made.plan_steps <= 10:
        step = "choose from 1 to 10"
        raise ConfigError(f"plan_steps is {made.plan_steps}", where=str(folder / "taxonomy.toml"), next_step=step)
    optional = sum(not param.required for route in routes.values() for param in route.params)
    if optional > MAX_OPTIONAL:
        what = f"{optional} optional params in all routes are more than the API's {MAX_OPTIONAL}"
        raise ConfigError(what, where=f"{folder}, params", next_step="make some required, or drop them")
    return made


def check_folders(folder: Path, names: Sequence[str]) -> None:
    """Raise ConfigError for a label that cannot be a folder's name, and for a route's folder without a label."""
    for name in names:
        if "/" in name or "\\" in name or name.startswith("."):
            step = "rename it; categories go into the label's own taxonomy.toml"
            raise ConfigError(f"label {name!r} cannot be a folder", where=str(folder / "taxonomy.toml"), next_step=step)
    for found in sorted(folder.iterdir()):
        ours = found.is_dir() and any((found / file).is_file() for file in FILES)
        if ours and found.name not in names:
            what = f"folder {found.name!r} belongs to no label"
            raise ConfigError(what, where=str(folder), next_step=did_you_mean(found.name, names))


def read_route(folder: Path, label: str) -> Route:
    """The route in `folder`, which may have none of the files. Raises ConfigError, DataError."""
    file = folder / "route.toml"
    table = read_toml(file, "the route") if file.is_file() else {}
    params = _params(mapping(table.pop("params", {}), str(file), "params"), str(file))
    own = {
        "label": label,
        "params": params,
        "system": _text(folder / "system.md"),
        "examples": tuple(_examples(folder / "examples.jsonl")),
        "tools": tuple(_tools(folder / "tools.json")),
    }
    route = read_table(Route, table, str(file), given=own)
    if not 0 < route.threshold <= 1:
        step = "choose a value above 0, up to 1"
        raise ConfigError(f"threshold is {route.threshold}", where=str(file), next_step=step)
    return route


def _params(table: Mapping[str, Any], where: str) -> tuple[Param, ...]:
    return tuple(_param(name, value, where) for name, value in table.items())


def _param(name: str, value: Any, where: str) -> Param:
    """`"string"`, a list of values, or a table with the keys of `Param`, `type` for the kind."""
    place = f"params.{name}"
    short = {"kind": value} if isinstance(value, str) else {"one_of": value} if isinstance(value, list) else value
    keys = dict(mapping(short, where, place))
    if "type" in keys:
        keys["kind"] = keys.pop("type")
    param = read_table(Param, keys, where, place, given={"name": name})
    if name == "route" or not name.isidentifier():
        raise ConfigError(f"{place} is no name for a parameter", where=where, next_step="use letters, digits and _")
    if param.kind not in KINDS:
        raise ConfigError(
            f"{place} has the type {param.kind!r}", where=where, next_step=did_you_mean(param.kind, KINDS)
        )
    if param.one_of and param.kind != "string":
        raise ConfigError(f"{place} lists values and is no string", where=where, next_step="leave out `type`")
    return param


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig").strip() if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read it: {error}", where=str(file), next_step="mend the file") from error


def _examples(file: Path) -> Iterable[tuple[str, str]]:
    if not file.is_file():
        return
    with open(file, "rb") as lines:
        for number, row in read_jsonl(lines, file):
            if isinstance(row, DataError):
                raise row
            asked, said = row.get("user"), row.get("assistant")
            if not (isinstance(asked, str) and asked.strip() and isinstance(said, str) and said.strip()):
                step = 'write {"user": "...", "assistant": "..."}'
                raise DataError("an example needs two texts", file=file, line=number, next_step=step)
            yield asked.strip(), said.strip()


def _tools(file: Path) -> Iterable[Mapping[str, Any]]:
    text = _text(file)
    try:
        tools = json.loads(text) if text else []
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}", where=str(file), next_step="mend the file") from error
    if not isinstance(tools, list) or not all(isinstance(t, dict) and isinstance(t.get("name"), str) for t in tools):
        step = "write a list of tools, each with a name, as in a Messages body"
        raise ConfigError("no list of tools", where=str(file), next_step=step)
    names = [tool["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ConfigError(f"two tools have one name: {names}", where=str(file), next_step="rename one")
    return cast("list[Mapping[str, Any]]", tools)
