"""What the tests of labelling share: input files, the command in a process of its own, and what came out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fake_claude import FakeClaude


def rows_file(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """A JSONL file; a string stands for a row with that text and the ids r0, r1, ..."""
    full = [{"id": f"r{i}", "text": row} if isinstance(row, str) else row for i, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in full), "utf-8")
    return path


def texts(n: int) -> list[str]:
    """Requests that are all different."""
    return [f"Summarise ticket {i} and list who promised what." for i in range(n)]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; [] when it is not there."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def errors(output: Path) -> list[dict[str, Any]]:
    """The rows without an answer."""
    return read(output.with_name(output.name + ".errors.jsonl"))


def asked_texts(claude: FakeClaude) -> list[str]:
    """What the calls were about, one entry per call."""
    return [request_of(call.body["messages"][0]["content"]) for call in claude.calls()]


def request_of(content: str) -> str:
    """The request between the markers of a user turn."""
    return content.split("<request ")[1].split(">\n", 1)[1].rsplit("\n</request", 1)[0]


def start(claude: FakeClaude, *args: object) -> subprocess.Popen[str]:
    """`prerouter label` in a process of its own, asking `claude`."""
    env = os.environ | {"ANTHROPIC_API_KEY": claude.valid_key, "ANTHROPIC_BASE_URL": claude.url}
    command = [sys.executable, "-m", "prerouter", "label", *map(str, args)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err
