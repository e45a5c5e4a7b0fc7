"""models/champion and models/previous: relative symbolic links, switched by rename: there is always a champion."""

from __future__ import annotations

import os
from pathlib import Path

from prerouter.errors import ConfigError

CHAMPION, PREVIOUS = "champion", "previous"


def linked(models: Path, name: str) -> Path | None:
    """The folder that the link `name` in `models` means, or None where there is no link.

    Raises ConfigError when something else has that name, or when the folder is gone.
    """
    link = models / name
    if not os.path.lexists(link):
        return None
    if not link.is_symlink():
        step = f"give that folder another name, then: prerouter promote {models / 'NAME'}"
        raise ConfigError(f"{name} is not a link", where=str(link), next_step=step)
    if not link.is_dir():
        step = "put the folder back, or delete the link"
        raise ConfigError(f"{name} links to {os.readlink(link)}, which is gone", where=str(link), next_step=step)
    return link.resolve()


def point(models: Path, name: str, folder: Path) -> None:
    """Make the link `name` in `models` mean `folder`; whoever looks sees the old folder or the new one.

    Raises ConfigError where there are no symbolic links: some file systems, Windows without the right to make them.
    """
    beside = models / f".{name}.{os.urandom(6).hex()}"
    relative = os.path.relpath(folder.resolve(), models.resolve())
    try:
        os.symlink(relative, beside, target_is_directory=True)
    except (OSError, NotImplementedError) as error:
        step = f'without links, set model = "models/{folder.name}" in prerouter.toml'
        raise ConfigError(f"cannot make a symbolic link: {error}", where=str(models / name), next_step=step) from error
    try:
        os.replace(beside, models / name)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def role(folder: Path) -> str | None:
    """ "champion" or "previous" when a link beside `folder` means it, else None: such a folder must not be replaced."""
    folder = folder.resolve()
    for name in (CHAMPION, PREVIOUS):
        link = folder.parent / name
        if link.is_symlink() and link.resolve() == folder:
            return name
    return None
