"""Which model folder a router serves, and noticing that it has come to mean another one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from prerouter.errors import ConfigError, PreRouterError
from prerouter.files import shipped
from prerouter.local import LocalClassifier
from prerouter.nolocal import fits
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy

REGISTRY = "models:/"
RETRY_S = 30.0  # seconds until a folder that was refused is looked at again, unless it changes: a copy may be under way


def model_folder(source: str | Path | None, settings: Settings) -> Path:
    """The folder that `source` means, see `PreRouter.load`; one in a registry is downloaded, or found in the cache."""
    named = _named(source, settings)
    if isinstance(named, str):
        from prerouter.registry import fetch

        return fetch(named, settings)
    return named


def taxonomy_in_force(
    given: Taxonomy | str | Path | None, settings: Settings, local: LocalClassifier, *, named: bool
) -> Taxonomy:
    """The taxonomy that labels mean: its labels must be the model's, in the model's order.

    named: whether somebody named the model; else a folder of routes does without one. Raises ConfigError.
    """
    where = given or (settings.resolve(settings.taxonomy) if settings.taxonomy else None)
    if where is None:
        return local.taxonomy
    taxonomy = where if isinstance(where, Taxonomy) else Taxonomy.load(Path(where))
    if not fits(local, taxonomy) and (named or taxonomy.handoff is None):
        ours, theirs = (f"{list(t.names)}, {'' if t.ordered else 'not '}ordered," for t in (taxonomy, local.taxonomy))
        raise ConfigError(
            f"labels {ours} are not the model's {theirs[:-1]}",
            where=f"taxonomy {taxonomy.name!r}",
            next_step="train a model on this taxonomy, or leave the taxonomy out",
        )
    return taxonomy


class Watch:
    """Notices that a source means another model folder, and loads it, verified and warmed, off the request path.

    A folder is known by the device, inode, size and time of its model.json: a switched link and a replaced folder both
    change them. A registry's alias is known by what `registry.mark` says. Not thread-safe: one thread looks.
    """

    def __init__(
        self,
        source: str | Path | None,
        settings: Settings,
        taxonomy: Taxonomy | str | Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._settings, self._taxonomy, self._clock = source, settings, taxonomy, clock
        self._mark = self._look()
        self._refused_at: float | None = None

    @property
    def can_change(self) -> bool:
        """False for the model that came with the package: nobody replaces it under a running service."""
        return _named(self._source, self._settings) != shipped("models/default") or self._settings.workspace is not None

    def changed(self, serving: LocalClassifier, labels: Taxonomy) -> LocalClassifier | None:
        """The classifier that the source means now, ready to serve, when it is not the one that is `serving`.

        labels: the taxonomy in force, which the classifier's cache, policy and log are about; a model with another one
        is refused. None too when it cannot be loaded: that is logged once, the old one goes on, and it is tried again.
        """
        mark, now = self._look(), self._clock()
        first, again = mark != self._mark, self._refused_at is not None and now - self._refused_at >= RETRY_S
        if mark is None or not (first or again):
            return None
        self._mark, self._refused_at = mark, None
        try:
            return self._loaded(serving, labels)
        except (PreRouterError, OSError) as error:
            self._refused_at = now
            if first:
                what = "the new model is refused: %s; model folder %s goes on serving"
                logging.getLogger("prerouter").warning(what, error, serving.model_folder_id)
            return None

    def _loaded(self, serving: LocalClassifier, labels: Taxonomy) -> LocalClassifier | None:
        named = _named(self._source, self._settings)
        found = LocalClassifier.load(_asked(named, self._settings) if isinstance(named, str) else named)
        if found.model_folder_id == serving.model_folder_id:
            return None
        if taxonomy_in_force(self._taxonomy, self._settings, found, named=True).id != labels.id:
            step = "restart the service"
            raise ConfigError("its taxonomy is another one", where=found.model_folder_id, next_step=step)
        found.warm()  # a second stage that does not work is refused here, not at a user's request
        return found

    def _look(self) -> str | None:
        """What tells one state of the source from another; None when it cannot be told now."""
        try:
            named = _named(self._source, self._settings)
            if isinstance(named, str):
                from prerouter.registry import mark

                return mark(named, self._settings)
            found = os.stat(named / "model.json")
        except (OSError, PreRouterError):
            return None  # a link being switched, a folder being replaced, a registry that is down: the next look tells
        return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _asked(name: str, settings: Settings) -> Path:
    """What the registry says now: what it said last time is what is being served already."""
    from prerouter.registry import fetch

    return fetch(name, settings, last_known=False)


def _named(source: str | Path | None, settings: Settings) -> Path | str:
    """The folder that is named, links not followed, or the name in a registry."""
    if source is None and settings.model:
        source = settings.model if settings.model.startswith(REGISTRY) else settings.resolve(settings.model)
    if source is None:
        champion = settings.workspace / "models" / "champion" if settings.workspace else None
        # A link whose folder is gone must not mean another model without anyone noticing.
        return champion if champion and os.path.lexists(champion) else shipped("models/default")
    return str(source) if str(source).startswith(REGISTRY) else Path(source)
