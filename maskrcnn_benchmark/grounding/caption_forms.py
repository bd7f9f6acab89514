"""The forms in which a user may say what to find, all turned into one caption with one span per
entity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.grounding.noun_phrases import Span, find_noun_phrases
from maskrcnn_benchmark.grounding.queries import Query, token_count
from maskrcnn_benchmark.grounding.token_maps import MAX_TOKENS, label_to_tokens_from_spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME_SEPARATOR = ". "
_LIST_SEPARATOR = " . "


@dataclass(frozen=True)
class CaptionRequest:
    """A caption and what to find in it; entity i has label i + 1.

    Attributes:
        caption: the text.
        entities: one per entity, in order, from its first to its last character.
        parts: position in `entities` -> (begin, end) characters, where an entity is several pieces
            of the caption.
    """

    caption: str
    entities: list[Span]
    parts: Mapping[int, list[tuple[int, int]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Entity names, item for item those of `entities`."""
        return [entity.text for entity in self.entities]

    @property
    def label_to_spans(self) -> dict[int, list[tuple[int, int]]]:
        """Label -> the (begin, end) characters of its entity."""
        return {
            place + 1: self.parts.get(place, [(entity.start, entity.end)])
            for place, entity in enumerate(self.entities)
        }


def read_request(
    caption: str | Sequence[str],
    custom_entity: Sequence[Mapping] | None = None,
    *,
    phrase_finder: Callable[[str], list[Span]] = find_noun_phrases,
) -> CaptionRequest:
    """Understand a caption, a list of names, or a caption with chosen entities.

    Args:
        caption: a sentence (its noun phrases are looked for), or a list of names.
        custom_entity: for a sentence, what to look for instead of its noun phrases: items are
            {"char_bounds": [begin, end]}, {"char_bounds": [[begin, end], ...]} for an entity of
            several pieces, or {"span": "text that occurs in the caption"} (its first occurrence).
    Raises:
        DataError: nothing is asked for, or an entity does not lie in the caption.
    """
    if not isinstance(caption, str):
        return _from_names(list(caption))
    if not caption.strip():
        raise DataError("The caption is empty: name at least one thing to find.")
    if custom_entity is not None:
        pieces = [_custom_spans(caption, item) for item in custom_entity]
    else:
        pieces = [[span] for span in phrase_finder(caption) or _comma_separated(caption)]
    if not pieces:
        raise DataError(f"There is nothing to look for in {caption!r}: name at least one thing.")
    several = {
        place: [(span.start, span.end) for span in spans]
        for place, spans in enumerate(pieces)
        if len(spans) > 1
    }
    return CaptionRequest(caption, [_joined(spans) for spans in pieces], several)


def split_names(text: str, separator: str = NAME_SEPARATOR) -> list[str]:
    """Names of a list written as text, as in "bench. car. ": cut at the separator, empty parts
    dropped.
    """
    stripped = text.strip().removesuffix(separator.strip())
    return [name.strip() for name in stripped.split(separator) if name.strip()]


def request_query(
    request: CaptionRequest, tokenizer: PreTrainedTokenizerFast, max_tokens: int = MAX_TOKENS
) -> Query:
    """The request as a query for the model.

    Raises:
        DataError: the caption has more than `max_tokens` tokens (special tokens included).
    """
    length = token_count(request.caption, tokenizer)
    if length > max_tokens:
        raise DataError(
            f"The caption has {length} tokens, more than the {max_tokens} the model reads: shorten "
            "it, or give a list of names, which is split as needed. It begins: "
            f"{request.caption[:80]!r}"
        )
    encoding = tokenizer(request.caption, truncation=False, padding=False)
    tokens = label_to_tokens_from_spans(encoding, request.label_to_spans)
    spans = {i + 1: (entity.start, entity.end) for i, entity in enumerate(request.entities)}
    return Query(request.caption, tokens, spans)


def _from_names(names: list[str]) -> CaptionRequest:
    if not names or any(not isinstance(name, str) or not name.strip() for name in names):
        raise DataError(f"Give at least one name and no empty ones; got {names!r}")
    for name in names:
        if not _has_word(name):
            raise DataError(f"There is nothing to look for in {name!r}: name things by words.")
    caption, entities = "", []
    for name in names:
        entities.append(Span(len(caption), len(caption) + len(name), name))
        caption += name + _LIST_SEPARATOR
    return CaptionRequest(caption, entities)


def _comma_separated(caption: str) -> list[Span]:
    """Parts between commas and full stops, for texts such as "swimming, red" that hold no noun
    phrase.
    """
    parts = re.finditer(r"[^\s.,][^.,]*", caption)
    spans = [Span(part.start(), part.start() + len(part.group().rstrip()), "") for part in parts]
    return [
        span._replace(text=caption[span.start : span.end])
        for span in spans
        if _has_word(caption[span.start : span.end])
    ]


def _has_word(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _custom_spans(caption: str, item: Mapping) -> list[Span]:
    """The pieces of the caption that a custom entity is made of."""
    if "char_bounds" in item:
        bounds = item["char_bounds"]
        pairs = bounds if bounds and isinstance(bounds[0], Sequence) else [bounds]
        if not all(_lies_in(caption, pair) for pair in pairs):
            raise DataError(f"char_bounds {bounds} do not lie in {caption!r}")
        return [Span(begin, end, caption[begin:end]) for begin, end in pairs]
    if "span" not in item:
        raise DataError(f"A custom entity needs 'char_bounds' or 'span'; got {dict(item)!r}")
    text = item["span"]
    begin = caption.find(text)
    if begin < 0 or not text:
        raise DataError(f"{text!r} does not occur in {caption!r} (upper and lower case matter)")
    return [Span(begin, begin + len(text), text)]


def _lies_in(caption: str, pair: Sequence[int]) -> bool:
    return len(pair) == 2 and 0 <= pair[0] < pair[1] <= len(caption)


def _joined(spans: Sequence[Span]) -> Span:
    """One span over all pieces, named by all of them."""
    first, last = min(span.start for span in spans), max(span.end for span in spans)
    return Span(first, last, " / ".join(span.text for span in spans))
