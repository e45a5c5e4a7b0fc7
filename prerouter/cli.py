"""The command line: parse, call one function, print. Results on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from prerouter.errors import ConfigError, PreRouterError
from prerouter.flags import Parser, command, lazy, positive
from prerouter.flags_batch import COMMANDS as BATCH
from prerouter.flags_evaluate import COMMANDS as EVALUATE
from prerouter.flags_label import COMMANDS as LABEL
from prerouter.flags_learn import COMMANDS as LEARN
from prerouter.flags_monitor import COMMANDS as MONITOR
from prerouter.flags_report import COMMANDS as REPORT
from prerouter.flags_review import COMMANDS as REVIEW
from prerouter.flags_send import COMMANDS as SEND


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (CONTRACT: 0 done, 1 a check said no, 2 usage, 3 refused, 130 Ctrl-C)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    _open_streams()
    try:
        options = _parser().parse_args(arguments)
        if options.workspace:
            os.environ["PREROUTER_WORKSPACE"] = options.workspace
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except PreRouterError as error:
        return _report(error, as_json)
    except KeyboardInterrupt:
        print("prerouter: interrupted; the work so far is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        _drop_output()
        return 0
    except OSError as error:
        return _report(_os_error(error), as_json)
    except Exception as error:
        return _report(_unforeseen(error), as_json)


def _os_error(error: OSError) -> ConfigError:
    where = str(error.filename) if error.filename else "writing the output"
    return ConfigError(error.strerror or str(error), where=where, next_step="check the path and the space left")


def _unforeseen(error: Exception) -> PreRouterError:
    """A mistake of ours, in one line: a traceback would bury what a script's log needs to show."""
    import traceback

    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(last.filename)}, line {last.lineno}"
    return PreRouterError(f"unforeseen {type(error).__name__}: {error}", where=where, next_step="please report this")


def _report(error: PreRouterError, as_json: bool) -> int:
    message = " ".join(str(error).split())  # one line, whatever an upstream message holds
    print(f"prerouter: error: {message}", file=sys.stderr)
    try:
        if as_json:
            print(json.dumps({"error": error.to_json()}, ensure_ascii=False))
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return error.exit_code


def _open_streams() -> None:
    """UTF-8 on all three streams, also where the locale says otherwise; closed ones (`>&-`) become the null device."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Half a surrogate pair, from argv or JSON, becomes its JSON escape: output must not die of it.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace")


def _drop_output() -> None:
    """Keep Python from complaining at exit about a standard output that takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    shared = Parser(add_help=False)
    shared.add_argument("--workspace", metavar="DIR", default=argparse.SUPPRESS, help="default: the nearest parent")
    parser = Parser(prog="prerouter", description="Route Claude requests to the cheapest tier that will do.")
    parser.add_argument("--workspace", metavar="DIR", default=None, help="default: the nearest parent that is one")
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for add in (
        _route,
        *SEND,
        *BATCH,
        *LABEL,
        *REVIEW,
        *LEARN,
        *EVALUATE,
        *MONITOR,
        *REPORT,
        _log,
        _init,
        _doctor,
        _demo,
    ):
        add(commands, shared)
    return parser


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(version("prerouter"))
        parser.exit()


def _route(commands: Any, shared: Parser) -> None:
    example = """  prerouter route "Is this review positive? 'Loved it.'"
  prerouter route --local-only --explain "Prove that the protocol is linearizable."
  prerouter route --input requests.jsonl --output decisions.jsonl --tag team=search"""
    parser = command(commands, shared, "route", "Decide which tier a request needs; send nothing else.", example)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="a request, or a Messages body as JSON; - reads stdin")
    parser.add_argument("--input", metavar="FILE", help="JSONL with `text` or `messages` on each line; - is stdin")
    parser.add_argument("--output", metavar="FILE", help="JSONL, one Decision per line of the input; - is stdout")
    parser.add_argument("--json", action="store_true", help="print the Decision as JSON")
    parser.add_argument("--model", metavar="DIR", help="model folder (default: models/champion, else the shipped one)")
    parser.add_argument("--local-only", action="store_true", help="never call Claude")
    parser.add_argument("--explain", action="store_true", help="say why (one request)")
    parser.add_argument("--min-tier", metavar="T", help="never below this tier")
    parser.add_argument("--max-tier", metavar="T", help="never above this tier")
    parser.add_argument("--priority", choices=("quality", "speed", "cost"), help="default: cost")
    parser.add_argument("--skip-bad", action="store_true", help="report broken lines in the output and go on; exit 1")
    parser.add_argument("--tag", metavar="K=V", action="append", default=[], help="for rules and the log; repeatable")
    parser.set_defaults(run=lazy("prerouter.routing", "run_route"))


def _log(commands: Any, shared: Parser) -> None:
    example = """  prerouter log stats --json
  prerouter log tail -n 20 -f
  prerouter log export - | jq .decided_by"""
    about = "Look at the routing log: path, tail, export, prune, stats."
    parser = command(commands, shared, "log", about, example)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=Parser)
    run = lazy("prerouter.logview", "run_log")
    for name, about in _LOG_VERBS.items():
        verb = verbs.add_parser(name, parents=[shared], help=about, description=about)
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.set_defaults(run=run, verb=name)
        if name == "tail":
            verb.add_argument("-n", type=positive, default=10, metavar="N", help="rows (default 10)")
            verb.add_argument("-f", "--follow", action="store_true", help="go on printing new rows")
        if name == "export":
            verb.add_argument("file", metavar="FILE", help="JSONL; - is stdout")
        if name == "prune":
            verb.add_argument("--older-than", metavar="AGE", help="such as 30d, 12h, 90m")
            verb.add_argument("--tag", metavar="K=V", help="rows with this tag")


_LOG_VERBS = {
    "path": "print where the log is",
    "tail": "print the newest rows",
    "export": "write all rows as JSONL",
    "prune": "delete rows by age, tag or both",
    "stats": "rows, drops, size, who decided",
}


def _init(commands: Any, shared: Parser) -> None:
    parser = command(
        commands, shared, "init", "Make a workspace: settings, labels, models.", "  prerouter init routing"
    )
    parser.add_argument("dir", nargs="?", default=".", metavar="DIR", help="default: this folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.workspace", "run_init"))


def _doctor(commands: Any, shared: Parser) -> None:
    about = "Check model, settings, prices, key and log; exit 1 when one of them is a problem."
    parser = command(commands, shared, "doctor", about, "  prerouter doctor --json")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--model", metavar="DIR", help="model folder to check")
    parser.add_argument("--taxonomy", metavar="DIR", help="check this taxonomy folder instead")
    parser.set_defaults(run=lazy("prerouter.doctor", "run_doctor"))


def _demo(commands: Any, shared: Parser) -> None:
    about = "See requests routed, without a key, in a temporary workspace."
    parser = command(commands, shared, "demo", about, "  prerouter demo")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=lazy("prerouter.demo", "run_demo"))


if __name__ == "__main__":
    sys.exit(main())
