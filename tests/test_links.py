"""There is always a champion: links are relative and switched by rename."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from prerouter import links
from prerouter.errors import ConfigError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "models" / name).mkdir(parents=True)
    return tmp_path / "models"


def test_a_link_is_relative_and_moves_with_its_folder(models: Path, tmp_path: Path) -> None:
    links.point(models, "champion", models / "a")
    assert os.readlink(models / "champion") == "a"
    moved = models.rename(tmp_path / "elsewhere")
    assert links.linked(moved, "champion") == (moved / "a").resolve()


def test_no_link_is_none(models: Path) -> None:
    assert links.linked(models, "champion") is None


def test_what_is_no_link_is_refused(models: Path) -> None:
    (models / "champion").mkdir()
    with pytest.raises(ConfigError, match="champion is not a link"):
        links.linked(models, "champion")


def test_a_link_whose_folder_is_gone_is_refused(models: Path) -> None:
    links.point(models, "champion", models / "a")
    (models / "a").rmdir()
    with pytest.raises(ConfigError, match="links to a, which is gone"):
        links.linked(models, "champion")


def test_where_no_link_can_be_made_it_says_what_to_do_instead(models: Path) -> None:
    with pytest.raises(ConfigError, match="cannot make a symbolic link") as refusal:
        links.point(models / "nowhere", "champion", models / "a")
    assert 'model = "models/a"' in refusal.value.next_step


def test_whoever_looks_sees_the_old_folder_or_the_new_one(models: Path) -> None:
    links.point(models, "champion", models / "a")
    seen, done = set(), threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(links.linked(models, "champion"))

    reader = threading.Thread(target=look)
    reader.start()
    for i in range(300):
        links.point(models, "champion", models / "ab"[i % 2])
    done.set()
    reader.join()
    assert seen <= {(models / "a").resolve(), (models / "b").resolve()}
    assert sorted(path.name for path in models.iterdir()) == ["a", "b", "champion"]


def test_a_folder_knows_its_role(models: Path) -> None:
    links.point(models, "champion", models / "a")
    links.point(models, "previous", models / "b")
    assert (links.role(models / "a"), links.role(models / "b")) == ("champion", "previous")
    assert links.role(models / "champion") == "champion"
    assert links.role(models / "c") is None
    assert links.role(models.parent / "a") is None
