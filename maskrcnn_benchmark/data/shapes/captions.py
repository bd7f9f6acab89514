"""Captions whose phrases are tied to objects, and scenes built so that a relation must be understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .attributes import SIZES, ObjectKind
from .scene import RELATIONS, PlacedObject, opposite, place, random_scene, stands
from .wording import NUMBERS, OWN_WORDS, Wording


@dataclass
class Caption:
    """A sentence with, for each phrase, its character span [begin, end) and the objects it names."""

    text: str = ""
    phrases: list[tuple[tuple[int, int], list[int]]] = field(default_factory=list)

    def add(self, words: str, objects: Sequence[int] | None = None) -> None:
        """Append words after a blank; with ``objects`` they become a phrase for these indices."""
        if self.text and not words.startswith((",", ".")):
            self.text += " "
        begin = len(self.text)
        self.text += words
        if objects is not None:
            self.phrases.append(((begin, len(self.text)), list(objects)))


@dataclass(frozen=True)
class Description:
    """Words about an object: the ones that are None are left out of the phrase."""

    shape: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    def matches(self, item: PlacedObject) -> bool:
        """Whether everything said is true of the object."""
        return (
            self.shape == item.kind.shape
            and self.colour in (None, item.kind.colour)
            and self.texture in (None, item.kind.texture)
            and self.size in (None, item.size)
        )

    def words(self, number: int, article: str = "a", wording: Wording = OWN_WORDS) -> str:
        """Phrase for ``number`` objects, for example ``two small striped red stars``."""
        texture = None if self.texture == "plain" else self.texture
        adjectives = [wording.word(w) for w in (self.size, texture, self.colour) if w]
        if number > 1:
            return " ".join([NUMBERS[number], *adjectives, wording.plural(self.shape)])
        noun = wording.word(self.shape)
        first = (*adjectives, noun)[0]
        if article == "a" and first[0] in "aeiou":
            article = "an"
        return " ".join([article, *adjectives, noun])


def describe(rng: np.random.Generator, item: PlacedObject) -> Description:
    """A random truthful description: always the shape, mostly the colour, sometimes more.

    Captions never say "plain": a description without a texture names every texture.
    """
    texture = item.kind.texture if item.kind.texture != "plain" and rng.random() < 0.6 else None
    return Description(
        shape=item.kind.shape,
        colour=item.kind.colour if rng.random() < 0.85 else None,
        texture=texture,
        size=item.size if rng.random() < 0.4 else None,
    )


def caption_of_scene(
    rng: np.random.Generator, scene: Sequence[PlacedObject], wording: Wording = OWN_WORDS
) -> Caption:
    """List some of the objects: "a small blue ring, two green crosses and a striped red star".

    A phrase names every object that it describes; nothing is named twice.
    """
    caption = Caption()
    named: set[int] = set()
    groups: list[tuple[str, list[int]]] = []
    for index in rng.permutation(len(scene)).tolist():
        if index in named or len(groups) == 4:
            continue
        description = describe(rng, scene[index])
        members = [i for i, other in enumerate(scene) if description.matches(other)]
        if len(members) > max(NUMBERS) or named.intersection(members):
            continue
        named.update(members)
        groups.append((description.words(len(members), wording=wording), members))
    for position, (words, members) in enumerate(groups):
        if position and position == len(groups) - 1:
            caption.add("and")
        elif position:
            caption.add(",")
        caption.add(words, members)
    return caption


@dataclass(frozen=True)
class RelationalScene:
    """A scene, its sentence, and the one object that the sentence means (index)."""

    scene: list[PlacedObject]
    caption: Caption
    target: int
    expression: str


def relational_scene(
    rng: np.random.Generator,
    kinds: Sequence[ObjectKind],
    num_others: int,
    wording: Wording = OWN_WORDS,
) -> RelationalScene | None:
    """A sentence that only the relation decides: "a blue ring left of a green cross".

    A twin of the target, alike in every word said, stands on the other side of the anchor. Neither the
    words without the picture nor the picture without the relation tell which of the two is meant.

    Returns:
        The scene, or None when no room was found (draw again).
    """
    kind, anchor_kind = (kinds[int(i)] for i in rng.choice(len(kinds), 2, replace=False))
    if kind.shape == anchor_kind.shape and kind.colour == anchor_kind.colour:
        return None
    relation = str(rng.choice(RELATIONS))
    sizes = tuple(SIZES)
    size = "small" if rng.random() < 0.7 else "large"
    anchor = place(rng, anchor_kind, str(rng.choice(sizes)), [])
    if anchor is None:
        return None
    target = place(rng, kind, size, [anchor], relation=(relation, anchor))
    if target is None:
        return None
    twin = place(rng, kind, size, [anchor, target], relation=(opposite(relation), anchor))
    if twin is None:
        return None
    scene = [anchor, target, twin]
    description = Description(
        kind.shape,
        kind.colour,
        kind.texture if kind.texture != "plain" else None,
        size if rng.random() < 0.4 else None,
    )
    anchor_description = Description(anchor_kind.shape, anchor_kind.colour)
    for other in random_scene(rng, kinds, num_others):
        placed = place(rng, other.kind, other.size, scene, attempts=20)
        # Nothing else may fit the words, or the sentence would have two meanings.
        if placed and not description.matches(placed) and not anchor_description.matches(placed):
            scene.append(placed)
    if description.matches(anchor) or anchor_description.matches(target):
        return None
    order = rng.permutation(len(scene)).tolist()
    scene = [scene[i] for i in order]
    target_index, anchor_index = order.index(1), order.index(0)
    if sum(description.matches(o) and stands(o, relation, anchor) for o in scene) != 1:
        return None
    caption = Caption()
    caption.add(description.words(1, wording=wording), [target_index])
    caption.add(relation)
    caption.add(anchor_description.words(1, wording=wording), [anchor_index])
    expression = (
        f"{description.words(1, 'the', wording)} {relation} "
        f"{anchor_description.words(1, 'the', wording)}"
    )
    return RelationalScene(scene, caption, target_index, expression)
