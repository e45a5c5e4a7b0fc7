"""Recipes: file, changes, and what is refused."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from prerouter.certify import Contract
from prerouter.errors import ConfigError
from prerouter.files import shipped
from prerouter.recipe import Recipe, load_recipe
from prerouter.settings import Settings


def test_without_a_file_the_recipe_is_the_usual_one() -> None:
    assert load_recipe(None, Settings(), {}) == Recipe()
    assert Recipe().contract(ordered=True) == Contract(0.05, 0.10, 0.95)
    assert Recipe().contract(ordered=False) == Contract(None, 0.10, 0.95)


def test_certify_gets_the_rows_that_hold_a_hundred_errors_at_the_limit() -> None:
    assert Recipe().most(ordered=True) == {"certify": 2000, "calibrate": 1000}
    assert Recipe().most(ordered=False) == {"certify": 1000, "calibrate": 500}
    assert Recipe(max_under=0.03, certify_errors=20).most(ordered=True) == {"certify": 667, "calibrate": 334}


def test_the_shipped_recipe_says_the_defaults() -> None:
    path = shipped("training/default.toml")
    assert load_recipe(path, Settings(), {}) == Recipe()
    assert set(tomllib.loads(path.read_text())) == {field.name for field in fields(Recipe)}


def test_a_workspace_has_its_own_and_flags_stand_above_it(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    path = tmp_path / "training" / "default.toml"
    path.write_text('encoder = ["static", "minilm"]\nmax_under = 0.02\n[finetuning]\nepochs = 1\n')
    settings = Settings(workspace=tmp_path)
    found = load_recipe(None, settings, {"max_under": 0.01, "seed": None, "confidence": None})
    assert (found.encoder, found.max_under, found.seed) == (("static", "minilm"), 0.01, 0)
    assert found.finetuning.epochs == 1
    other = tmp_path / "other.toml"
    other.write_text("seed = 7\n")
    assert load_recipe(other, settings, {}) == Recipe(seed=7)


def test_one_encoder_may_be_named_without_a_list(tmp_path: Path) -> None:
    assert load_recipe(None, Settings(), {"encoder": "static"}).encoder == ("static",)
    assert load_recipe(None, Settings(), {"encoder": tmp_path}).encoder == (str(tmp_path),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_undr": 0.1}, "unknown option max_undr.*did you mean 'max_under'"),
        ({"max_under": 0.0}, "max_under is 0.0.*more than 0 and less than 1"),
        ({"max_disagreement": 1.0}, "max_disagreement is 1.0"),
        ({"confidence": float("nan")}, "confidence is nan"),
        ({"max_under": "small"}, "max_under must be a number"),
        ({"encoder": []}, "no encoder is named"),
        ({"max_lost": 0.9}, "max_lost is 0.9.*from 0 to 0.5"),
        ({"cv_rows": 3}, "cv_rows is 3"),
        ({"certify_errors": 1}, "certify_errors is 1"),
    ],
)
def test_what_is_no_recipe_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(None, Settings(), changes)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(ConfigError, match="no such file of the recipe"):
        load_recipe(path, Settings(), {})
    path.write_text("enccoder = ['static']")
    with pytest.raises(ConfigError, match=r"unknown key enccoder.*did you mean 'encoder'") as error:
        load_recipe(path, Settings(), {})
    assert error.value.where == str(path)
