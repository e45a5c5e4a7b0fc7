"""The whole labelling journey: what it costs, rows to fit on and to certify on, how far the labels can be trusted.

    python labels/label_history.py history.jsonl labels --max-usd 20 --gold checked_by_people.jsonl

Interrupt it whenever you like: the same command goes on where it was, and nothing that was answered is asked again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prerouter import label
from prerouter.labelling import estimate
from prerouter.labelreport import compare, survey, taxonomy_named

parser = argparse.ArgumentParser(description="Label historical requests, to fit on and to certify on.")
parser.add_argument("history", help="JSONL or Parquet with `text` or `messages`, or a routing log that keeps texts")
parser.add_argument("folder", type=Path, help="where the labelled rows go")
parser.add_argument("--max-usd", type=float, default=20.0, help="for either file (default 20)")
parser.add_argument("--certify", type=int, default=2000, help="rows to certify on (default 2000)")
parser.add_argument("--gold", help="rows that people labelled: the labeller must agree with 80 %% of them")
parser.add_argument("--poll-seconds", type=float, default=None, help="between two looks at a batch")
options = parser.parse_args()
examples, certify = options.folder / "history.jsonl", options.folder / "certify.jsonl"

# 1. What will it cost? With a key the API counts the tokens of a few requests, which is free.
cost = estimate([options.history])
print(f"{cost.rows:,} rows: ${cost.usd_batch:.4f} in batches, ${cost.usd_live:.4f} live ({cost.method})")

# 2. Rows to certify on: a uniform sample, three votes each. No weights, no picking, no second labeller: a certificate
#    is about the traffic as it is and the labeller that audits it later.
label(options.history, certify, certify=True, sample=options.certify, max_usd=options.max_usd)

# 3. Rows to fit on: all of them, once each, at half the price. `prerouter train` leaves out what is certified on.
label(options.history, examples, batch=True, max_usd=options.max_usd, poll_seconds=options.poll_seconds)

# 4. What do the labels show? Routes that matter, routes that collapse into one, and how noisy the labeller is.
taxonomy = taxonomy_named(None)
for file in (certify, examples):
    print(f"\n{file}\n{survey(file, taxonomy).to_text()}")

# 5. Do people agree? Look at the doubtful ones yourself: prerouter review history.jsonl --doubtful
if options.gold:
    found = compare(examples, options.gold, taxonomy, target=0.8)
    print(f"\n{found.to_text()}")
    if not found.passed:
        raise SystemExit("the labels are too far from the gold ones: sharpen the definitions in the taxonomy first")
print(f"\nnext: prerouter train {examples} --certify-on {certify} -o models/mine")
