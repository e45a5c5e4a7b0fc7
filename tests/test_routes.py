"""Taxonomy folders: what stands where, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from assistant import FILES, write

from prerouter.errors import PreRouterError
from prerouter.routes import Param
from prerouter.taxonomy import Taxonomy


def test_a_folder_is_a_taxonomy_with_routes(tmp_path: Path) -> None:
    taxonomy = Taxonomy.load(write(tmp_path / "routes"))
    assert taxonomy.names == ("code_review", "debugging", "architecture", "docs_lookup", "general")
    assert (taxonomy.default, taxonomy.ordered, taxonomy.tier_of("architecture")) == ("general", False, "opus")
    assert taxonomy.handoff
    review = taxonomy.handoff.routes["code_review"]
    assert (review.max_tokens, review.threshold, review.system) == (4000, 0.75, FILES["code_review/system.md"])
    assert review.params == (
        Param("language", "string", (), True, "programming language"),
        Param("depth", one_of=("quick", "thorough")),
    )
    assert taxonomy.handoff.routes["docs_lookup"].examples == (("What does 409 mean?", "Conflict (RFC 9110)."),)
    assert not taxonomy.handoff.routes["general"].is_specialist


def test_what_is_learnt_does_not_depend_on_what_specialists_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "routes")
    before = Taxonomy.load(folder)
    (folder / "debugging" / "system.md").write_text("Something else.")
    (folder / "taxonomy.toml").write_text("plan_steps = 2\n" + FILES["taxonomy.toml"])
    after = Taxonomy.load(folder)
    assert (before.id, before) == (after.id, after)
    assert Taxonomy.from_dict(before.to_dict()).id == before.id


def test_a_tier_may_stand_in_the_route(tmp_path: Path) -> None:
    folder = write(tmp_path / "routes")
    (folder / "taxonomy.toml").write_text(FILES["taxonomy.toml"].replace(', tier = "opus"', ""))
    (folder / "architecture" / "route.toml").write_text('tier = "opus"')
    assert Taxonomy.load(folder).tier_of("architecture") == "opus"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("code_review/route.toml", 'tier = "opus"', "has the tier 'sonnet' here and 'opus' in its route.toml"),
        ("code_review/route.toml", "threshold = 1.5", "threshold is 1.5"),
        ("code_review/route.toml", "max_tokens = -1", "max_tokens must be a whole number"),
        ("code_review/route.toml", 'cache = "10m"', "cache must be one of 5m, 1h, off"),
        ("code_review/route.toml", 'fallback_route = "debuging"', "did you mean 'debugging'"),
        ("code_review/route.toml", 'params = "x"', "params must be a table"),
        ("code_review/route.toml", "params = {x = {typ = 1}}", "unknown key params.x.typ"),
        ("code_review/route.toml", 'params = {route = "string"}', "params.route is no name"),
        (
            "code_review/route.toml",
            'params = {x = {type = "integer", one_of = ["1"]}}',
            "lists values and is",
        ),
        ("code_review/examples.jsonl", '{"user": "a"}', "examples.jsonl, line 1"),
        ("code_review/examples.jsonl", "{", "not a line of JSON"),
        ("code_review/tools.json", "{}", "no list of tools"),
        ("code_review/tools.json", json.dumps([{"name": "a"}] * 2), "two tools have one name"),
        ("taxonomy.toml", "plan_steps = 0\n" + FILES["taxonomy.toml"], "plan_steps is 0"),
        ("taxonomy.toml", "plans = true\n" + FILES["taxonomy.toml"], "did you mean 'plan'"),
        (
            "taxonomy.toml",
            FILES["taxonomy.toml"].replace("debugging", "debug"),
            "belongs to no label",
        ),
        ("taxonomy.toml", FILES["taxonomy.toml"].replace("debugging", "a/b"), "label 'a/b' cannot be a folder"),
        (
            "debugging/route.toml",
            "[params]\n" + "\n".join(f'p{i} = "string"' for i in range(25)),
            "more than the API's 24",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, file: str, text: str, said: str) -> None:
    folder = write(tmp_path / "routes")
    (folder / file).write_text(text)
    with pytest.raises(PreRouterError) as caught:
        Taxonomy.load(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("param", "value", "read"),
    [
        (Param("x"), "a", "a"),
        (Param("x"), 1, None),
        (Param("x", "integer"), 3, 3),
        (Param("x", "integer"), True, None),
        (Param("x", "number"), 3, 3),
        (Param("x", "boolean"), False, False),
        (Param("x", one_of=("Low", "High")), "low", "Low"),
        (Param("x", one_of=("Low", "High")), "medium", None),
    ],
)
def test_a_parameter_is_of_its_type(param: Param, value: object, read: object) -> None:
    assert (param.read(value), type(param.read(value))) == (read, type(read))
