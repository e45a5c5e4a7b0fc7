"""What the README says, runs: its Python blocks in order, its commands, and the tree it prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fake_claude import FakeClaude

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.S)
TREE = re.search(r"```text\n(prerouter/.*?)```", README, re.S)


@pytest.fixture
def environ(claude: FakeClaude, tmp_path: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "PATH": path}
    return home | {"ANTHROPIC_API_KEY": "test-key", "ANTHROPIC_BASE_URL": claude.url}


def _run(command: list[str], environ: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_blocks_run_in_order(environ: dict[str, str], tmp_path: Path) -> None:
    assert len(PYTHON) >= 3
    _run([sys.executable, "-W", "error", "-c", "\n".join(PYTHON)], environ, tmp_path)


def test_an_assistant_with_four_routes_takes_less_than_40_lines() -> None:
    (block,) = [block for block in PYTHON if '"taxonomy.toml"' in block]
    assert len([line for line in block.splitlines() if line.strip()]) < 40


def test_the_commands_run_in_order(environ: dict[str, str], tmp_path: Path) -> None:
    commands = [line[2:] for block in CONSOLE for line in block.splitlines() if line.startswith("$ prerouter")]
    assert len(commands) >= 5
    (tmp_path / "requests.jsonl").write_text('{"text": "What is 2 + 2?"}\n{"text": "Prove Fermat\'s last theorem."}\n')
    (tmp_path / "history.jsonl").write_text('{"text": "What is 3 + 3?"}\n{"text": "Write a poem about rain."}\n')
    for name in ("examples.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_bytes((ROOT / "labels" / name).read_bytes())
    for command in commands:
        _run(["bash", "-euo", "pipefail", "-c", command], environ, tmp_path)


def test_every_command_of_the_program_is_in_the_readme(environ: dict[str, str], tmp_path: Path) -> None:
    shown = _run(["prerouter", "--help"], environ, tmp_path)
    commands = re.findall(r"^    (\w+) +\S", shown, re.M)
    assert len(commands) >= 5
    assert [name for name in commands if f"prerouter {name}" not in README] == []


def test_the_tree_lists_every_tracked_file_of_code_and_material() -> None:
    assert TREE
    shown = {line.split()[0].rstrip("/") for line in TREE[1].splitlines() if line.strip()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    modules = {Path(name).name for name in listed if re.fullmatch(r"prerouter/\w+\.(py|toml|jsonl)", name)}
    material = {Path(name).name for name in listed if re.fullmatch(r"(labels|training)/[\w.]+", name)}
    assert (modules | material) - shown == set()


def test_the_test_line_is_what_ci_runs() -> None:
    assert "python -m pytest -n 4$" in (ROOT / ".ci" / "run").read_text()
    (line,) = [line for line in README.splitlines() if line.endswith("python -m pytest -n 4")]
    assert shlex.split(line)
    assert line.index("torch==2.13.0") < line.index("[dev]")
