"""The forms in which a user may say what to find, all turned into one caption with one span per
entity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
        entities: one span per entity, in order.
    """

    caption: str
    entities: list[Span]

    @property
    def names(self) -> list[str]:
        """Entity names, item for item those of `entities`."""
        return [entity.text for entity in self.entities]


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
            {"char_bounds": [begin, end]} or {"span": "text that occurs in the caption"} (its first
            occurrence).
    Raises:
        DataError: nothing is asked for, or an entity does not lie in the caption.
    """
    if not isinstance(caption, str):
        return _from_names(list(caption))
    if not caption.strip():
        raise DataError("The caption is empty: name at least one thing to find.")
    if custom_entity is not None:
        entities = [_custom_span(caption, item) for item in custom_entity]
    else:
        entities = phrase_finder(caption) or _comma_separated(caption)
    if not entities:
        raise DataError(f"There is nothing to look for in {caption!r}: name at least one thing.")
    return CaptionRequest(caption, entities)


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
    spans = {i + 1: (entity.start, entity.end) for i, entity in enumerate(request.entities)}
    encoding = tokenizer(request.caption, truncation=False, padding=False)
    tokens = label_to_tokens_from_spans(encoding, {label: [span] for label, span in spans.items()})
    return Query(request.caption, tokens, spans)


def _from_names(names: list[str]) -> CaptionRequest:
    if not names or any(not isinstance(name, str) or not name.strip() for name in names):
        raise DataError(f"Give at least one name and no empty ones; got {names!r}")
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
        if any(character.isalnum() for character in caption[span.start : span.end])
    ]


def _custom_span(caption: str, item: Mapping) -> Span:
    if "char_bounds" in item:
        begin, end = item["char_bounds"]
        if not 0 <= begin < end <= len(caption):
            raise DataError(f"char_bounds {[begin, end]} do not lie in {caption!r}")
    elif "span" in item:
        begin = caption.find(item["span"])
        if begin < 0 or not item["span"]:
            raise DataError(
                f"{item['span']!r} does not occur in {caption!r} (upper and lower case matter)"
            )
        end = begin + len(item["span"])
    else:
        raise DataError(f"A custom entity needs 'char_bounds' or 'span'; got {dict(item)!r}")
    return Span(begin, end, caption[begin:end])
