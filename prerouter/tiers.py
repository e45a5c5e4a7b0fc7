"""Tiers, models, prices, limits: the dated table in `tiers.toml`, and cost arithmetic in Decimal.

Every number is data: `tiers.toml` names its source and date, and `[tiers]` in prerouter.toml overrides any key of it.
Prices are US dollars per million tokens. Sums are exact (28 digits, the default decimal context) and never a float.
"""

from __future__ import annotations

import datetime
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from prerouter.errors import ConfigError, UnsupportedRequest
from prerouter.records import Usage
from prerouter.tables import convert, did_you_mean, mapping, read_table

Lifetime = Literal["5m", "1h"]  # of a cache entry
_DATED = re.compile(r"-(\d{8}|latest)$")
_NEW = 'add it; a new model may take the rest with like = "ID"; a tier not called haiku, sonnet or opus is a new one'
_NOT_INHERITED = ("aliases", "retires_at", "retires_not_before", "tool_prompt_tokens", "forced_tool_prompt_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars per million tokens. `input` is the uncached part of the prompt; thinking is billed as output."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal


_COUNTED = tuple((field.name, f"{field.name}_tokens") for field in fields(Prices))  # price, tokens of `Usage`


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPrompt(Prices):
    """Prices of a whole request, output included, whose prompt has more than `above_tokens` tokens."""

    above_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Prices):
    """One model as the API knows it; counts are in its own tokens. `tiers.toml` explains every field.

    tokens_per_text: tokens that one text counts, relative to Claude 4.6 and earlier (1.3: about 30 % more).
    us_factor, fast_factor: price factor of inference_geo "us" and speed "fast"; None where the API refuses them.
    off_efforts: efforts at which thinking can be turned off. retires_at: the scheduled day, set when deprecated.
    """

    id: str
    batch_factor: Decimal
    context_tokens: int
    max_output_tokens: int
    min_cacheable_tokens: int
    tokens_per_text: Decimal
    thinks_by_default: bool
    thinking_types: tuple[str, ...]
    off_efforts: tuple[str, ...]
    efforts: tuple[str, ...]
    forced_tools: bool
    prefill: bool
    free_sampling: bool
    system_messages: bool
    long_prompt: LongPrompt | None = None
    us_factor: Decimal | None = None
    fast_factor: Decimal | None = None
    default_effort: str | None = None
    tool_prompt_tokens: int | None = None
    forced_tool_prompt_tokens: int | None = None
    retires_at: datetime.date | None = None
    retires_not_before: datetime.date | None = None
    aliases: tuple[str, ...] = ()

    def prices_at(self, prompt_tokens: int) -> Prices:
        """Prices of a request whose prompt, cache reads and writes counted, has `prompt_tokens` tokens."""
        long = self.long_prompt
        return long if long and prompt_tokens > long.above_tokens else self


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """Models of about equal ability, in order of preference. Tiers are sorted by `order`, weakest first."""

    name: str
    order: int
    models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TierTable:
    """All known models, and the tiers that they stand in, weakest first. `where` is the file a user would edit."""

    tiers: tuple[Tier, ...]
    models: Mapping[str, Model]
    as_of: datetime.date
    retired: tuple[str, ...]
    where: str

    @classmethod
    def load(cls, overrides: Mapping[str, Any] | None = None, *, where: str = "prerouter.toml") -> TierTable:
        """The shipped table with `overrides`, the `[tiers]` table of the file `where`, laid over it key by key.

        A list replaces a list. A tier with `models = []` is left out. A new tier needs `order` and `models`; a new
        model needs every key, or `like` and what differs. Raises ConfigError.
        """
        shipped = tomllib.loads(Path(__file__).with_name("tiers.toml").read_text("utf-8"), parse_float=Decimal)
        # Inherited before anything is overridden: a user's price of one model must not leak into those like it.
        shipped["models"] = _inherited(shipped["models"], where)
        raw = _merged(shipped, mapping({} if overrides is None else overrides, where, "tiers"))
        as_of = convert(datetime.date, raw.pop("as_of"), where, "tiers.as_of")
        retired = convert(tuple[str, ...], raw.pop("retired"), where, "tiers.retired")
        models = {
            name: read_table(Model, keys, where, f"tiers.models.{name}", given={"id": name}, hint=_NEW)
            for name, keys in _inherited(raw.pop("models"), where).items()
        }
        tiers = [
            read_table(Tier, keys, where, f"tiers.{name}", given={"name": name}, hint=_NEW)
            for name, keys in raw.items()
        ]
        ordered = sorted((tier for tier in tiers if tier.models), key=lambda tier: tier.order)
        table = cls(tuple(ordered), models, as_of, retired, where)
        table._check()
        return table

    def _check(self) -> None:
        orders = [tier.order for tier in self.tiers]
        if len(set(orders)) < len(orders) or not orders:
            what = f"two tiers have the same order: {orders}" if orders else "there is no tier with a model"
            raise ConfigError(what, where=f"{self.where}, tiers", next_step="give each tier its own `order`")
        for name in (name for tier in self.tiers for name in tier.models):
            self.model(name)

    def tier(self, name: str) -> Tier:
        """The tier called `name`; ConfigError with the known ones otherwise."""
        return self.tiers[self.rank(name)]

    def rank(self, name: str) -> int:
        """Position of a tier, 0 the weakest; ConfigError with the known ones otherwise."""
        names = [tier.name for tier in self.tiers]
        if name in names:
            return names.index(name)
        step = f"known, weakest first: {', '.join(names)}; or add [tiers.{name}] to {self.where}"
        raise ConfigError(f"unknown tier {name!r}", where=f"{self.where}, tiers", next_step=step)

    def model(self, name: str) -> Model:
        """The model with this id or dated alias; ConfigError, naming the file to edit, when unknown or retired."""
        found = self.find(name)
        if found:
            return found
        where = f"{self.where}, tiers"
        if {name, _DATED.sub("", name)} & set(self.retired):
            raise ConfigError(f"model {name!r} is retired", where=where, next_step=f"name another in {self.where}")
        step = f'{did_you_mean(name, self.models)} or describe it under [tiers.models."{name}"] in {self.where}'
        raise ConfigError(f"unknown model {name!r}", where=where, next_step=step)

    def find(self, name: str) -> Model | None:
        """The model with this id or dated alias, or None."""
        return self.models.get(name) or next((m for m in self.models.values() if name in m.aliases), None)

    def first_model(self, tier: str, accepts: Callable[[Model], bool] = lambda _: True) -> str:
        """Id of the first model of `tier` that `accepts`; UnsupportedRequest when none does."""
        names = self.tier(tier).models
        for name in names:
            if accepts(self.model(name)):
                return name
        what, step = f"no model of tier {tier!r} accepts this request", f"add one to [tiers.{tier}] in {self.where}"
        raise UnsupportedRequest(what, where=", ".join(names), next_step=f"allow another tier, or {step}")

    def tier_of_model(self, name: str) -> Tier | None:
        """The tier that prefers this model most (the weakest of several), or None for a model without a tier."""
        model, places = self.find(name), [(i, tier) for tier in self.tiers for i in range(len(tier.models))]
        ranked = [(i, tier) for i, tier in places if model and self.find(tier.models[i]) is model]
        return min(ranked, key=lambda place: place[0])[1] if ranked else None


def cost(model: Model, usage: Usage, *, batch: bool = False, geo_us: bool = False, fast: bool = False) -> Decimal:
    """US dollars of one call, exact. Counts are >= 0, in `model`'s own tokens.

    UnsupportedRequest for what the API refuses: geo_us or fast where the model has none, fast in a batch.
    """
    if batch and fast:
        raise UnsupportedRequest("a batch cannot be fast", where=model.id, next_step="leave `speed` out of batches")
    counts = [(key, n) for key, name in _COUNTED if (n := getattr(usage, name))]
    prices = model.prices_at(sum([n for _, n in counts]) - usage.output_tokens)
    dollars = sum([n * getattr(prices, key) for key, n in counts], Decimal(0)).scaleb(-6)
    for key in [k for k, asked in (("batch_factor", batch), ("us_factor", geo_us), ("fast_factor", fast)) if asked]:
        if getattr(model, key) is None:
            step = f"choose another model, or set tiers.models.{model.id}.{key}"
            raise UnsupportedRequest(f"{model.id} has no {key}: the API refuses it", next_step=step)
        dollars *= getattr(model, key)
    return dollars


def turn_cost(model: Model, *, cached: int = 0, new: int, output: int, write: Lifetime | None = None) -> Decimal:
    """US dollars of a conversation's next turn on `model`, counts in its own tokens (see `convert_tokens`).

    cached: prefix read from this model's cache; new: the rest of the prompt; write: lifetime of a cache mark at the
    end of the prompt. Staying is `cached=prefix, new=turn`; switching is `new=prefix + turn`, for caches are per model.
    A prompt below `min_cacheable_tokens` is not written, and the API does not say so.
    """
    written = write if cached + new >= model.min_cacheable_tokens else None
    field = f"cache_write_{written}_tokens" if written else "input_tokens"
    return cost(model, Usage(**{"cache_read_tokens": cached, "output_tokens": output, field: new}))


def convert_tokens(count: int, counted_by: Model, wanted_by: Model) -> int:
    """`count` tokens of one model in another's: equal within a tokenizer generation, else an estimate, rounded up."""
    if not count or counted_by.tokens_per_text == wanted_by.tokens_per_text:
        return count
    return math.ceil(count * wanted_by.tokens_per_text / counted_by.tokens_per_text)


def thinking_off(model: Model, effort: str | None = None) -> dict[str, str] | None:
    """What to send as `thinking` so that `model` does not think at `effort` (None: its default effort).

    None where nothing need be sent (off by default) and where nothing helps; `thinks` tells the two apart.
    """
    possible = model.thinks_by_default and (effort or model.default_effort) in model.off_efforts
    off = [kind for kind in model.thinking_types if kind in ("disabled", "between_tools")]
    return {"type": off[0]} if possible and off else None


def thinks(model: Model, effort: str | None = None) -> bool:
    """Whether `model` thinks at `effort` even with `thinking_off`: max_tokens must then leave room for it."""
    return model.thinks_by_default and thinking_off(model, effort) is None


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a configured model differs from what the API says of it; `text` is a line for people."""

    problem: Literal["missing", "retired", "deprecated", "limit", "ability"]
    tier: str
    model: str
    text: str

    @property
    def serious(self) -> bool:
        """True when requests that are routed to this model fail."""
        return self.problem in ("missing", "retired")


def compare(table: TierTable, listing: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """The tiers' models against the items of `GET /v1/models`; fields absent or null there are not compared.

    List with `lifecycle[]` active, deprecated and retired: by default the API leaves retired models out.
    """
    infos = {info.get("id"): info for info in listing}
    return [
        Finding(problem, tier.name, name, f"{name} (tier {tier.name}): {text}")
        for tier in table.tiers
        for name in tier.models
        for problem, text in _differences(table.model(name), infos)
    ]


def _differences(model: Model, infos: Mapping[Any, Mapping[str, Any]]) -> Iterator[tuple[Any, str]]:
    info = next((infos[name] for name in (model.id, *model.aliases) if name in infos), None)
    if info is None:
        yield "missing", "not in the API's list: retired, mistyped, or not open to this key"
        return
    if info.get("lifecycle") == "retired":
        yield "retired", "retired: requests to it fail"
    elif info.get("lifecycle") == "deprecated":
        day = info.get("retires_at")
        yield "deprecated", "deprecated" + (f", retires on {str(day)[:10]}" if day else "")
    for key, ours in (("max_input_tokens", "context_tokens"), ("max_tokens", "max_output_tokens")):
        if info.get(key) not in (None, getattr(model, ours)):
            yield "limit", f"{ours} is {getattr(model, ours)} in the table, {info[key]} at the API"
    for ability in _refused(model, info.get("capabilities") or {}):
        yield "ability", f"{ability} is in the table, the API refuses it"


def _refused(model: Model, capabilities: Mapping[str, Any]) -> Iterator[str]:
    thinking = (capabilities.get("thinking") or {}).get("types") or {}
    effort = capabilities.get("effort") or {}
    for kind, used, theirs in (("thinking type", model.thinking_types, thinking), ("effort", model.efforts, effort)):
        yield from (f"{kind} {name!r}" for name in used if (theirs.get(name) or {}).get("supported") is False)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    tables = (key for key in base if isinstance(base[key], Mapping) and isinstance(over.get(key), Mapping))
    return {**base, **over, **{key: _merged(base[key], over[key]) for key in tables}}


def _inherited(models: Any, where: str) -> dict[str, Any]:
    """Every model's table, with what it takes from the model that it is `like`, which must stand above it."""
    done: dict[str, Any] = {}
    for name, table in mapping(models, where, "tiers.models").items():
        own = dict(mapping(table, where, f"tiers.models.{name}"))
        parent = own.pop("like", None)
        if parent is not None and str(parent) not in done:
            what = f"tiers.models.{name}.like names no model above it: {parent!r}"
            raise ConfigError(what, where=where, next_step=did_you_mean(str(parent), done))
        taken = {key: value for key, value in done.get(str(parent), {}).items() if key not in _NOT_INHERITED}
        done[name] = _merged(taken, own)
    return done
