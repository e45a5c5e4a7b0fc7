"""`prerouter review`: a person looks at labelled rows, one page, a key each; the corrections become the audited set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from prerouter.errors import ConfigError
from prerouter.files import expanded
from prerouter.human import QUEUE
from prerouter.labelreport import taxonomy_named
from prerouter.reviewlog import reviewable
from prerouter.reviewserver import ReviewServer, result
from prerouter.reviewset import Choice, Review
from prerouter.settings import load_settings
from prerouter.taxonomy import Taxonomy


def run_review(options: argparse.Namespace) -> int:
    """Exit code of `prerouter review`: 0 when it was finished in the page; Ctrl-C keeps what was answered."""
    named = sum((bool(options.file), options.log, options.queue))
    if named != 1 or (options.log and options.output):
        raise ConfigError("name a file, --log or --queue", where="review", next_step="prerouter review --help")
    taxonomy = taxonomy_named(options.taxonomy)
    if options.log:
        with reviewable(load_settings(), taxonomy) as (file, output):
            return _reviewed(file, output, taxonomy, options)
    file = _file(options)
    output = expanded(options.output) if options.output else file.with_name(f"{file.stem}.reviewed.jsonl")
    if output.resolve() == file.resolve():
        raise ConfigError("the output would overwrite what is read", where=str(file), next_step="name another file")
    return _reviewed(file, output, taxonomy, options)


def _reviewed(file: Path, output: Path, taxonomy: Taxonomy, options: argparse.Namespace) -> int:
    choice = Choice(options.sample, options.doubtful, options.seed, options.queue)
    with Review(file, output, taxonomy, choice) as review:
        try:
            with _server(review, file.name, options.port) as server:
                _invite(server.url, options.open)
                server.serve_forever(poll_interval=0.1)
        finally:
            _told(review, None if options.log else output, options.json)
    return 0


def _file(options: argparse.Namespace) -> Path:
    """The rows to look at: a file, or the queue of requests that were handed to people."""
    if options.file == "-":
        raise ConfigError("a review needs a file", where="review", next_step="save the rows and name the file")
    file = load_settings().state_dir / QUEUE if options.queue else expanded(options.file)
    if options.queue and not file.exists():
        step = 'rules and routes with handoff = "queue" fill it'
        raise ConfigError("the queue is empty", where=str(file), next_step=step)
    return file


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


def _told(review: Review, output: Path | None, as_json: bool) -> None:
    """output: None where the labels go to the log."""
    standing = review.standing()
    if as_json:
        print(json.dumps(standing.to_json() | {"file": str(output) if output else None}, ensure_ascii=False))
    kept = f" They are in {output or 'the log'}." if standing.done + standing.others else ""
    print(f"prerouter: {result(standing)}{kept}", file=sys.stderr)
