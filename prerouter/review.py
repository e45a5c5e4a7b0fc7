"""`prerouter review`: a person looks at labelled rows, one page, a key each; the corrections become the audited set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.labelreport import taxonomy_named
from prerouter.reviewserver import ReviewServer, result
from prerouter.reviewset import Choice, Review


def run_review(options: argparse.Namespace) -> int:
    """Exit code of `prerouter review`: 0 when it was finished in the page; Ctrl-C keeps what was answered."""
    if options.file == "-":
        raise ConfigError("a review needs a file", where="review", next_step="save the rows and name the file")
    file = expanded(options.file)
    output = expanded(options.output) if options.output else file.with_name(f"{file.stem}.reviewed.jsonl")
    if output.resolve() == file.resolve():
        raise ConfigError("the output would overwrite what is read", where=str(file), next_step="name another file")
    choice = Choice(options.sample, options.doubtful, options.seed)
    with Review(file, output, taxonomy_named(options.taxonomy), choice) as review:
        try:
            with _server(review, file.name, options.port) as server:
                _invite(server.url, options.open)
                server.serve_forever(poll_interval=0.1)
        finally:
            _told(review, output, options.json)
    return 0


def _server(review: Review, name: str, port: int) -> ReviewServer:
    try:
        return ReviewServer(review, name, port)
    except OSError as error:
        step = "name another --port, or leave it out"
        raise ConfigError(f"port {port} cannot be had: {error.strerror}", where="--port", next_step=step) from error


def _invite(url: str, open_it: bool) -> None:
    """Not opened unless asked for: other users of the machine can see the address among a new process's arguments."""
    print(f"prerouter: review at {url} (Ctrl-C or q in the page ends it)", file=sys.stderr, flush=True)
    if open_it:
        import webbrowser

        webbrowser.open(url)


def _told(review: Review, output: Path, as_json: bool) -> None:
    standing = review.standing()
    if as_json:
        print(json.dumps(standing.to_json() | {"file": str(output)}, ensure_ascii=False))
    kept = f" They are in {output}." if standing.done + standing.others else ""
    print(f"prerouter: {result(standing)}{kept}", file=sys.stderr)
