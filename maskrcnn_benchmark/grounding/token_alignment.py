"""Which token covers which character of a caption.

The rule of the original for a span (begin, end), end exclusive: its first token is the one at
`begin`, or else at `begin + 1`, or else at `begin + 2`; its last token is the one at `end - 1`, or
else `end - 2`, or else `end - 3`. A span that lacks either, or whose first token lies behind its
last, has no tokens. Here the character -> token table is built once per caption from the offset
mapping, so that every span is an array look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Union

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import BatchEncoding

NO_TOKEN = -1

Encoded = Union["BatchEncoding", "Encoding", "TokenAlignment"]
"""A tokenised caption: what a fast tokenizer gives, or what was made of it."""


class TokenAlignment:
    """Character -> token table of one tokenised caption.

    Args:
        offsets: per token its (begin, end) characters; special and padding tokens have an empty
            range.
    """

    def __init__(self, offsets: Sequence[tuple[int, int]]):
        offset_array = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
        begins, ends = offset_array[:, 0], offset_array[:, 1]
        self.num_tokens = len(offset_array)
        table = np.full(int(ends.max(initial=0)), NO_TOKEN, dtype=np.int64)
        # Byte-level tokenizers split one character over several tokens: the first one wins, so it
        # is written last.
        for token in range(self.num_tokens - 1, -1, -1):
            table[begins[token] : ends[token]] = token
        self._table = table

    @classmethod
    def from_encoding(cls, encoding: Encoded, index: int = 0) -> TokenAlignment:
        """Alignment of text `index` of a `BatchEncoding`, or of a single `tokenizers.Encoding`.

        Raises:
            TypeError: the encoding comes from a slow tokenizer, which knows no offsets.
        """
        if isinstance(encoding, TokenAlignment):
            return encoding
        if hasattr(encoding, "offsets"):
            return cls(encoding.offsets)
        encodings = getattr(encoding, "encodings", None)
        if not encodings:
            raise TypeError(
                "Token maps need the character offsets of a fast tokenizer; this encoding has none "
                "(load the tokenizer with use_fast=True)."
            )
        return cls(encodings[index].offsets)

    def char_to_token(self, positions: np.ndarray) -> np.ndarray:
        """Token index per character position, -1 for blanks and for positions outside the tokenised
        text.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if not len(self._table):
            return np.full(positions.shape, NO_TOKEN, dtype=np.int64)
        inside = (positions >= 0) & (positions < len(self._table))
        tokens = self._table[np.clip(positions, 0, len(self._table) - 1)]
        return np.where(inside, tokens, NO_TOKEN)

    def token_ranges(self, spans: Sequence[Sequence[int]]) -> np.ndarray:
        """First and last token (both inclusive) of each (begin, end) span.

        Returns: int64 (num_spans, 2); a span without tokens is (-1, -1).
        """
        span_array = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
        begins, ends = span_array[:, 0], span_array[:, 1]
        first = self._first_found(begins, begins + 1, begins + 2)
        last = self._first_found(ends - 1, ends - 2, ends - 3)
        missing = (first == NO_TOKEN) | (last == NO_TOKEN) | (first > last)
        return np.where(missing[:, None], NO_TOKEN, np.stack([first, last], axis=1))

    def tokens_of_spans(self, spans: Sequence[Sequence[int]]) -> list[int]:
        """Token positions of the spans, span after span (a token of two spans is listed twice)."""
        return [
            token
            for first, last in self.token_ranges(spans).tolist()
            if first != NO_TOKEN
            for token in range(first, last + 1)
        ]

    def _first_found(self, *candidates: np.ndarray) -> np.ndarray:
        found = self.char_to_token(candidates[0])
        for positions in candidates[1:]:
            found = np.where(found == NO_TOKEN, self.char_to_token(positions), found)
        return found
