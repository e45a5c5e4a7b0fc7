"""`prerouter init`: a workspace, made of the same folders that prerouter's own repository has."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from prerouter.files import expanded, shipped, write_whole

SETTINGS = """\
# prerouter settings. Every key has an environment variable: PREROUTER_CLASSIFIER__DEADLINE_S and so on.
taxonomy = "labels/complexity.toml"

[router]
priority = "cost"          # cost | quality (stricter gate, ties go up) | speed (never ask)
on_failure = "default"     # default | top_tier: where a request goes when Claude could not be asked

[classifier]
model = "claude-haiku-5-5"
fall_through = "wait"      # wait | async | off
deadline_s = 3.0

[audit]
rate = 0.05                # share of logged requests that the classifier labels afterwards, off the request path
usd_per_hour = 1.0         # what that may cost at most; ask = false: nobody is asked

[log]
text = false               # true keeps the text of requests; retraining does not need it

# [[rules]]
# name = "customer-facing"
# tags = { audience = "customer" }
# min_tier = "sonnet"
"""
IGNORED = ".prerouter/\n"


def run_init(options: argparse.Namespace) -> int:
    """Exit code of `prerouter init`. Files that exist are left as they are."""
    folder = expanded(options.dir).resolve()
    files = {
        "prerouter.toml": SETTINGS.encode(),
        "labels/complexity.toml": shipped("labels/complexity.toml").read_bytes(),
        "training/default.toml": shipped("training/default.toml").read_bytes(),
        "models/.gitkeep": b"",
        ".gitignore": IGNORED.encode(),
    }
    made = [name for name, data in files.items() if _write_new(folder / name, data)]
    if options.json:
        print(json.dumps({"workspace": str(folder), "made": made}, ensure_ascii=False))
    else:
        print(folder)
    kept = sorted(set(files) - set(made))
    print(f"prerouter: made {', '.join(made) or 'nothing'}{_kept(kept)}; next: prerouter doctor", file=sys.stderr)
    return 0


def _write_new(path: Path, data: bytes) -> bool:
    if path.exists():
        return False
    write_whole(path, data)
    return True


def _kept(names: list[str]) -> str:
    return f"; kept {', '.join(names)}" if names else ""
