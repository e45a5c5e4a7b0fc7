"""What was learnt is kept in a folder and learnt anew only from other things. Used by both stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from prerouter.embedcache import CachedEncoder
from prerouter.encoder import load_encoder
from prerouter.files import write_whole
from prerouter.modelfolder import Head
from prerouter.stages import Learnt

Arrays = Mapping[str, np.ndarray]


def once(folder: Path, record: Mapping[str, Any], learn: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """The arrays that `learn` returns, or returned when `folder` was last made with the same `record`.

    record: all that they hang on, as JSON. `learn` may write more to `folder`, which exists when it is called.
    """
    done = folder / "done.json"
    if not (done.is_file() and json.loads(done.read_text()) == record):
        done.unlink(missing_ok=True)  # first: what is interrupted must not pass for done
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(array) for name, array in learn().items()}, folder / "head")
        write_whole(done, json.dumps(record).encode())
    return load_file(folder / "head")


def stage(folder: Path, record: Mapping[str, Any], learn: Callable[[], Head], cache: Path) -> Learnt:
    """The stage whose encoder `learn` writes to `folder`/encoder and whose head it returns, learnt `once`.

    cache: where its features are kept.
    """

    def arrays() -> Arrays:
        made = learn()
        return {field.name: getattr(made, field.name) for field in fields(made)}

    head = Head(**once(folder, record, arrays))
    return Learnt(folder / "encoder", CachedEncoder(load_encoder(folder / "encoder"), cache), head)
