"""What every command's flags are made of. Imported by `--help`, so it and the rooms on top of it stay light."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn, TypeVar

from prerouter.errors import ConfigError

T = TypeVar("T", int, float)


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message, where=self.prog, next_step=f"{self.prog} --help")


def command(commands: Any, shared: Parser, name: str, about: str, example: str) -> argparse.ArgumentParser:
    """A subparser of `commands` with the flags of `shared`; `example` is printed as it stands below `--help`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        parents=[shared],
        help=about,
        description=about,
        epilog=f"examples:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def lazy(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """The command's function, imported when it is run: `--help` stays fast."""

    def run(options: argparse.Namespace) -> int:
        code: int = getattr(import_module(module), name)(options)
        return code

    return run


def number(kind: Callable[[str], T], fits: Callable[[T], bool], right: str) -> Callable[[str], T]:
    """The type of a flag that takes a number: any other value "is not RIGHT"."""

    def read(value: str) -> T:
        with suppress(ValueError):
            if fits(found := kind(value)):
                return found
        raise argparse.ArgumentTypeError(f"{value} is not {right}")

    return read


SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def age(value: str) -> float:
    """The type of a flag that takes an age, such as 30d, 12h or 90m: its seconds."""
    digits, unit = value[:-1], value[-1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9 and unit in SECONDS):
        raise argparse.ArgumentTypeError(f"{value!r} is not an age, such as 30d, 12h or 90m")
    return float(int(digits) * SECONDS[unit])


positive = number(int, lambda n: 1 <= n <= 10**9, "a whole number from 1 to 1,000,000,000")
share = number(float, lambda x: 0 < x < 1, "a number between 0 and 1")
dollars = number(float, lambda usd: 0 < usd < 1e9, "an amount of US dollars above 0")
few = number(int, lambda n: 1 <= n <= 100, "a whole number from 1 to 100")
