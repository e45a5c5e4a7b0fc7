"""`prerouter doctor --taxonomy DIR`: what is wrong with a taxonomy folder, or unwise, each with file and key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from prerouter.checks import Check, problem
from prerouter.encoder import load_encoder
from prerouter.errors import PreRouterError
from prerouter.files import shipped
from prerouter.routes import FILES, Route
from prerouter.settings import Settings
from prerouter.taxonomy import Taxonomy
from prerouter.tiers import TierTable

# Cosine of two definitions' embeddings (the shipped static encoder), and share of the shorter one's words that the
# other has too. Either is reached by 6 of 8 pairs that say the same in other words, by none of 33 pairs of distinct
# labels in four taxonomies (at most 0.67 and 0.40): `tests/test_taxonomycheck.py` has some of both.
COSINE, SHARED = 0.7, 0.5
_COMMON = frozenset(
    (
        *("a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "how", "in", "is", "it", "its", "of", "on"),
        *("or", "that", "the", "this", "to", "what", "with"),
    )
)


def examine_taxonomy(folder: Path, settings: Settings) -> Iterator[Check]:
    """Every check in turn."""
    try:
        taxonomy = Taxonomy.load(folder)
        yield Check("taxonomy", "ok", f"{folder}, labels {', '.join(taxonomy.names)}")
    except PreRouterError as error:
        yield problem("taxonomy", error)
        return
    yield from _tiers(taxonomy, settings)
    for warning in taxonomy.warnings:
        yield Check("labels", "note", warning)
    yield from _overlaps(taxonomy)
    for name, route in (taxonomy.handoff.routes if taxonomy.handoff else {}).items():
        yield from _route(folder / name, route, taxonomy)


def _tiers(taxonomy: Taxonomy, settings: Settings) -> Iterator[Check]:
    table = TierTable.load(settings.tiers)
    for label in taxonomy.labels:
        try:
            table.rank(label.tier or "")
        except PreRouterError as error:
            yield Check("tier", "problem", f"{error.what} ({taxonomy.where}, {label.name}.tier)", error.next_step)


def _overlaps(taxonomy: Taxonomy) -> Iterator[Check]:
    vectors = load_encoder(shipped("models/default") / "stages/0/encoder").encode(
        [label.definition for label in taxonomy.labels]
    )
    for (i, one), (j, other) in combinations(enumerate(taxonomy.labels), 2):
        cosine, share = float(vectors[i] @ vectors[j]), shared_words(one.definition, other.definition)
        if cosine >= COSINE or share >= SHARED:
            what = f"{one.name} and {other.name} say nearly the same (cosine {cosine:.2f}, {share:.0%} of the words)"
            step = "sharpen the definitions, or merge the labels"
            yield Check("labels", "note", f"{what} ({taxonomy.where}, labels.definition)", step)


def shared_words(one: str, other: str) -> float:
    """Share, in [0, 1], of the words of the shorter text that the other has too; the commonest do not count."""
    a, b = _words(one), _words(other)
    return len(a & b) / max(1, min(len(a), len(b)))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold())) - _COMMON


def _route(folder: Path, route: Route, taxonomy: Taxonomy) -> Iterator[Check]:
    file = folder / "route.toml"
    if route.max_tokens is None:
        step = "add it: callers who name none are refused"
        yield Check("route", "note", f"max_tokens is missing ({file}, max_tokens)", step)
    if not route.system and route.label != taxonomy.default:
        step = "write the specialist's system prompt"
        yield Check("route", "note", f"no system prompt: only the tier is used ({folder / 'system.md'})", step)
    if route.needs_params and not route.system:
        yield Check("route", "note", f"params without a specialist to be told ({file}, params)", "write system.md")
    for found in sorted(folder.iterdir()) if folder.is_dir() else ():
        if found.name not in FILES and not found.name.startswith("."):
            step = f"a route has {', '.join(FILES)}"
            yield Check("route", "note", f"a file that nothing reads ({found})", step)
