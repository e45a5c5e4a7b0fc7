"""`prerouter promote` and `rollback`: links, refusals, and that there is always a champion that can be loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from model_help import rows, save, workspace

from prerouter import cli, links
from prerouter.errors import ConfigError, DataError, ModelFolderError
from prerouter.promote import promote, rollback
from prerouter.router import PreRouter
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with three models and held-out rows; it is the current folder."""
    folder = tmp_path / "ws"
    workspace(folder)
    rows(folder / "labels" / "heldout.jsonl")
    for name, kind in KINDS.items():
        save(folder / "models" / name, **kind)
    monkeypatch.chdir(folder)
    return folder


KINDS: dict[str, Any] = {
    "small": {"sees": "easy"},
    "good": {"sees": "easy hard"},
    "wrong": {"turned": True},
    "closed": {"valid": False},
}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    code = cli.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def served() -> str:
    with PreRouter.load() as router:
        return router.local.model_folder_id


def id_of(name: str) -> str:
    with PreRouter.load(Path("models") / name) as router:
        return router.local.model_folder_id


def test_the_first_champion_and_the_next(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    shipped = served()
    assert run(capsys, "promote", "models/small")[0] == 0
    assert (os.readlink("models/champion"), os.path.lexists("models/previous")) == ("small", False)
    assert served() == id_of("small") != shipped
    code, found, _ = run(capsys, "promote", "models/good")
    assert (code, found["promoted"]) == (0, True)
    assert (found["champion"], found["previous"]) == (id_of("good"), id_of("small"))
    assert found["comparison"]["challenger"]["coverage"] > found["comparison"]["champion"]["coverage"]
    assert (os.readlink("models/champion"), os.readlink("models/previous")) == ("good", "small")
    assert served() == id_of("good")


def test_a_worse_one_is_refused_and_nothing_changes(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    run(capsys, "promote", "models/good")
    for worse in ("small", "wrong"):
        code, found, _ = run(capsys, "promote", f"models/{worse}")
        assert (code, found["promoted"], found["champion"]) == (1, False, id_of("good"))
        assert "worth less" in found["why"]
    assert (os.readlink("models/champion"), os.path.lexists("models/previous")) == ("good", False)


def test_an_invalid_certificate_is_refused_with_what_it_takes(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    code, found, _ = run(capsys, "promote", "models/closed")
    assert (code, found["promoted"], found["comparison"]) == (1, False, None)
    assert "1,234 more labelled requests" in found["why"]
    assert not os.path.lexists("models/champion")


def test_force_asks_neither(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    run(capsys, "promote", "models/good")
    for name in ("closed", "wrong"):
        code, found, _ = run(capsys, "promote", f"models/{name}", "--force")
        assert (code, found["why"], os.readlink("models/champion")) == (0, "forced", name)


def test_against_and_data_are_what_they_say(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    run(capsys, "promote", "models/good")
    easy = rows(space / "easy.jsonl", words=["easy"])
    assert run(capsys, "promote", "models/small", "--data", easy)[0] == 0  # on these rows they are alike
    code, found, _ = run(capsys, "promote", "models/wrong", "--against", "models/wrong")
    assert (code, found["comparison"]["difference"], os.readlink("models/champion")) == (0, 0.0, "wrong")


def test_promoting_the_champion_again_changes_nothing(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    for name in ("small", "good", "good"):
        code, found, _ = run(capsys, "promote", f"models/{name}")
        assert code == 0
    assert found["why"] == "it is the champion already"
    assert (os.readlink("models/champion"), os.readlink("models/previous")) == ("good", "small")


def test_rollback_goes_back_and_forth(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    run(capsys, "promote", "models/small")
    run(capsys, "promote", "models/good")
    code, found, _ = run(capsys, "rollback")
    assert (code, found["champion"], found["previous"]) == (0, id_of("small"), id_of("good"))
    assert served() == id_of("small")
    assert run(capsys, "rollback")[1]["champion"] == id_of("good")


def test_rollback_to_an_id(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    run(capsys, "promote", "models/good")
    code, found, _ = run(capsys, "rollback", "--to", id_of("wrong"))
    assert (code, os.readlink("models/champion"), os.readlink("models/previous")) == (0, "wrong", "good")
    code, found, err = run(capsys, "rollback", "--to", "0123456789ab")
    assert (code, found["error"]["type"]) == (2, "ConfigError")
    assert id_of("good") in err


def test_rollback_with_nothing_to_go_back_to(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    run(capsys, "promote", "models/good")
    code, found, _ = run(capsys, "rollback")
    assert (code, found["error"]["message"]) == (2, "nothing to go back to")


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_a_damaged_folder_never_becomes_the_champion(
    capsys: pytest.CaptureFixture[str], space: Path, verb: str
) -> None:
    run(capsys, "promote", "models/small")
    run(capsys, "promote", "models/good")
    (space / "models" / "small" / "stages" / "0" / "words.txt").write_text("damaged")
    code, found, _ = run(capsys, *([verb, "models/small", "--force"] if verb == "promote" else [verb]))
    assert (code, found["error"]["type"]) == (2, "ModelFolderError")
    assert served() == id_of("good")


def test_ended_between_the_two_renames_the_champion_stays_and_the_command_can_be_repeated(
    capsys: pytest.CaptureFixture[str], space: Path
) -> None:
    run(capsys, "promote", "models/small")
    links.point(space / "models", "previous", space / "models" / "small")  # the first of the two
    assert served() == id_of("small")
    assert run(capsys, "promote", "models/good")[0] == 0
    assert (os.readlink("models/champion"), os.readlink("models/previous")) == ("good", "small")


def test_a_folder_from_elsewhere_is_copied_in(capsys: pytest.CaptureFixture[str], space: Path, tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", sees="easy hard")
    made = run(capsys, "promote", tmp_path / "elsewhere")[1]["champion"]
    assert os.readlink("models/champion") == made
    assert served() == made
    assert sorted(path.name for path in (space / "models").iterdir() if path.name.startswith(".new")) == []


def test_without_a_champion_and_rows_the_certificate_decides(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    (space / "labels" / "heldout.jsonl").unlink()
    code, found, _ = run(capsys, "promote", "models/wrong")
    assert (code, found["comparison"]) == (0, None)
    assert "compared with nothing" in found["why"]
    code, found, _ = run(capsys, "promote", "models/good")  # now there is one to compare with
    assert (code, found["error"]["next"]) == (
        2,
        "--data FILE with labelled requests that neither model learnt from, or --force",
    )


def test_a_model_of_other_labels_than_the_shipped_ones_has_nothing_to_beat(space: Path) -> None:
    save(space / "models" / "intents", taxonomy=Taxonomy.inferred(["x", "y", "z"]))
    assert promote("models/intents").comparison is None


def test_settings_that_name_another_model_are_pointed_out(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    (space / "prerouter.toml").write_text('model = "models/small"\n')
    code, _, err = run(capsys, "promote", "models/good")
    assert code == 0
    assert "loaded instead of the champion" in err
    assert served() == id_of("small")


def test_a_champion_whose_folder_is_gone_is_an_error_and_not_another_model(space: Path) -> None:
    promote("models/good")
    (space / "models" / "good").rename(space / "gone")
    with pytest.raises(ModelFolderError):
        PreRouter.load()
    with pytest.raises(ConfigError, match="gone"):
        promote("models/small")


def test_labels_that_the_workspace_does_not_have_are_refused_even_by_force(space: Path) -> None:
    save(space / "models" / "intents", taxonomy=Taxonomy.inferred(["x", "y", "z"]))
    (space / "labels" / "mine.toml").write_text(MINE)
    (space / "prerouter.toml").write_text('taxonomy = "labels/mine.toml"\n')
    with pytest.raises(ConfigError, match="are not the model's"):
        promote("models/intents", force=True)


MINE = """
name = "mine"
ordered = false
default = "a"
labels = [
  { name = "a", definition = "d", distinction = "e", examples = ["1", "2", "3"] },
  { name = "b", definition = "d", distinction = "e", examples = ["1", "2", "3"] },
]
"""


def test_without_a_workspace_there_is_nothing_to_promote_in(tmp_path: Path) -> None:
    save(tmp_path / "model")
    for call in (lambda: promote(tmp_path / "model"), rollback):
        with pytest.raises(ConfigError, match="no workspace"):
            call()


def test_missing_rows_are_named(space: Path) -> None:
    promote("models/good")
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        promote("models/small", data="nowhere.jsonl")


def test_for_people(capsys: pytest.CaptureFixture[str], space: Path) -> None:
    cli.main(["promote", "models/small"])
    capsys.readouterr()
    assert cli.main(["promote", "models/good"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("promoted: its certificate is valid (tests); utility +0.333")
    assert "challenger" in out
    assert "66.7%" in out
    assert cli.main(["promote", "models/small"]) == 1
    assert capsys.readouterr().out.startswith("not promoted: it is worth less")


def test_settings_can_be_passed(tmp_path: Path) -> None:
    settings: Settings = workspace(tmp_path / "other")
    save(tmp_path / "other" / "models" / "good")
    assert promote(tmp_path / "other" / "models" / "good", settings=settings).promoted
    assert (tmp_path / "other" / "models" / "champion").is_symlink()
