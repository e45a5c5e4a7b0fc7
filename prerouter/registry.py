"""Model folders from a registry: models:/NAME@ALIAS or models:/NAME/VERSION to a verified folder on this machine.

Data is downloaded and parsed; MLflow is never asked to load a model, which would run code from the registry.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from prerouter import modelfolder, tracker
from prerouter.errors import ConfigError, ModelFolderError, UpstreamError
from prerouter.files import write_whole
from prerouter.settings import Settings

SCHEME = "models:/"
ASK_S = 5.0  # seconds that a server has to say which version an alias means
SELDOM_S = 300.0  # seconds between two looks at a store that only MLflow itself, in seconds of CPU, can read
_SOURCE = re.compile(r"models:/([^/@\s]+)(?:@([\w-]+)|/(\d+))")


def fetch(source: str, settings: Settings, *, last_known: bool = True) -> Path:
    """The folder of a registered model, in the cache under the state folder, which knows folders by their id.

    last_known: when the registry cannot be asked, what `source` meant last time is used, with a warning in the log: a
    service must be able to start. Raises ConfigError for another form or an unknown model, ModelFolderError for a
    damaged download, UpstreamError, MissingExtraError.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        step = "write models:/NAME@ALIAS or models:/NAME/VERSION"
        raise ConfigError("no such kind of model source", where=source, next_step=step)
    if not tracker.is_there(settings):
        step = "set MLFLOW_TRACKING_URI, or log a model folder first: prerouter track DIR"
        raise ConfigError("there is no registry", where=source, next_step=step)
    try:
        try:
            folder = _fetched(match.groups(), settings)
        except ModelFolderError:
            # What the cache had may have been damaged there, and is gone now; what was just downloaded stays refused.
            folder = _fetched(match.groups(), settings)
    except UpstreamError as error:
        if not last_known:
            raise
        return _last_known(source, settings, error)
    _remember(source, settings, folder.name)
    return folder


def mark(source: str, settings: Settings) -> str | None:
    """What changes when `source` may mean another version; None when it cannot be told now. Cheap: no MLflow.

    A server is asked for the alias, over MLflow's REST API (mlflow.org/docs/latest/api_reference/rest-api.html, "Get
    Model Version by Alias"). A SQLite file is known by its size and time, any other store changes with time alone.
    """
    match = _SOURCE.fullmatch(source)
    if match is None or match[3]:
        return source  # a version never means another model
    place = os.environ.get("MLFLOW_REGISTRY_URI") or tracker.store(settings)
    if place.startswith(("http://", "https://")):
        return _version(place, match[1], match[2])
    if place.startswith("sqlite:///"):
        files = (f"{place.removeprefix('sqlite:///')}{end}" for end in ("", "-wal"))
        stats = [os.stat(name) for name in files if os.path.exists(name)]
        return " ".join(f"{found.st_size}:{found.st_mtime_ns}" for found in stats) or None
    return str(int(time.time() // SELDOM_S))


def _version(place: str, name: str, alias: str) -> str | None:
    from urllib.error import URLError
    from urllib.parse import urlencode, urlsplit, urlunsplit
    from urllib.request import Request, urlopen

    parts = urlsplit(place)
    host = parts.netloc.rpartition("@")[2]
    path = f"{parts.path.rstrip('/')}/api/2.0/mlflow/registered-models/alias"
    url = urlunsplit((parts.scheme, host, path, urlencode({"name": name, "alias": alias}), ""))
    headers = _authorization(parts.username, parts.password)
    try:
        with urlopen(Request(url, headers=headers), timeout=ASK_S) as answer:
            return str(json.load(answer)["model_version"]["version"])
    except (URLError, OSError, ValueError, KeyError, TypeError):
        return None  # down, or no such alias now: what is served goes on


def _authorization(username: str | None, password: str | None) -> dict[str, str]:
    """As MLflow's own client: a token, or user and password from the environment or the URL."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME") or username
    if not user:
        return {}
    from base64 import b64encode
    from urllib.parse import unquote

    secret = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(password or "")
    return {"Authorization": "Basic " + b64encode(f"{unquote(user)}:{secret}".encode()).decode()}


def _fetched(wanted: tuple[str | None, ...], settings: Settings) -> Path:
    name, alias, version = wanted
    cache = settings.state_dir / "registry"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        step = "set PREROUTER_WORKSPACE or XDG_STATE_HOME to a folder that can be written"
        raise ConfigError(f"no cache: {error.strerror}", where=str(cache), next_step=step) from error
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new.") as new:
        found = tracker.ask("fetch", settings, name=name, alias=alias, version=version, to=new)
        return _kept(Path(found["path"]), found["model_folder_id"], cache)


def _kept(folder: Path, model_folder_id: str | None, cache: Path) -> Path:
    """`folder`, verified and in its place in the cache. One that is damaged there is deleted."""
    try:
        found = modelfolder.load(folder).model_folder_id
    except ModelFolderError:
        if folder.parent == cache:
            shutil.rmtree(folder)
        raise
    if model_folder_id and found != model_folder_id:
        what = f"the registry names model folder {model_folder_id}, but holds {found}"
        raise ModelFolderError(what, where=str(folder), next_step="do not use it; register the model again")
    place = cache / found
    if not place.exists():
        try:
            os.rename(folder, place)
        except OSError:
            if not place.exists():  # else another process was faster
                raise
    return place


def _last_known(source: str, settings: Settings, error: UpstreamError) -> Path:
    name = _memory(settings).get(_key(source, settings))
    folder = settings.state_dir / "registry" / str(name)
    if name is None or not folder.is_dir():
        raise error
    log = logging.getLogger("prerouter")
    log.warning("%s: %s; using what it was when last asked, model folder %s", source, error, name)
    return folder


def _remember(source: str, settings: Settings, model_folder_id: str) -> None:
    known = _memory(settings)
    if known.get(_key(source, settings)) != model_folder_id:
        known[_key(source, settings)] = model_folder_id
        write_whole(_memory_file(settings), json.dumps(known, indent=1).encode())


def _memory(settings: Settings) -> dict[str, str]:
    try:
        known = json.loads(_memory_file(settings).read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _memory_file(settings: Settings) -> Path:
    return settings.state_dir / "registry" / "last_known.json"


def _key(source: str, settings: Settings) -> str:
    """The same name means another model in another store."""
    return f"{source} in {tracker.without_secrets(tracker.store(settings))}"
