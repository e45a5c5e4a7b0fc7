"""The error tree.

PreRouterError
├── ConfigError          a setting, flag, taxonomy or price table is wrong
├── InvalidRequest       not a legal Messages API body
├── DataError            a data file is wrong; carries file and line
├── ModelFolderError     a model folder is damaged, incomplete or of another version
├── MissingExtraError    an optional package is not installed
├── UpstreamError        Claude, MLflow or a database refused; carries cause and attempts
├── UnsupportedRequest   no allowed model accepts this request
├── RequestTooLarge      no allowed model has a context window large enough
└── BudgetExceeded       the call would cost more than it may
"""

from __future__ import annotations


class PreRouterError(Exception):
    """What was wrong, where, and the next step: `WHAT (WHERE); NEXT STEP`.

    `exit_code` is what the command line exits with when this error ends a command.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        super().__init__(what, where, next_step)
        self.what, self.where, self.next_step = what, where, next_step

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return self.what + where + (f"; {self.next_step}" if self.next_step else "")

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled as a call with their `args`, which keyword-only arguments cannot take.
        return _restored, (type(self), self.args, self.__dict__)

    def to_json(self) -> dict[str, str | None]:
        """The object under "error" that `--json` prints."""
        return {
            "type": type(self).__name__,
            "message": self.what,
            "where": self.where or None,
            "next": self.next_step or None,
        }


def _restored(kind: type[PreRouterError], args: tuple[str, ...], state: dict[str, object]) -> PreRouterError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ConfigError(PreRouterError):
    """A setting, flag, taxonomy or price table is wrong."""


class InvalidRequest(PreRouterError):
    """The request is not a string or a legal Messages API body."""


class DataError(PreRouterError):
    """A data file is wrong at `file`, `line` (1-based; 0 when the whole file is meant)."""

    def __init__(self, what: str, *, file: object = "", line: int = 0, next_step: str = "") -> None:
        where = f"{file}, line {line}" if line else str(file)
        super().__init__(what, where=where, next_step=next_step)
        self.file, self.line = str(file), line


class ModelFolderError(PreRouterError):
    """A model folder is damaged, incomplete, or made for another version."""


class MissingExtraError(PreRouterError):
    """An optional package is missing; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed", next_step=f"pip install 'prerouter[{extra}]'")


class UpstreamError(PreRouterError):
    """Claude, MLflow or a database refused; `cause` is the last exception, `attempts` how often it was tried."""

    exit_code = 3

    def __init__(
        self, what: str, *, where: str = "", next_step: str = "", cause: BaseException | None = None, attempts: int = 1
    ) -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.cause, self.attempts = cause, attempts


class UnsupportedRequest(PreRouterError):
    """No allowed model accepts this request."""


class RequestTooLarge(PreRouterError):
    """No allowed model has a context window large enough."""


class BudgetExceeded(PreRouterError):
    """The call would cost more than it may."""
