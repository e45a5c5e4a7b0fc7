"""Write labels/examples.jsonl and labels/heldout.jsonl: python training/rebuild_labels.py DATA_DIR

From DATA_DIR/requests/authored.jsonl, the only labelled requests that may be passed on. heldout.jsonl holds the rows
that rebuild_default.py certifies on, examples.jsonl those it learns from, so that whatever is trained on the one can be
compared on the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from rows import labelled, read_file, read_rows, split

from prerouter.errors import PreRouterError
from prerouter.files import write_whole
from prerouter.taxonomy import Taxonomy

LABELS = Path(__file__).parent.parent / "labels"


def main() -> int:
    """Parse, split, write."""
    parser = argparse.ArgumentParser(description="Write labels/examples.jsonl and labels/heldout.jsonl.")
    parser.add_argument("data", type=Path, metavar="DATA_DIR", help="the folder that holds requests/*.jsonl")
    options = parser.parse_args()
    try:
        authored = read_file(options.data / "requests" / "authored.jsonl")
        rows = read_rows(labelled(options.data), Taxonomy.load())
    except PreRouterError as error:
        print(f"rebuild_labels: error: {error}", file=sys.stderr)
        return error.exit_code
    part = {i: name for name, at in split(rows).items() for i in at.tolist()}
    at = np.flatnonzero(rows.file == "authored.jsonl").tolist()
    for name, wanted in (("examples", ("fit", "calibrate")), ("heldout", ("certify",))):
        chosen = [row for i, row in zip(at, authored, strict=True) if part.get(i) in wanted]
        lines = (json.dumps({k: v for k, v in row.items() if v is not None}, ensure_ascii=False) for row in chosen)
        write_whole(LABELS / f"{name}.jsonl", "".join(f"{line}\n" for line in lines).encode())
        print(f"{name}.jsonl: {len(chosen)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
