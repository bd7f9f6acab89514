"""Captions of other images packed around an image's own, as text that nothing in the picture
matches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from maskrcnn_benchmark.grounding import RandomSource


class PackedCaption(NamedTuple):
    """Joined captions; the image's own begins at `start`."""

    caption: str
    start: int


@dataclass(frozen=True)
class CaptionPacking:
    """How many foreign captions are packed in.

    Attributes:
        most: largest number (DATASETS.PACK_RANDOM_CAPTION_NUMBER).
        probability_none: chance of packing none (NO_RANDOM_PACK_PROBABILITY).
        probability_most: otherwise, chance of packing the largest number; else the number is drawn
            below it (RANDOM_PACK_PROB). -1: always the largest number, whatever the other chance.
        max_tokens: the own caption and what is packed stay within it; None packs without looking
            (SAFEGUARD_POSITIVE_CAPTION False).
    """

    most: int
    probability_none: float = 0.0
    probability_most: float = -1.0
    max_tokens: int | None = None

    def draw_number(self, rng: RandomSource) -> int:
        """Number of foreign captions for one sample."""
        if self.most == 0 or self.probability_most == -1:
            return self.most
        if rng.python.random() < self.probability_none:
            return 0
        if rng.python.random() < self.probability_most:
            return self.most
        return rng.python.randrange(self.most)

    def pack(
        self,
        own: str,
        foreign: Sequence[str],
        count_tokens: Callable[[str], int],
        rng: RandomSource,
    ) -> PackedCaption:
        """Join the captions in random order, each ended by a full stop.

        Args:
            count_tokens: tokens of a caption, special tokens included.
        """
        if not foreign:
            return PackedCaption(own, 0)
        chosen = list(foreign)
        rng.python.shuffle(chosen)
        if self.max_tokens is not None:
            chosen = self._within_budget(own, chosen, count_tokens)
        place = rng.python.randrange(len(chosen) + 1)
        before = "".join(_as_sentence(caption) for caption in chosen[:place])
        after = "".join(_as_sentence(caption) for caption in chosen[place:])
        return PackedCaption(before + _as_sentence(own) + after, len(before))

    def _within_budget(
        self, own: str, foreign: Sequence[str], count_tokens: Callable[[str], int]
    ) -> list[str]:
        # Every caption is counted with its special tokens, which leaves room for the full stops
        # added.
        remaining = self.max_tokens - count_tokens(own)
        fitting = []
        for caption in foreign:
            length = count_tokens(caption)
            if length < remaining:
                fitting.append(caption)
                remaining -= length
        return fitting


def _as_sentence(caption: str) -> str:
    return caption + (" " if caption.endswith(".") else ". ")
