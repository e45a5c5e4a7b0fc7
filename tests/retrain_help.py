"""A workspace whose routing log holds traffic, for tests of what is learnt from it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import model_help

from prerouter.modelfolder import Certificate
from prerouter.prompt import Prompt
from prerouter.routelog import RouteLog, RowLabel
from prerouter.router import PreRouter
from prerouter.settings import Settings
from prerouter.tiers import TierTable

FILLER = ("please", "do", "this", "the", "task", "now")
SETTINGS = "[audit]\nask = false\nrate = 0.5\n[retrain]\nmin_new = 50\nmin_holdout = 20\n"


def space(
    folder: Path,
    *,
    sees: str = "easy",
    text: str = "",
    certificate: Certificate = model_help.CERTIFICATE,
    words: Sequence[str] = model_help.WORDS,
) -> Settings:
    """A workspace with a champion that is sure of the words in `sees`. words: what its encoder can tell apart."""
    settings = model_help.workspace(folder, SETTINGS + text)
    model_help.save(folder / "models" / "first", sees=sees, certificate=certificate, words=words)
    (folder / "models" / "champion").symlink_to("first")
    return settings


def requests(
    n: int, shares: Mapping[str, float], *, seed: int = 0, noise: float = 0.0, filler: Sequence[str] = FILLER
) -> list[tuple[str, str]]:
    """n texts with their labels; each holds one of the words of `model_help.LABELS`. noise: share of wrong labels."""
    rng, found = random.Random(seed), []
    for _ in range(n):
        word = rng.choices(list(shares), list(shares.values()))[0]
        words = [word, word, *rng.choices(filler, k=9)]
        rng.shuffle(words)
        label = model_help.LABELS[word]
        wrong = [name for name in model_help.LABELS.values() if name != label]
        found.append((" ".join(words), rng.choice(wrong) if rng.random() < noise else label))
    return found


def serve(settings: Settings, traffic: Iterable[tuple[str, str]], *, at: float | None = None, step_s: float = 1) -> int:
    """Route `traffic` through the workspace's champion; heads rows get the true label as their audit.

    A request that local leaves open is logged as if the classifier had said its label. at: UTC seconds of the first
    row, one each `step_s`; None: now. The coins fall alike every time. Returns how many were decided locally.
    """
    coins, clock = random.Random(0), iter(range(10**9))
    tick = (lambda: at + step_s * next(clock)) if at is not None else None
    opened = RouteLog.open(settings=settings, **({"clock": tick} if tick else {}))
    model = TierTable.load(settings.tiers).model(settings.classifier.model)
    with opened as log, PreRouter.load(settings=settings) as router:
        prompt_id = Prompt.load(router.taxonomy, model, settings.classifier.ask).id
        whose = RowLabel(None, "audit", labelled_by=model.id, prompt_id=prompt_id)
        n_local = sum(
            _logged(router, log, text, replace(whose, label=label), audit=coins.random() < settings.audit.rate)
            for text, label in traffic
        )
        log.flush()
    return n_local


def _logged(router: PreRouter, log: RouteLog, text: str, truth: RowLabel, *, audit: bool) -> bool:
    case = router._open(text)
    decision = router._without_asking(case)
    asked = decision is None or decision.decided_by != "local"
    if decision is None or asked:
        left_open = router.decide(text, local_only=True)
        label = str(truth.label)
        decision = replace(left_open, id=case.id, label=label, decided_by="llm", prompt_id=truth.prompt_id)
    row = log.append(
        case.request,
        replace(decision, audit=audit),
        scores=case.scores,
        fingerprint=case.local.fingerprint,
        mode="on",
        labelled_by=truth.labelled_by if asked else None,
    )
    if audit:
        log.add_scores(row, case.local.every_stage(case.request, case.scores))
        if not asked:
            log.add_label(row, truth)
    return not asked
