"""Asking MLflow, in a process of its own that has a time limit.

MLflow takes seconds and 220 MB to import, keeps its store in globals, prints, tries a server that is down for minutes,
and may run what it downloads. A process keeps all that out of the caller, and can be ended.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prerouter.errors import ConfigError, MissingExtraError, PreRouterError, UpstreamError
from prerouter.settings import Settings

QUIET_S = 2.0  # seconds after which a line says what is waited for
# Where the caller's environment does not say otherwise. One retry: the time limit is for work, not for waiting.
# Telemetry is off: nothing that runs here may send anything to anyone but the tracking server.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "PYTHONWARNINGS": "ignore",
}
_SECRET = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")  # names of environment variables
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def store(settings: Settings) -> str:
    """The tracking store's URI: MLFLOW_TRACKING_URI, else a SQLite file in the state folder. May hold a password."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_database(settings)}"


def is_there(settings: Settings) -> bool:
    """Whether there is a store to ask, without asking it: one was named, or the SQLite file exists."""
    named = os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("MLFLOW_REGISTRY_URI")
    return bool(named) or _database(settings).is_file()


def ask(job: str, settings: Settings, **arguments: Any) -> dict[str, Any]:
    """What the function `job` of `trackerjobs` answers, within `settings.track.timeout_s`.

    Raises ConfigError when MLflow knows no such model, MissingExtraError without MLflow, UpstreamError when it
    refused, failed, or took too long.
    """
    request = {"job": job, "store": store(settings), "arguments": arguments}
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        _database(settings).parent.mkdir(parents=True, exist_ok=True)
        request["artifacts"] = (_database(settings).parent.resolve() / "mlflow-artifacts").as_uri()
    answer = _answer(_run(json.dumps(request), settings.track.timeout_s))
    if "error" in answer:
        raise _error(answer["error"])
    found: dict[str, Any] = answer["found"]
    return found


def without_secrets(words: str) -> str:
    """`words` on one line, without the credentials that a URL or the environment put there."""
    words = _USERINFO.sub("***@", " ".join(words.split()))
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= 8:  # shorter ones would black out ordinary words
            words = words.replace(value, "***")
    return words


def _database(settings: Settings) -> Path:
    return settings.state_dir / "mlflow.db"


def _run(request: str, timeout_s: float) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the job."""
    # -P: a file called mlflow.py in the current folder is not what is meant.
    command = [sys.executable, "-P", "-m", "prerouter.trackerjobs"]
    pipe = subprocess.PIPE
    started = time.monotonic()
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(), encoding="utf-8") as child:
        try:
            try:
                out, err = child.communicate(request, timeout=min(QUIET_S, timeout_s))
            except subprocess.TimeoutExpired:
                print(f"prerouter: waiting for MLflow, at most {timeout_s:g} s", file=sys.stderr)
                out, err = child.communicate(timeout=max(0.0, timeout_s - (time.monotonic() - started)))
        except subprocess.TimeoutExpired as error:
            child.kill()
            raise _late(timeout_s) from error
        except BaseException:
            child.kill()
            raise
    return child.returncode, out, err


def _environment() -> dict[str, str]:
    # MLFLOW_RUN_ID is someone else's run, which ours must not write into.
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    here = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    return _ENVIRONMENT | kept | {"PYTHONPATH": path}


def _late(timeout_s: float) -> UpstreamError:
    step = "try again later, or raise track.timeout_s (PREROUTER_TRACK__TIMEOUT_S)"
    return UpstreamError(f"MLflow did not answer within {timeout_s:g} s", where=_where(), next_step=step)


def _answer(done: tuple[int, str, str]) -> dict[str, Any]:
    code, out, err = done
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        last = without_secrets(err.strip().rpartition("\n")[2])[:300]
        what = f"the MLflow process ended with {code}: {last or 'no message'}"
        raise UpstreamError(what, where=_where(), next_step="check that MLflow works: mlflow doctor") from None
    return answer


def _error(error: Mapping[str, str]) -> PreRouterError:
    what = without_secrets(error["what"])
    if error["kind"] == "missing":
        return MissingExtraError("mlflow", "track")
    if error["kind"] == "unknown":
        return ConfigError(what, where=_where(), next_step="check name, alias and MLFLOW_TRACKING_URI")
    step = "check MLFLOW_TRACKING_URI and the server"
    return UpstreamError(f"MLflow refused: {what}", where=_where(), next_step=step)


def _where() -> str:
    return without_secrets(os.environ.get("MLFLOW_TRACKING_URI") or "mlflow.db in the state folder")
