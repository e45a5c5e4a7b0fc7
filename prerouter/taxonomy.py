"""Labels, their meanings, examples, order and tiers. The shipped taxonomy is `labels/complexity.toml`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from prerouter.errors import ConfigError
from prerouter.files import shipped
from prerouter.routes import Handoff, Route, Split, check_folders, read_handoff, read_route
from prerouter.tables import did_you_mean, read_table, read_toml

MAX_ASKABLE = 12  # labels among which a classifier model can be asked to choose (DESIGN.md 2)
MANY = 10  # from here on a warning: every further label costs the classifier accuracy


@dataclass(frozen=True, slots=True)
class Label:
    """One label. All texts are single-spaced; definition, distinction and examples are empty when inferred.

    definition: one sentence. distinction: what sets it apart from its neighbours. tier: where its requests go.
    """

    name: str
    definition: str = ""
    distinction: str = ""
    examples: tuple[str, ...] = ()
    tier: str | None = None

    def __post_init__(self) -> None:
        # How a file wraps its lines is not content.
        for key in ("name", "definition", "distinction"):
            object.__setattr__(self, key, _single_spaced(getattr(self, key)))
        object.__setattr__(self, "examples", tuple(map(_single_spaced, self.examples)))


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The labels that a classifier chooses from; weakest first when `ordered`. Make one with `load` or `from_dict`.

    default: label of a request that nothing decided. torn: label to take between two, or None.
    from_data: made by `inferred`: unordered, no tiers, definitions not needed, no limit on the number of labels.
    handoff: of a taxonomy folder, what its routes are; else None. levels: of a nested one, the taxonomy that is asked
    about first, at "", and each label's own; the labels of all levels are then named "top/category".
    id: 12 hex characters, sha256 of the content as `to_dict` gives it: comments, layout and routes do not count.
    """

    name: str
    ordered: bool
    labels: tuple[Label, ...]
    default: str
    torn: str | None = None
    from_data: bool = False
    where: str = field(default="none", compare=False, repr=False)
    handoff: Handoff | None = field(default=None, compare=False, repr=False)
    levels: Mapping[str, Taxonomy] = field(default_factory=dict, compare=False, repr=False)
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    id: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(label.name for label in self.labels))
        content = json.dumps(self.to_dict(), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        object.__setattr__(self, "id", hashlib.sha256(content.encode()).hexdigest()[:12])

    @classmethod
    def load(cls, path: Path | None = None) -> Taxonomy:
        """The taxonomy in a TOML file, or in a folder with a route for each label (None: the shipped one).

        Raises ConfigError; DataError for a line of examples.
        """
        path = path or shipped("labels/complexity.toml")
        if path.is_dir():
            return _of_folder(path)
        return cls.from_dict(read_toml(path, "the taxonomy"), str(path))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], where: str = "taxonomy") -> Taxonomy:
        """A taxonomy from the content of its file, or from `to_dict`. Raises ConfigError naming `where` and the key."""
        taxonomy = read_table(cls, table, where, given={"where": where, "handoff": None, "levels": {}})
        _check_names(taxonomy)
        _check_choices(taxonomy)
        _check_form(taxonomy)
        return taxonomy

    @classmethod
    def inferred(cls, names: Iterable[str]) -> Taxonomy:
        """An unordered taxonomy without tiers of the distinct `names` of data rows, sorted; default: the commonest."""
        counts = Counter(_single_spaced(name) for name in names)
        default = min(counts, key=lambda name: (-counts[name], name), default="none")
        table = {"name": "inferred", "ordered": False, "default": default, "from_data": True}
        return cls.from_dict(table | {"labels": [{"name": name} for name in sorted(counts)]}, "the labels of the data")

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads; keys that say nothing are left out."""
        out: dict[str, Any] = {"name": self.name, "ordered": self.ordered, "default": self.default}
        out |= {key: getattr(self, key) for key in ("torn", "from_data") if getattr(self, key)}
        return out | {"labels": [_label_dict(label) for label in self.labels]}

    @property
    def askable(self) -> bool:
        """Whether a classifier model can be asked to choose among these labels."""
        return len(self.labels) <= MAX_ASKABLE

    @property
    def has_tiers(self) -> bool:
        """Whether labels say where requests go."""
        return any(label.tier for label in self.labels)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal but unwise, one line each, for whoever shows it to the user."""
        if self.from_data or (widest := _widest(self.names)) < MANY:
            return ()
        step = "merge labels whose requests go to the same place"
        return (f"{widest} labels ({self.where}): from {MANY} on the classifier's accuracy falls off; {step}",)

    def match(self, name: str) -> str | None:
        """The label that is `name` in any capitalisation, or None: answers of a model vary in case."""
        wanted = _single_spaced(name).casefold()
        return next((known for known in self.names if known.casefold() == wanted), None)

    def label(self, name: str) -> Label:
        """The label called `name` in any capitalisation; ConfigError with the known ones otherwise."""
        return self.labels[self.index(name)]

    def index(self, name: str) -> int:
        """Position of a label, 0 the weakest when ordered; ConfigError with the known ones otherwise."""
        found = self.match(name)
        if found is None:
            raise ConfigError(f"unknown label {name!r}", where=self.where, next_step=did_you_mean(name, self.names))
        return self.names.index(found)

    def tier_of(self, name: str) -> str | None:
        """The tier of a label, or None in a taxonomy without tiers; ConfigError for an unknown label."""
        return self.label(name).tier

    def check_tiers(self, rank: Callable[[str], int]) -> None:
        """ConfigError when `rank` (`TierTable.rank`) does not know a tier, or a higher label has a weaker one."""
        ranks = [rank(label.tier) for label in self.labels if label.tier]
        for weaker, stronger, low, high in zip(self.labels, self.labels[1:], ranks, ranks[1:], strict=False):
            if self.ordered and low > high:
                what = f"label {stronger.name!r} is above {weaker.name!r} but its tier {stronger.tier!r} is weaker"
                step = f"swap the tiers, or the labels: weakest first ({weaker.name!r} goes to {weaker.tier!r})"
                raise ConfigError(what, where=f"{self.where}, labels", next_step=step)


def _of_folder(folder: Path) -> Taxonomy:
    """The taxonomy in a folder whose labels have folders of their own; one more level of labels may stand in these."""
    file = folder / "taxonomy.toml"
    split = Split.read(file)
    names = split.names()
    check_folders(folder, names)
    nested = [name for name in names if (folder / name / "taxonomy.toml").is_file()]
    routes = {name: read_route(folder / name, name) for name in names if name not in nested}
    if nested:
        return _nested(folder, split, routes, {name: Split.read(folder / name / "taxonomy.toml") for name in nested})
    taxonomy = Taxonomy.from_dict(_with_tiers(split.labels, routes, file), str(file))
    return _with_routes(taxonomy, folder, split, routes)


def _nested(folder: Path, split: Split, routes: dict[str, Route], below: Mapping[str, Split]) -> Taxonomy:
    """The taxonomy of the lowest labels of two levels; each level is kept in `levels`."""
    file = folder / "taxonomy.toml"
    top = Taxonomy.from_dict(_without_tiers(split.labels), str(file))
    levels = {"": top}
    for name, inner in below.items():
        place = folder / name
        if inner.handoff or any((place / sub / "taxonomy.toml").is_file() for sub in inner.names()):
            step = "two levels are all there are; the keys of a plan and of low confidence go into the upper one"
            raise ConfigError("only labels can stand here", where=str(place / "taxonomy.toml"), next_step=step)
        check_folders(place, inner.names())
        levels[name] = Taxonomy.from_dict(_without_tiers(inner.labels), str(place / "taxonomy.toml"))
        routes |= {f"{name}/{sub}": read_route(place / sub, f"{name}/{sub}") for sub in inner.names()}
    table = {**split.labels, "default": _leaf(top.default, levels), "labels": _leaves(split.labels, below)}
    taxonomy = Taxonomy.from_dict(_with_tiers(table, routes, file), str(file))
    if taxonomy.ordered:
        raise _wrong(taxonomy, "labels of two levels have no order", "leave out `ordered`", "ordered")
    return replace(_with_routes(taxonomy, folder, split, routes), levels=levels)


def _leaves(table: Mapping[str, Any], below: Mapping[str, Split]) -> list[dict[str, Any]]:
    """The lowest labels' tables; a category has its upper label's tier where it names none."""
    rows: list[dict[str, Any]] = []
    for row in table["labels"]:
        inner = below.get(row["name"])
        tier = {"tier": row["tier"]} if inner and "tier" in row else {}
        subs = (
            [tier | sub | {"name": f"{row['name']}/{sub['name']}"} for sub in inner.labels["labels"]]
            if inner
            else [row]
        )
        rows += subs
    return rows


def _leaf(name: str, levels: Mapping[str, Taxonomy]) -> str:
    return f"{name}/{levels[name].default}" if name in levels else name


def _with_routes(taxonomy: Taxonomy, folder: Path, split: Split, routes: dict[str, Route]) -> Taxonomy:
    for name, route in routes.items():
        if route.fallback_route is not None and route.fallback_route not in taxonomy.names:
            where, step = f"{folder / name / 'route.toml'}, fallback_route", did_you_mean(route.fallback_route, routes)
            raise ConfigError(f"{route.fallback_route!r} is not a label", where=where, next_step=step)
    return replace(taxonomy, handoff=read_handoff(folder, split.handoff, routes))


def _with_tiers(table: Mapping[str, Any], routes: Mapping[str, Route], file: Path) -> dict[str, Any]:
    """`table`, whose labels take their tiers from their routes where they have none."""
    rows = table.get("labels")
    if not isinstance(rows, list):
        return dict(table)
    made = [
        row if not isinstance(row, Mapping) else _with_tier(row, routes.get(str(row.get("name"))), file) for row in rows
    ]
    return {**table, "labels": made}


def _with_tier(row: Mapping[str, Any], route: Route | None, file: Path) -> Mapping[str, Any]:
    if route is None or route.tier is None:
        return row
    if row.get("tier", route.tier) != route.tier:
        what = f"label {route.label!r} has the tier {row['tier']!r} here and {route.tier!r} in its route.toml"
        raise ConfigError(what, where=f"{file}, labels", next_step="name it in one of them")
    return {**row, "tier": route.tier}


def _without_tiers(table: Mapping[str, Any]) -> dict[str, Any]:
    """For a level of its own: the tiers are the lowest labels' affair."""
    rows = table.get("labels")
    bare = (
        [{k: v for k, v in row.items() if k != "tier"} if isinstance(row, Mapping) else row for row in rows]
        if isinstance(rows, list)
        else rows
    )
    return {**table, "labels": bare} if rows is not None else dict(table)


def _widest(names: Iterable[str]) -> int:
    """The most labels among which one question has to choose; those of two levels are named "top/category"."""
    below = Counter(name.split("/")[0] for name in names)
    return max(len(below), *below.values()) if below else 0


def _check_names(taxonomy: Taxonomy) -> None:
    seen: dict[str, str] = {}
    for name in taxonomy.names:
        if not name.isprintable():
            raise _wrong(taxonomy, f"label {name!r} has an unprintable character", "rename it")
        if name.casefold() in seen:
            others = f"{seen[name.casefold()]!r} and {name!r}"
            raise _wrong(taxonomy, f"two labels are the same: {others}", "labels are compared without case: rename one")
        seen[name.casefold()] = name
    if len(taxonomy.names) < 2:
        raise _wrong(taxonomy, f"there must be at least 2 labels, not {len(taxonomy.names)}", "add one")


def _check_choices(taxonomy: Taxonomy) -> None:
    for key in ("default", "torn"):
        name = getattr(taxonomy, key)
        if name is not None and name not in taxonomy.names:
            raise _wrong(taxonomy, f"{key} = {name!r} is not a label", did_you_mean(name, taxonomy.names), key)


def _check_form(taxonomy: Taxonomy) -> None:
    """Definitions, tiers and the number of labels."""
    if taxonomy.from_data:
        if taxonomy.ordered or taxonomy.has_tiers:
            step = "leave out `from_data`, or `ordered` and every `tier`"
            raise _wrong(taxonomy, "a taxonomy from data has neither order nor tiers", step, "from_data")
        return
    if (widest := _widest(taxonomy.names)) > MAX_ASKABLE:
        step = "merge labels, or train with --taxonomy infer, whose number is not limited"
        raise _wrong(taxonomy, f"{widest} labels are more than {MAX_ASKABLE}", step)
    for label in taxonomy.labels:
        if not label.definition:
            raise _wrong(taxonomy, f"label {label.name!r} has no definition", "add `definition`, one sentence")
        if not label.tier and (taxonomy.ordered or taxonomy.has_tiers):
            why = "the taxonomy is ordered" if taxonomy.ordered else "other labels have one"
            raise _wrong(taxonomy, f"label {label.name!r} has no tier but {why}", 'add a tier, such as tier = "sonnet"')


def _wrong(taxonomy: Taxonomy, what: str, next_step: str, key: str = "labels") -> ConfigError:
    return ConfigError(what, where=f"{taxonomy.where}, {key}", next_step=next_step)


def _label_dict(label: Label) -> dict[str, Any]:
    values = {f.name: getattr(label, f.name) for f in fields(Label)}
    return {key: list(value) if key == "examples" else value for key, value in values.items() if value}


def _single_spaced(text: str) -> str:
    return " ".join(text.split())
