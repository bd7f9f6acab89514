"""Noun phrases of a caption: what the model is asked to find when no names are given.

The grammar is that of GLIP's demo: an optional determiner, any adjectives, one or more nouns. Word
classes come from NLTK's tagger when it and its data are installed, otherwise from the rules and
word lists of this package, which need no download. Every mention is one span of the original text,
in order, so phrase and span numbers never drift apart.
"""

import functools
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from maskrcnn_benchmark.grounding import word_classes as words

logger = logging.getLogger(__name__)

# Stands for all that belongs to the letter before it: combining accents, vowel signs, joiners.
_MARK = "\N{COMBINING GRAVE ACCENT}"
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
# Words (with inner hyphens and apostrophes), clitics on their own, or single punctuation marks.
_WORD = rf"\w[\w{_MARK}]*"
_TOKEN = re.compile(rf"n't\b|['’]s\b|{_WORD}?(?=n't\b)|{_WORD}(?:-{_WORD})*|[^\w\s]")

_NOUN, _ADJECTIVE, _DETERMINER, _POSSESSIVE, _NUMBER = "NN", "JJ", "DT", "PRP$", "CD"
_PREPOSITION, _PUNCTUATION, _OTHER = "IN", ".", "X"


class Span(NamedTuple):
    """A piece of a caption: characters [start, end) and the text there."""

    start: int
    end: int
    text: str


Tagger = Callable[[Sequence[str]], list[str]]


def find_noun_phrases(caption: str, tagger: Tagger | None = None) -> list[Span]:
    """Noun phrases in reading order, one span per mention.

    Args:
        caption: any text.
        tagger: words (lower-cased) -> part-of-speech tags in Penn Treebank notation; default:
            NLTK's if usable.
    Returns:
        possibly empty list; a repeated phrase appears once per place.
    """
    tokens = _split_words(caption)
    tags = (tagger or default_tagger())([token.text.lower() for token in tokens])
    phrases = []
    position = 0
    while position < len(tokens):
        end = _match_phrase(tags, position)
        if end is None:
            position += 1
            continue
        begin_char, end_char = tokens[position].start, tokens[end - 1].end
        phrases.append(Span(begin_char, end_char, caption[begin_char:end_char]))
        position = end
    return phrases


def _split_words(caption: str) -> list[Span]:
    """Words, with the combining marks of their letters, and punctuation marks."""
    shapes = caption if caption.isascii() else "".join(map(_shape, caption))
    places = [match.span() for match in _TOKEN.finditer(shapes)]
    return [Span(begin, end, caption[begin:end]) for begin, end in places]


def _shape(character: str) -> str:
    is_mark = unicodedata.category(character).startswith("M") or character in _JOINERS
    return _MARK if is_mark else character


@functools.cache
def default_tagger() -> Tagger:
    """NLTK's perceptron tagger, or `tag_by_rules` (after one warning) where it or its data is
    missing.
    """
    try:
        from nltk.tag import PerceptronTagger

        tagger = PerceptronTagger()
    except (ImportError, LookupError):
        logger.warning(
            "NLTK's tagger is not available; noun phrases are found by built-in rules, which are "
            "less exact. For the tagger: pip install nltk && python -m nltk.downloader "
            "averaged_perceptron_tagger_eng"
        )
        return tag_by_rules
    return lambda tokens: [tag for _, tag in tagger.tag(list(tokens))]


def tag_by_rules(tokens: Sequence[str]) -> list[str]:
    """Part-of-speech tags by word lists, endings and the neighbouring words."""
    tags: list[str] = []
    for position, word in enumerate(tokens):
        previous = tags[-1] if tags else _PUNCTUATION
        following, after_next, *_ = (*tokens[position + 1 : position + 3], "", "")
        previous_word = tokens[position - 1] if position else ""
        tags.append(_tag_word(word, previous, previous_word, following, after_next))
    return tags


def _tag_word(word: str, previous: str, previous_word: str, following: str, after_next: str) -> str:
    """Tag of one word; `previous` is the tag before it, the others are the words around it."""
    if not any(character.isalnum() for character in word):
        return _PUNCTUATION
    if word == "that" and (following in words.VERB_FORMS or following in words.FUNCTION_WORDS):
        return _OTHER
    if word in words.DETERMINERS:
        return _DETERMINER
    if word in words.POSSESSIVES or word == "’s":
        return _POSSESSIVE
    if word.isdigit() or word in words.NUMBERS:
        return _NUMBER
    if word in words.PREPOSITIONS:
        return _PREPOSITION
    if word in words.FUNCTION_WORDS:
        return _OTHER
    expects_noun = previous in (_DETERMINER, _ADJECTIVE, _POSSESSIVE, _NUMBER)
    if word in words.NOUN_OR_ADJECTIVE and (expects_noun or previous == _NOUN):
        # "an orange" and "a blue square, a star", but "an orange ball" and "a square and red box".
        describes = after_next in words.ADJECTIVES and following in ("and", "or", ",")
        if not _may_be_noun(following) and not describes:
            return _NOUN
    if word in words.ADJECTIVES:
        return _ADJECTIVE
    if word.endswith("ing") and len(word) > 4 and word not in words.ING_NOUNS:
        return _ADJECTIVE if expects_noun and _may_be_noun(following) else _OTHER
    if word.endswith("ed") and len(word) > 3 and word not in words.ED_NOUNS:
        return _ADJECTIVE if _may_be_noun(following) and previous != _NOUN else _OTHER
    if word in words.VERB_FORMS:
        is_noun = (
            expects_noun
            or (previous == _PREPOSITION and previous_word != "to")
            or (previous == _NOUN and word in words.BASE_VERBS and not _is_plural(previous_word))
            or _stands_alone(previous, following)
        )
        return _NOUN if is_noun else _OTHER
    if word.endswith("ly") and word not in words.LY_NOUNS:
        return _OTHER
    if word.endswith(words.ADJECTIVE_ENDINGS) and _may_be_noun(following):
        return _ADJECTIVE
    return _NOUN


def _may_be_noun(word: str) -> bool:
    closed = (words.FUNCTION_WORDS, words.DETERMINERS, words.POSSESSIVES, words.NUMBERS)
    return word[:1].isalnum() and not any(word in group for group in closed)


def _is_plural(noun: str) -> bool:
    return noun.endswith("s") or noun in words.IRREGULAR_PLURALS


def _stands_alone(previous: str, following: str) -> bool:
    """A word between two marks, as in "train . swing .", is a name and not a verb."""
    return previous == _PUNCTUATION and not following[:1].isalnum()


def _match_phrase(tags: Sequence[str], begin: int) -> int | None:
    """End of the phrase that starts at `begin`: one determiner at most, adjectives, at least one
    noun.
    """
    position = begin
    if tags[position].startswith(_DETERMINER):
        position += 1
    while position < len(tags) and tags[position].startswith(_ADJECTIVE):
        position += 1
    first_noun = position
    while position < len(tags) and tags[position].startswith(_NOUN):
        position += 1
    return position if position > first_noun else None
