"""A stage of a model folder as a scikit-learn pipeline, for data scientists. The serving path never reads it.

    joblib.load("pipeline-0.joblib").predict_proba(["What is 2 + 2?"])

Loading joblib runs code: load only files that you trust.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prerouter import modelfolder, text
from prerouter.encoder import Encoder, load_encoder
from prerouter.errors import MissingExtraError
from prerouter.modelfolder import Head, Stage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.pipeline import Pipeline  # type: ignore[import-untyped]

    Floats = NDArray[np.float32]


class Features:
    """Texts or Messages bodies -> (n, n_features + n_signals) float32: what the stage's head reads. Can be pickled.

    It carries the encoder's files, since an encoder holds a tokeniser and perhaps an ONNX session.
    """

    def __init__(self, stage: Stage, text_version: int) -> None:
        self.text_version, self.mean, self.scale = text_version, stage.head.signal_mean, stage.head.signal_scale
        files = (path for path in sorted(stage.encoder.rglob("*")) if path.is_file())
        self.files = {path.relative_to(stage.encoder).as_posix(): path.read_bytes() for path in files}
        self._encoder: Encoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_encoder": None}

    def __call__(self, bodies: Sequence[text.Body]) -> Floats:
        """The features of each body."""
        requests = [text.render(body, version=self.text_version) for body in bodies]
        empty = Head(np.empty((0, 0), np.float32), np.empty(0, np.float32), self.mean, self.scale)
        signals = empty.standard(np.array([r.signals for r in requests]).reshape(-1, len(self.mean)))
        return np.hstack([self._loaded().features([request.text for request in requests]), signals])

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            with tempfile.TemporaryDirectory() as name:
                for file, data in self.files.items():
                    (Path(name) / file).parent.mkdir(parents=True, exist_ok=True)
                    (Path(name) / file).write_bytes(data)
                self._encoder = load_encoder(Path(name))
                self._encoder.features(["what is loaded at first use, is loaded while the files are there"])
        return self._encoder


def pipeline(folder: Path, stage: int = 0) -> Pipeline:
    """The stage as Pipeline(features, LogisticRegression), calibrated, with the taxonomy's labels as classes.

    `predict_proba` is the stage's probabilities. Gate and guard are no part of it: `predict` always answers.
    Raises ModelFolderError, MissingExtraError without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import FunctionTransformer  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train") from error
    model = modelfolder.load(Path(folder))
    part = model.stages[stage]
    weights, bias = part.head.weights / part.temperature, part.head.bias / part.temperature
    if len(bias) == 2:  # scikit-learn keeps one row for two classes: the difference of their logits
        weights, bias = weights[1:] - weights[:1], bias[1:] - bias[:1]
    head = LogisticRegression()
    head.classes_ = np.array(model.taxonomy.names, dtype=object)
    head.coef_, head.intercept_, head.n_features_in_ = weights, bias, weights.shape[1]
    head.n_iter_ = np.zeros(1, np.int32)
    return Pipeline([("features", FunctionTransformer(Features(part, model.text_version))), ("classifier", head)])


def dump(folder: Path, to: Path) -> list[Path]:
    """Write each stage's pipeline to `to`/pipeline-N.joblib. Raises as `pipeline`."""
    try:
        import joblib  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("joblib", "train") from error
    paths = []
    for i in range(len(modelfolder.load(folder).stages)):
        paths.append(to / f"pipeline-{i}.joblib")
        joblib.dump(pipeline(folder, i), paths[-1], compress=3)
    return paths
