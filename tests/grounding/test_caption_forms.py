"""What a user may say: a sentence, a list of names, a sentence with chosen entities."""

import pytest

from maskrcnn_benchmark.grounding import read_request, request_query, split_names
from maskrcnn_benchmark.grounding.noun_phrases import find_noun_phrases, tag_by_rules


def by_rules(caption):
    return find_noun_phrases(caption, tag_by_rules)


def test_a_sentence_asks_for_its_noun_phrases():
    request = read_request("a dog near the red car", phrase_finder=by_rules)

    assert request.names == ["a dog", "the red car"]


def test_a_sentence_without_nouns_asks_for_its_parts():
    request = read_request("swimming, red.", phrase_finder=by_rules)

    assert request.names == ["swimming", "red"]


def test_a_list_asks_for_every_name_with_exact_spans():
    request = read_request(["hot dog", "dog (small)"])

    assert request.caption == "hot dog . dog (small) . "
    assert request.names == ["hot dog", "dog (small)"]
    assert all(request.caption[e.start : e.end] == e.text for e in request.entities)


def test_chosen_entities_are_given_by_bounds_or_by_text():
    request = read_request("a dog and a dog", [{"char_bounds": [12, 15]}, {"span": "dog"}])

    assert [(e.start, e.end) for e in request.entities] == [(12, 15), (2, 5)]


def test_an_entity_may_be_several_pieces_of_the_caption(bert_tokenizer):
    caption = "bench and car"
    request = read_request(caption, [{"char_bounds": [[0, 5], [10, 13]]}, {"span": "and"}])

    assert request.names == ["bench / car", "and"]
    assert request_query(request, bert_tokenizer).label_to_tokens == {1: [1, 3], 2: [2]}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"char_bounds": [[0, 1], [3, 99]]}, "do not lie"),
        ({"char_bounds": []}, "do not lie"),
        ({"span": "cat"}, "does not occur"),
        ({"char_bounds": [3, 99]}, "do not lie"),
        ({"name": "dog"}, "char_bounds"),
    ],
)
def test_an_entity_outside_the_caption_is_refused(item, message):
    with pytest.raises(ValueError, match=message):
        read_request("a dog", [item])


@pytest.mark.parametrize("nothing", ["", "  \n", [], ["dog", " "], "?!"])
def test_asking_for_nothing_is_an_error(nothing):
    with pytest.raises(ValueError):
        read_request(nothing, phrase_finder=by_rules)


@pytest.mark.parametrize("text", ["...", "star. ... ", "?!"])
def test_a_list_with_a_name_without_words_is_refused(text):
    with pytest.raises(ValueError, match="nothing to look for in"):
        read_request(split_names(text))


def test_entity_i_has_label_i_plus_one(bert_tokenizer):
    query = request_query(read_request(["dog", "hot dog"]), bert_tokenizer)

    assert query.label_to_tokens == {1: [1], 2: [3, 4]}


def test_a_caption_that_is_too_long_is_refused_with_its_length(bert_tokenizer):
    request = read_request("dog " * 300, phrase_finder=by_rules)

    with pytest.raises(ValueError, match="302 tokens, more than the 256"):
        request_query(request, bert_tokenizer)


@pytest.mark.parametrize("text", ["bench. car", "bench. car. ", "bench. car.", " bench. . car"])
def test_names_written_as_text_are_split(text):
    assert split_names(text) == ["bench", "car"]
