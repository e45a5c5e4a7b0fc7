"""What serving a request asks of the outside: calls, waits, the classifier, people. Carried out by `middleware`."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from prerouter.human import Case
from prerouter.reading import Reading, Way
from prerouter.routes import Human


class Ticket(Protocol):
    """One call on its way, in the hands of the sync or the async side."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class Start:
    """Begin a call. Answered by its Ticket. until: the end of the whole request, on the run's clock.

    guard: how the answer may give the request back, see `Reading`. whole: not streamed, whatever the caller asked.
    """

    body: dict[str, Any]
    until: float
    guard: tuple[Way, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until the response shows content (a stream) or is over; at `until` it is given up. Answered by None."""

    ticket: Ticket
    until: float


@dataclass(frozen=True, slots=True)
class Drop:
    """End a call that is not wanted any more. Answered by None."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds. Answered by None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Have the classifier decide, within so many seconds. Answered by None. classifier: another than the router's."""

    max_wait_s: float
    classifier: Any = None


@dataclass(frozen=True, slots=True)
class Complete:
    """Wait for what the classifier says after its label. Answered by None."""


@dataclass(frozen=True, slots=True)
class Hand:
    """Hand the request to a person. Answered by what the person's side said, a text or None."""

    how: Human
    case: Case


Effect = Start | Await | Drop | Pause | Ask | Complete | Hand
Work = Generator[Effect, Any, Ticket]
