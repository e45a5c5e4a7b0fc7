"""What of a route goes into a request: in the right place, and legal on every current model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from assistant import write
from fake_claude_models import MODELS
from fake_claude_rules import NEW_VERSION, check
from hypothesis import given
from hypothesis import strategies as st

from prerouter.abilities import Misfit
from prerouter.dispatchconfig import DispatchConfig
from prerouter.fitting import fits
from prerouter.promptsize import measure
from prerouter.routes import Param, Route
from prerouter.specialist import Specialist
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

TABLE = TierTable.load()
SONNET = TABLE.model("claude-sonnet-5-5")
LONG = "Mind every detail of it. " * 900
TOOL = {"name": "search", "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}}}
SERVER = {"type": "web_search_20250305", "name": "web_search"}
ROUTE = Route("review", max_tokens=700, system="You review.", examples=(("a?", "b."),), tools=(TOOL,))
MARK = {"cache_control": {"type": "ephemeral"}}
HOUR = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def ask(**more: Any) -> dict[str, Any]:
    return {"max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **more}


def block(text: str = "Own.", **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


CALLERS: list[dict[str, Any]] = [
    {},
    {"system": "Be brief."},
    {"system": [block(**MARK), block("Two.", **HOUR)][:1], "tools": [{**TOOL, **MARK}]},
    {"system": [block(**HOUR)], "tools": [{**TOOL, "name": "mine", **HOUR}]},
    {"tools": [{**TOOL, "name": "escalate"}], "tool_choice": {"type": "auto"}},
    {"system": [block(str(i), **MARK) for i in range(4)]},
    {"messages": [{"role": "user", "content": [block(**HOUR)]}]},
    {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"thinking": {"type": "disabled"}},
    {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False}}}},
]
ROUTES = [
    ROUTE,
    replace(ROUTE, system=LONG),
    replace(ROUTE, system=LONG, cache="1h", escalate="text"),
    replace(ROUTE, system="", tools=(), examples=(), params=(Param("x"),), escalate="off"),
]


@pytest.mark.parametrize("route", ROUTES, ids=["short", "long", "hour", "params"])
def test_every_call_is_legal_on_every_current_model(route: Route) -> None:
    legal = 0
    for caller, model in product(CALLERS, TABLE.models.values()):
        if MODELS.get(model.id) is None and not set(model.aliases) & set(MODELS):
            continue
        specialist = Specialist(route, {"x": "1"} if route.params else {})
        fitted = fits_in(specialist.applied(ask(**caller), model), model)
        if isinstance(fitted, Misfit):
            assert isinstance(fits_in(ask(**caller), model), Misfit)  # the caller's own part, not ours
            continue
        check(fitted.body, NEW_VERSION, MODELS)
        legal += 1
    assert legal > 9 * 15


def fits_in(body: Mapping[str, Any], model: Any) -> Any:
    return fits(body, model, measure(body), DispatchConfig())


def test_the_assistants_routes_are_legal_in_their_tiers(tmp_path: Path) -> None:
    handoff = Taxonomy.load(write(tmp_path / "routes")).handoff
    assert handoff
    for route, name in product(handoff.routes.values(), MODELS):
        if MODELS[name].lifecycle != "retired":
            model = TABLE.model(name)
            check(fits_in(Specialist(route, {"a": 1}).applied(ask(), model), model).body, NEW_VERSION, MODELS)


@pytest.mark.parametrize(
    ("caller", "ttl"),
    [
        ({}, "5m"),
        ({"messages": [{"role": "user", "content": [block(**HOUR)]}]}, "1h"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "1h"),
        ({"tools": [{**TOOL, "name": "mine", **MARK}]}, "5m"),
        ({"system": [block(str(i), **MARK) for i in range(4)]}, None),
    ],
)
def test_the_static_part_is_marked_where_there_is_room_and_no_order_is_broken(
    caller: dict[str, Any], ttl: str | None
) -> None:
    body = Specialist(replace(ROUTE, system=LONG)).applied(ask(**caller), SONNET)
    assert body["system"][0].get("cache_control", {}).get("ttl") == ttl


def test_it_is_marked_from_the_models_minimum_on() -> None:
    text = "Mind every detail of it. " * 110  # some 700 tokens in the older tokenizer, without tools
    route = replace(ROUTE, system=text)
    marked = {name for name in TABLE.models if _marked(route, name)}
    assert {"claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"} <= marked
    assert marked.isdisjoint({"claude-opus-4-7", "claude-opus-4-6", "claude-haiku-4-5"})
    assert not _marked(replace(ROUTE, system=LONG, cache="off"), "claude-sonnet-5-5")


def _marked(route: Route, name: str) -> bool:
    return "cache_control" in Specialist(route).applied(ask(), TABLE.model(name))["system"][0]


def test_the_callers_tool_stands_above_the_routes_and_plans_take_server_tools_only() -> None:
    mine = {**TOOL, "description": "mine"}
    body = Specialist(replace(ROUTE, tools=(TOOL, SERVER))).applied(ask(tools=[mine]), SONNET)
    assert [tool["name"] for tool in body["tools"]] == ["web_search", "escalate", "search"]
    assert body["tools"][-1] is mine
    alone = Specialist(replace(ROUTE, tools=(TOOL, SERVER)), may_escalate=False, alone=True)
    assert alone.applied(ask(), SONNET)["tools"] == [SERVER]


def test_max_tokens_is_the_callers_else_the_routes() -> None:
    assert Specialist(ROUTE).applied(ask(), SONNET)["max_tokens"] == 100
    assert Specialist(ROUTE).applied(ask(max_tokens=None), SONNET)["max_tokens"] == 700


def test_two_specialists_have_one_id_when_they_say_the_same() -> None:
    one = Specialist(ROUTE, {"a": 1})
    assert one.id == Specialist(replace(ROUTE, max_tokens=1), {"a": 1}).id
    others = [Specialist(ROUTE), Specialist(ROUTE, {"a": 1}, may_escalate=False), Specialist(ROUTE, {"a": 1}, note="x")]
    assert len({one.id, *(other.id for other in others)}) == 4


@given(st.dictionaries(st.sampled_from("abc"), st.text()), st.text(min_size=1))
def test_nothing_of_the_callers_is_lost_or_changed(params: dict[str, str], system: str) -> None:
    body = ask(system=system, tools=[{**TOOL, "name": "mine"}], metadata={"user_id": "u"})
    made = Specialist(ROUTE, params).applied(body, SONNET)
    assert {key: made[key] for key in ("messages", "metadata", "max_tokens")} == {
        key: body[key] for key in ("messages", "metadata", "max_tokens")
    }
    assert made["tools"][-1] == body["tools"][0]
    assert (block(system) in made["system"]) is bool(system.strip())
    assert sum("</handoff>" in part["text"] for part in made["system"] if part != block(system)) == bool(params)
