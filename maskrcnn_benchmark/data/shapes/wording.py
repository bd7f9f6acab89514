"""Other words for what the world shows: "scarlet" for red, "rhombus" for diamond; pictures stay the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .attributes import COLOURS, PLURALS, SHAPES, SIZES, TEXTURES, ObjectKind

NUMBERS = {2: "two", 3: "three", 4: "four"}
_ATTRIBUTE_WORDS = (*SHAPES, *COLOURS, *TEXTURES, *SIZES)
_OTHER_WORDS = (
    *(*NUMBERS.values(), *PLURALS.values()),
    *("a", "an", "the", "and", "left", "right", "of", "above", "below"),
)


@dataclass(frozen=True)
class Wording:
    """Words said in place of the world's own.

    Attributes:
        said: word of a shape, colour, texture or size to the word that is said instead of it.

    Raises:
        ValueError: a word to replace that the world does not have, or a new one that is no single
            word of small letters or means something already.
    """

    said: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for old, new in self.said.items():
            if old not in _ATTRIBUTE_WORDS:
                raise ValueError(
                    f"no shape, colour, texture or size is called {old!r}; there are "
                    f"{', '.join(_ATTRIBUTE_WORDS)}"
                )
            if not re.fullmatch("[a-z]+", new):
                raise ValueError(
                    f"{new!r}, to be said for {old!r}, is no word of the letters a to z"
                )
        forms = [*_ATTRIBUTE_WORDS, *_OTHER_WORDS, *self.said.values()]
        forms += [self.plural(shape) for shape in SHAPES if shape in self.said]
        for old, new in self.said.items():
            own = {new, self.plural(old)} if old in SHAPES else {new}
            taken = sorted(word for word in own if Counter(forms)[word] > 1)
            if taken:
                raise ValueError(
                    f"{taken[0]!r}, to be said for {old!r}, already means something else"
                )

    @classmethod
    def parse(cls, pairs: Iterable[str]) -> Wording:
        """Read pairs such as ``red=scarlet``.

        Raises:
            ValueError: a pair is none, a word is replaced twice, or as the class says.
        """
        said: dict[str, str] = {}
        for pair in pairs:
            old, equals, new = pair.partition("=")
            if not equals:
                raise ValueError(f"{pair!r} is no pair of words such as red=scarlet")
            if old in said:
                raise ValueError(f"two words are given for {old!r}: {said[old]!r} and {new!r}")
            said[old] = new
        return cls(said)

    def word(self, own: str) -> str:
        """What is said for a word of the world (its own, if nothing else is)."""
        return self.said.get(own, own)

    def plural(self, shape: str) -> str:
        """What several objects of a shape are called."""
        return _plural(self.said[shape]) if shape in self.said else PLURALS[shape]

    def kind(self, kind: ObjectKind) -> ObjectKind:
        """A kind in the words that are said: for names and attributes, not for drawing."""
        return ObjectKind(*(self.word(own) for own in (kind.shape, kind.colour, kind.texture)))

    def says_new(self, text: str) -> bool:
        """Whether a name or phrase has one of the words that are said instead."""
        new = {*self.said.values(), *(self.plural(shape) for shape in SHAPES if shape in self.said)}
        return not new.isdisjoint(text.split())


def _plural(noun: str) -> str:
    if re.search("(s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


OWN_WORDS = Wording()
