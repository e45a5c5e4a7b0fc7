"""labels/label_history.py, the journey that the documentation points to, against the fake Claude."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fake_claude import FakeClaude
from label_help import read, rows_file

SCRIPT = Path(__file__).parent.parent / "labels" / "label_history.py"


def test_the_journey(claude: FakeClaude, tmp_path: Path) -> None:
    asked = [f"{['What is', 'Explain', 'Prove'][i % 3]} theorem {i}?" for i in range(30)]
    history = rows_file(tmp_path / "history.jsonl", asked)
    right = ["simple", "moderate", "complex"]
    gold = [{"text": text, "label": right[i % 3]} for i, text in enumerate(asked[:20])]
    good = rows_file(tmp_path / "gold.jsonl", gold)
    bad = rows_file(tmp_path / "bad.jsonl", [row | {"label": "simple"} for row in gold])
    env = os.environ | {"ANTHROPIC_API_KEY": claude.valid_key, "ANTHROPIC_BASE_URL": claude.url}
    out = tmp_path / "labels"
    out.mkdir()
    command = [sys.executable, SCRIPT, history, out, "--certify", "10", "--poll-seconds", "0.1", "--gold"]
    done = subprocess.run([*command, good], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["label"] for row in read(out / "history.jsonl")] == right * 10
    assert {sum(row["votes"].values()) for row in read(out / "certify.jsonl")} == {3}
    assert "20 of 20 rows agree" in " ".join(done.stdout.split())
    assert "next: prerouter train" in done.stdout

    n = len(claude.calls()) + len(claude.batches.paid)
    done = subprocess.run([*command, bad], env=env, capture_output=True, text=True)
    assert (done.returncode, len(claude.calls()) + len(claude.batches.paid)) == (1, n)
    assert "too far from the gold ones" in done.stderr


def test_it_is_short() -> None:
    assert len(SCRIPT.read_text("utf-8").splitlines()) < 60
