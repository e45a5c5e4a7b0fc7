"""Texts to token ids, by a `tokenizers` tokenizer; for BERT's remembered word by word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prerouter.errors import ModelFolderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]
TokenReader = Callable[[Sequence[str]], Iterable[Ids]]

REBUILD = "restore the folder, or make a new one with `prerouter train`"
_KNOWN_WORDS = 32_768  # words whose tokens are remembered, about 5 MB
_WORDS_AT_ONCE = 4096  # new words per call of the tokenizer: 5 MB of new words then take 120 MB, in one call 800 MB
_TEXTS_AT_ONCE = 256  # texts whose new words are learned together, in few calls of the tokenizer
_KNOWN_CHARS = 32  # longer words are not remembered: they rarely come again


def load_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelFolderError(f"not a usable tokenizer: {error}", where=str(path), next_step=REBUILD) from error
    tokenizer.no_padding()
    return tokenizer


def token_reader(tokenizer: Tokenizer) -> TokenReader:
    """texts -> (n_tokens,) ids of each, without special tokens."""
    from tokenizers import normalizers, pre_tokenizers

    added = tokenizer.get_added_tokens_decoder().values()
    by_word = (
        isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and tokenizer.truncation is None
        and not any(token.lstrip or token.rstrip or token.single_word or " " in token.content for token in added)
    )
    if by_word:
        return _WordReader(tokenizer)
    return lambda texts: (np.array(tokenizer.encode(t, add_special_tokens=False).ids, np.int64) for t in texts)


class _WordReader:
    """Tokens of a text, remembered by word: about eight times as fast as the tokenizer on text of known words.

    Sound for BERT tokenizers only: they end every token at blanks, and treat a word alike wherever it stands. Words
    that are not remembered pass through the tokenizer together, in one call and never in a batch, whose threads would
    make a later fork print a warning.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = re.compile(r"[^ \t\n\r]+").findall
        self._known: dict[str, bytes] = {}  # word -> its ids as int64; single operations on a dict are atomic

    def __call__(self, texts: Sequence[str]) -> Iterator[Ids]:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            rows, known = [self._words(text) for text in texts[start : start + _TEXTS_AT_ONCE]], self._known
            try:
                yield from [np.frombuffer(b"".join(map(known.__getitem__, words)), np.int64) for words in rows]
            except KeyError:
                yield from self._learned(rows, known)

    def _learned(self, rows: Sequence[Sequence[str]], known: dict[str, bytes]) -> list[Ids]:
        new = [word for word in dict.fromkeys(chain.from_iterable(rows)) if word not in known]
        fresh: dict[str, bytes] = {}
        for start in range(0, len(new), _WORDS_AT_ONCE):
            fresh |= self._read(new[start : start + _WORDS_AT_ONCE])
        if len(known) + len(fresh) > _KNOWN_WORDS:
            self._known = {}  # not emptied: other threads are reading the old one
        self._known.update((word, ids) for word, ids in fresh.items() if len(word) <= _KNOWN_CHARS)
        parts = ((fresh[word] if word in fresh else known[word] for word in words) for words in rows)
        return [np.frombuffer(b"".join(part), np.int64) for part in parts]

    def _read(self, words: Sequence[str]) -> dict[str, bytes]:
        encoding = self._tokenizer.encode(" ".join(words), add_special_tokens=False)
        ids = np.array(encoding.ids, np.int64).tobytes()
        starts = np.array([start for start, _ in encoding.offsets], np.int64)
        ends = 8 * starts.searchsorted(list(accumulate(len(word) + 1 for word in words)))
        bounds = [0, *ends.tolist()]
        return {word: ids[start:end] for word, start, end in zip(words, bounds, bounds[1:], strict=False)}
