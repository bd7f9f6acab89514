"""Noun phrases by the built-in rules (no tagger data needed) and through a given tagger."""

import itertools
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.grounding import find_noun_phrases, noun_phrases
from maskrcnn_benchmark.grounding.noun_phrases import tag_by_rules


def phrases(caption: str) -> list[str]:
    return [span.text for span in find_noun_phrases(caption, tag_by_rules)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("bench. car", ["bench", "car"]),
        ("person . bicycle . traffic light .", ["person", "bicycle", "traffic light"]),
        ("A woman in a red jacket left of the bicycle", ["A woman", "a red jacket", "the bicycle"]),
        ("Two people are riding horses on the beach.", ["people", "horses", "the beach"]),
        ("There is a cat and a remote on the sofa.", ["a cat", "a remote", "the sofa"]),
        ("the man's hat isn't red", ["the man", "hat"]),
        (
            "A little girl climbing into a wooden playhouse.",
            ["A little girl", "a wooden playhouse"],
        ),
        ("A crowded street near a parked car", ["A crowded street", "a parked car"]),
        ("traffic_light", ["traffic_light"]),
        ("a blue square, an orange and a red ring", ["a blue square", "an orange", "a red ring"]),
        ("a square below two striped squares", ["a square", "striped squares"]),
        ("an orange and blue ball on the round rug", ["blue ball", "the round rug"]),
        ("", []),
        ("... !!", []),
    ],
)
def test_phrases_of_everyday_captions(caption, expected):
    assert phrases(caption) == expected


def test_repeated_and_nested_phrases_are_one_span_per_mention():
    spans = find_noun_phrases("dog and hot dog and dog", tag_by_rules)

    assert [tuple(span) for span in spans] == [(0, 3, "dog"), (8, 15, "hot dog"), (20, 23, "dog")]


@given(st.text(max_size=60))
def test_spans_are_ordered_pieces_of_the_caption(caption):
    spans = find_noun_phrases(caption, tag_by_rules)

    assert all(caption[span.start : span.end] == span.text for span in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


DECOMPOSED = "e\N{COMBINING ACUTE ACCENT}"


@pytest.mark.parametrize(
    "word",
    [
        f"caf{DECOMPOSED}",
        f"prot{DECOMPOSED}g{DECOMPOSED}-dog",
        "कुत्ता",
        "क्\N{ZERO WIDTH JOINER}ष",
        "ที่นั่ง",
        "كُرْسِيّ",
    ],
)
def test_marks_do_not_split_words(word):
    assert phrases(f"a {word}, a star") == [f"a {word}", "a star"]
    assert phrases(word) == [word]


def test_marks_without_a_letter_are_no_words():
    heart = "\N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}"
    assert phrases(f"{heart} star {heart}") == ["star"]
    assert phrases(heart) == []


@given(st.lists(st.from_regex(r"[abक][abकि्\u0301\u200d\ufe0f]*", fullmatch=True)))
def test_words_keep_their_marks_wherever_they_stand(words):
    seen = []

    def every_word_a_noun(tokens):
        seen.extend(tokens)
        return ["NN"] * len(tokens)

    find_noun_phrases(" ".join(words), every_word_a_noun)

    assert seen == words


@given(st.text(st.sampled_from("ab ,-'nté\u0301ि्\u200d\ufe0f❤"), max_size=30))
def test_spans_index_the_caption_as_it_was_written(caption):
    spans = find_noun_phrases(caption, tag_by_rules)

    assert all(caption[span.start : span.end] == span.text for span in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


def test_a_tagger_decides_the_word_classes():
    tags = {"time": "NN", "flies": "VBZ", "fast": "JJ", "arrows": "NNS"}

    spans = find_noun_phrases("Time flies fast arrows", lambda words: [tags[w] for w in words])

    assert [span.text for span in spans] == ["Time", "fast arrows"]


def test_without_tagger_data_the_rules_step_in_after_one_warning(monkeypatch, caplog):
    def missing(*_):
        raise LookupError("no data")

    pytest.importorskip("nltk")
    monkeypatch.setattr("nltk.tag.PerceptronTagger", missing)
    noun_phrases.default_tagger.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = [find_noun_phrases("a dog. a cat") for _ in range(2)]
    noun_phrases.default_tagger.cache_clear()

    assert [span.text for span in found[0]] == ["a dog", "a cat"]
    assert caplog.text.count("NLTK's tagger is not available") == 1


def marked_phrase_ends(line: str) -> tuple[str, set[int]]:
    """Caption of a Flickr30k Entities line and the end of every phrase marked in it."""
    caption, ends = "", set()
    for piece in re.split(r"(\[/EN#\S+ |\])", line.strip()):
        if piece == "]":
            ends.add(len(caption))
        elif not piece.startswith("[/EN#"):
            caption += piece
    return caption, ends


def test_the_rules_find_nine_of_ten_phrases_that_people_marked(shared_dir):
    hits = found = marked = 0
    for file in sorted((shared_dir / "data/flickr30k_entities/Sentences").glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            caption, ends = marked_phrase_ends(line)
            predicted = {span.end for span in find_noun_phrases(caption, tag_by_rules)}
            hits += len(ends & predicted)
            found += len(predicted)
            marked += len(ends)

    assert marked > 3000
    assert hits / marked > 0.9, "recall"
    assert hits / found > 0.9, "precision"
