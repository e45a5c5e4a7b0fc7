"""`prerouter retrain`: from the log to the next champion, without texts; what it refuses; killed at any moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import retrain_help
from model_help import rows as base_rows
from model_help import save
from test_local import CERTIFICATE, WORDS

from prerouter import PreRouter, cli, retrain
from prerouter.errors import ConfigError, DataError
from prerouter.local import LocalClassifier
from prerouter.promote import promote, rollback
from prerouter.retraining import PREFIX, Retrained
from prerouter.routelog import RouteLog, RowLabel
from prerouter.runrecord import run_record
from prerouter.settings import Settings, load_settings

MIXED = {"easy": 0.5, "hard": 0.3, "medium": 0.2}
TODAY = 1_790_000_000.0  # UTC seconds
DAY = 86_400.0
LOOSE = replace(CERTIFICATE, max_under=0.1, max_disagreement=0.15)


def champion(settings: Settings) -> str:
    assert settings.workspace
    return os.readlink(settings.workspace / "models" / "champion")


def again(settings: Settings, **options: object) -> Retrained:
    return retrain(settings=settings, track=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "ws"
    retrain_help.serve(retrain_help.space(folder), retrain_help.requests(1600, MIXED))
    return folder


@pytest.fixture
def space(template: Path, tmp_path: Path) -> Settings:
    """A champion that only knows `easy`, and 1,600 requests of which half are others."""
    return load_settings(shutil.copytree(template, tmp_path / "ws", symlinks=True))


def test_what_fell_through_is_learnt_and_the_challenger_takes_over(space: Settings) -> None:
    found = again(space)
    assert (found.promoted, found.refused, champion(space)) == (True, False, found.folder.name if found.folder else "")
    assert found.comparison is not None
    assert found.comparison.champion.coverage < 0.6
    assert found.comparison.challenger.coverage > 0.85
    shown = found.model.certificate if found.model else None
    assert shown is not None
    assert (shown.valid, shown.scope, shown.labelled_by) == (True, "ws", "claude-haiku-5-5")
    assert (shown.max_under, shown.max_disagreement) == (0.02, 0.05)  # the champion's contract
    after = retrain_help.serve(space, retrain_help.requests(400, MIXED, seed=1))
    assert after > 330


def test_no_text_is_in_the_log_or_the_folder(space: Settings) -> None:
    found = again(space)
    assert found.folder is not None
    text = retrain_help.requests(1, MIXED)[0][0].encode()
    files = [*space.state_dir.rglob("*"), *found.folder.rglob("*")]
    assert [str(path) for path in files if path.is_file() and text in path.read_bytes()] == []


def test_the_record_names_parent_and_rows(space: Settings) -> None:
    found = again(space)
    assert found.folder is not None
    training = LocalClassifier.load(found.folder).model.training
    with RouteLog.open(settings=space) as log:
        numbers = [row.seq for row in log.rows(lessons=True)]
    assert (training["log"]["first_seq"], training["log"]["last_seq"]) == (min(numbers), max(numbers))
    assert training["parent"] == LocalClassifier.load(found.folder.parent / "first").model_folder_id
    assert training["kept_from"] == [training["parent"]]
    assert training["log"]["origins"] == found.rows
    assert sum(training["rows"].values()) <= sum(found.rows.values())
    logged = run_record(found.model).params if found.model else {}  # what MLflow gets
    assert (logged["parent"], logged["log.first_seq"]) == (training["parent"], str(min(numbers)))
    assert logged["log.last_seq"] == str(max(numbers))
    assert "of the routing log" in (found.folder / "README.md").read_text()


def test_a_quarter_whose_mixture_shifts_twice(tmp_path: Path) -> None:
    """The small version of training/benchmarks/quarter.py: 3 % of the labels are wrong, whoever decides."""
    settings = retrain_help.space(tmp_path / "ws", certificate=LOOSE)
    errors, coverage = [], []
    for month, mixture in enumerate(({"easy": 1.0}, {"easy": 0.6, "hard": 0.4}, MIXED)):
        for half in range(2):
            traffic = retrain_help.requests(1000, mixture, seed=2 * month + half, noise=0.03)
            at = TODAY + (month + half / 2) * 30 * DAY
            coverage.append(retrain_help.serve(settings, traffic, at=at, step_s=DAY / 170) / len(traffic))
            errors.append(_audit_error(settings, at, traffic))
            if month and not half:
                assert again(settings, clock=lambda now=at + 15 * DAY: now).promoted
    assert coverage[3] - coverage[2] >= 0.10
    assert coverage[5] - coverage[4] >= 0.10
    assert abs(sum(errors) / len(errors) ** 0.5) <= 2


def _audit_error(settings: Settings, at: float, traffic: list[tuple[str, str]]) -> float:
    """How far the audits' estimate of the disagreement is from the truth, in standard errors."""
    with RouteLog.open(settings=settings) as log:
        rows = list(log.rows(since=at))
    decided = [
        (row, row.decision.label != label)
        for row, (_, label) in zip(rows, traffic, strict=True)
        if row.decision.decided_by == "local"
    ]
    true = sum(wrong for _, wrong in decided) / len(decided)
    heads = [row.audited.label != row.decision.label for row, _ in decided if row.audited]
    se = (true * (1 - true) / len(heads) * (1 - len(heads) / len(decided))) ** 0.5
    return (sum(heads) / len(heads) - true) / se if se else 0.0


def test_nothing_new_is_said_and_nothing_done(space: Settings) -> None:
    first = again(space)
    second = again(space)
    assert (second.challenger, second.promoted, second.refused) == (None, False, False)
    assert second.why.startswith("nothing new: 0 labelled rows in the log since ")
    assert first.why in second.why
    retrain_help.serve(space, retrain_help.requests(60, MIXED, seed=2))
    third = again(space)
    assert "nothing new" in third.why or "too few to compare on" in third.why


def test_a_new_base_file_is_something_new(space: Settings) -> None:
    again(space)
    assert space.workspace
    base_rows(space.workspace / "labels" / "examples.jsonl")
    found = again(space)
    assert found.rows["base"] == 120


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(space: Settings) -> None:
    before = sorted(map(str, space.workspace.rglob("*"))) if space.workspace else []
    found = again(space, dry_run=True)
    assert (found.promoted, found.challenger, found.folder) == (False, None, None)
    assert found.why.startswith("would be promoted: ")
    kept = (
        {path for path in map(str, space.workspace.rglob("*")) if "embeddings" not in path}
        if space.workspace
        else set()
    )
    assert kept - set(before) <= {str(space.state_dir / "retrain.lock")}
    assert again(space).promoted


def test_a_log_with_too_little_in_it_makes_no_challenger(tmp_path: Path) -> None:
    settings = retrain_help.space(tmp_path / "ws")
    assert again(settings).why == "nothing new: 0 labelled rows in the log; 50 are waited for"
    retrain_help.serve(settings, retrain_help.requests(90, MIXED))
    found = again(settings)
    assert found.why.startswith("too few to compare on: ")
    assert (found.challenger, found.refused, champion(settings)) == (None, False, "first")


def test_without_enough_audits_the_gate_stays_closed_and_the_champion_stays(tmp_path: Path) -> None:
    settings = retrain_help.space(tmp_path / "ws")
    retrain_help.serve(settings, retrain_help.requests(300, MIXED))
    found = again(settings)
    assert (found.promoted, found.refused, champion(settings)) == (False, True, "first")
    assert "its certificate is not valid; about " in found.why


def test_a_worse_challenger_is_refused(tmp_path: Path) -> None:
    """The labels changed their meaning in what was logged last, and the champion knows what is right today."""
    settings = retrain_help.space(tmp_path / "ws", sees="easy hard medium")
    turned = {"simple": "complex", "complex": "simple", "moderate": "moderate"}
    old = [(text, turned[label]) for text, label in retrain_help.requests(1200, MIXED)]
    retrain_help.serve(settings, old, at=TODAY - 9 * DAY)
    retrain_help.serve(settings, retrain_help.requests(400, MIXED, seed=1), at=TODAY - DAY)
    found = again(settings, clock=lambda: TODAY)
    assert (found.promoted, champion(settings)) == (False, "first")


def test_only_what_is_since_then_is_learnt_from(space: Settings) -> None:
    retrain_help.serve(space, retrain_help.requests(700, {"easy": 1.0}, seed=3), at=time.time() - 90 * DAY)
    with RouteLog.open(settings=space) as log:
        every = sum(1 for row in log.rows(lessons=True))
    assert sum(again(space).rows.values()) < every
    assert sum(again(space, since_s=365 * DAY, dry_run=True).rows.values()) == every


def test_audits_of_another_labeller_certify_nothing(space: Settings) -> None:
    changed = load_settings(space.workspace, flags={"classifier": {"model": "claude-sonnet-5-5"}})
    found = again(changed)
    assert found.rows["audit"] == 0
    assert found.left["another labeller"] > 350
    assert found.challenger is None


def test_people_are_believed_more_and_rejections_go_one_stronger(tmp_path: Path) -> None:
    settings = retrain_help.space(tmp_path / "ws")
    retrain_help.serve(settings, retrain_help.requests(1600, MIXED))
    with RouteLog.open(settings=settings) as log:
        plain = [row for row in log.rows() if not row.decision.audit and row.decision.decided_by == "local"][:3]
        log.add_label(plain[0].seq, RowLabel("moderate", "feedback"))
        log.add_label(plain[0].seq, RowLabel("complex", "review", labelled_by="human"))
        log.add_label(plain[1].seq, RowLabel(None, "rejection", outcome="rejected"))
        log.add_label(plain[2].seq, RowLabel(None, "feedback", score=1.0))
        log.flush()
    found = again(settings)
    assert (found.rows["review"], found.rows["rejection"], found.rows.get("feedback", 0)) == (1, 1, 0)


def test_a_second_stage_is_kept_as_it_is(tmp_path: Path) -> None:
    from test_local import make_model, make_stage, write_encoder

    from prerouter import modelfolder

    settings = retrain_help.space(tmp_path / "ws")
    folder = tmp_path / "ws" / "models"
    stages = [make_stage(write_encoder(tmp_path / sees), sees=sees) for sees in ("easy", "medium")]
    modelfolder.save(folder / "two", make_model(*stages, certificate=LOOSE), "# card\n")
    promote(folder / "two", force=True, settings=settings)
    retrain_help.serve(settings, retrain_help.requests(1600, MIXED))
    found = again(settings)
    assert found.promoted
    assert found.model is not None
    old, new = (LocalClassifier.load(path).model.stages[1] for path in (folder / "two", folder / "champion"))
    assert (old.head.weights == new.head.weights).all()
    assert (old.temperature, old.guard.limit, old.fingerprint) == (new.temperature, new.guard.limit, new.fingerprint)
    assert new.gate.threshold == found.model.stages[0].gate.threshold != old.gate.threshold


def test_stored_features_teach_as_much_as_stored_texts(tmp_path: Path) -> None:
    """One log, three times: with its texts, without them, and with texts that have to be encoded anew."""
    filler = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in ("lm", "nt", "rs", "st")]
    folder, words = tmp_path / "texts", (*WORDS, *filler)
    settings = retrain_help.space(folder, text="[log]\ntext = true\n", certificate=LOOSE, words=words)
    retrain_help.serve(settings, retrain_help.requests(1600, MIXED, filler=filler, noise=0.02))
    changes = {"features": "UPDATE rows SET text = NULL", "encoded": "UPDATE features SET fingerprint = 'another'"}
    for name, change in changes.items():
        _changed(load_settings(shutil.copytree(folder, tmp_path / name, symlinks=True)), change)
    asked, coverage, right = retrain_help.requests(1000, MIXED, seed=7, filler=filler), [], []
    for name in ("texts", "features", "encoded"):
        found = again(load_settings(tmp_path / name))
        assert found.promoted, found.why
        with PreRouter.load(settings=load_settings(tmp_path / name)) as router:
            made = router.decide_many([text for text, _ in asked])
        local = [one.decided_by == "local" for one in made]
        coverage.append(sum(local))
        right.append(sum(one.label == label for one, (_, label), by in zip(made, asked, local, strict=True) if by))
    assert min(coverage) > 850
    assert max(coverage) - min(coverage) <= 10  # a point of 1,000
    assert max(right) - min(right) <= 10


def test_equal_requests_certify_once_though_no_text_is_stored(tmp_path: Path) -> None:
    settings = retrain_help.space(tmp_path / "ws", certificate=LOOSE)
    retrain_help.serve(settings, 30 * retrain_help.requests(30, MIXED) + retrain_help.requests(300, MIXED, seed=1))
    found = again(settings)
    assert found.rows["audit"] > 500
    assert found.model is not None
    assert found.model.certificate.n_certify <= 30


def test_the_guard_learns_words_where_that_is_asked_for_and_every_text_is_there(tmp_path: Path) -> None:
    """Requests full of a word that no list has are taken for another language, until the guard learns it."""
    settings = retrain_help.space(tmp_path / "ws", text="[log]\ntext = true\n", certificate=LOOSE)
    strange = [(f"{text}{4 * ' xylophone'}", label) for text, label in retrain_help.requests(1200, {"easy": 1.0})]
    plain = retrain_help.requests(400, MIXED, seed=1)
    mixed = [request for i in range(400) for request in (*strange[3 * i : 3 * i + 3], plain[i])]
    assert retrain_help.serve(settings, mixed) < 300
    found = again(load_settings(tmp_path / "ws", flags={"retrain": {"learn_words": True}}))
    assert found.promoted
    assert found.model is not None
    assert "xylophone" in found.model.stages[0].guard.words
    assert found.model.training["kept_from"] == []  # what the log kept of older looks at the language holds no more
    assert retrain_help.serve(settings, strange[:200]) > 150


def test_rows_of_another_encoder_without_text_are_counted(space: Settings) -> None:
    _changed(space, "UPDATE features SET fingerprint = 'another' WHERE seq % 2")
    found = again(space)
    assert 350 < found.left["another model"] < 450
    assert found.left["no label or features"] > 150
    assert 350 < found.rows["audit"] < 450


def _changed(settings: Settings, statement: str) -> None:
    with RouteLog.open(settings=settings) as log:
        path = log.path
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


def test_old_challengers_are_deleted_but_neither_champion_nor_previous(space: Settings) -> None:
    assert space.workspace
    models = space.workspace / "models"
    for i in range(7):
        save(models / f"{PREFIX}{i}")
        os.utime(models / f"{PREFIX}{i}", (i, i))
    promote(models / f"{PREFIX}0", force=True, settings=space)
    promote(models / "first", force=True, settings=space)
    assert again(space).challenger
    left = sorted(path.name for path in models.glob(f"{PREFIX}?"))
    assert left == [f"{PREFIX}{i}" for i in (3, 4, 5, 6)]
    assert champion(space).startswith(PREFIX)
    assert rollback(settings=space).promoted


def test_two_at_once_are_refused(space: Settings) -> None:
    fcntl = pytest.importorskip("fcntl")
    space.state_dir.mkdir(exist_ok=True)
    with (space.state_dir / "retrain.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another retraining is running"):
            again(space)


def test_what_is_broken_is_named(space: Settings, tmp_path: Path) -> None:
    assert space.workspace
    (space.workspace / "labels").mkdir()
    (space.workspace / "labels" / "bad.jsonl").write_text('{"text": "a", "label": "huge"}\n')
    with pytest.raises(DataError, match=r"'huge' is not a label .*bad\.jsonl, line 1"):
        again(space)
    with pytest.raises(ConfigError, match="no workspace to retrain in"):
        retrain(settings=Settings())


@pytest.mark.parametrize("seconds", [0.6, 1.2, 2.0])
def test_killed_at_any_moment_the_champion_serves_and_the_next_call_finishes(space: Settings, seconds: float) -> None:
    assert space.workspace
    command = [sys.executable, "-m", "prerouter", "retrain", "--no-track", "--workspace", str(space.workspace)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)  # wherever it is by then
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert LocalClassifier.load(space.workspace / "models" / "champion")
    again(space)
    assert champion(space).startswith(PREFIX)


def test_an_unfinished_calls_folder_is_used(space: Settings, tmp_path: Path) -> None:
    assert space.workspace
    made = again(space)
    promote(space.workspace / "models" / "first", force=True, settings=space)
    with RouteLog.open(settings=space) as log:
        log.set_state("retrain:last", None)  # as if it had been ended before the note
    before = made.folder.stat().st_ino if made.folder else 0
    found = again(space)
    assert (found.folder, found.promoted) == (made.folder, True)
    assert found.folder is not None
    assert found.folder.stat().st_ino == before


def test_the_command(space: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(space.workspace or "")
    assert cli.main(["retrain", "--no-track", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dry run: would be promoted: its certificate is valid (ws)")
    assert "coverage on " in out
    assert cli.main(["retrain", "--no-track", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"challenger", "rows", "promoted", "why"}
    assert (found["promoted"], found["rows"]["audit"] > 0) == (True, True)
    assert cli.main(["retrain", "--no-track"]) == 0
    assert "nothing new" in capsys.readouterr().out
    assert cli.main(["retrain", "--since", "soon"]) == 2
    assert "not an age" in capsys.readouterr().err


def test_a_refused_challenger_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = retrain_help.space(tmp_path / "ws")
    retrain_help.serve(settings, retrain_help.requests(300, MIXED))
    monkeypatch.chdir(tmp_path / "ws")
    assert cli.main(["retrain", "--no-track"]) == 1


def test_watching_goes_on_until_it_is_interrupted(space: Settings) -> None:
    assert space.workspace
    command = [sys.executable, "-m", "prerouter", "retrain", "--no-track", "--json", "--watch", "0.1"]
    with subprocess.Popen(
        [*command, "--workspace", str(space.workspace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        rounds = [json.loads(running.stdout.readline()) for _ in range(2)]
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    assert [found["promoted"] for found in rounds] == [True, False]
    assert "nothing new" in rounds[1]["why"]
