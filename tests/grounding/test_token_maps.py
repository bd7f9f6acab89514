"""Character spans to tokens: recorded maps, and the rule itself."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.grounding import (
    TokenAlignment,
    create_greenlight_map,
    create_od_label_map,
    create_positive_map,
    label_to_tokens_from_positive_map,
    label_to_tokens_from_spans,
)


@pytest.fixture(scope="module")
def recorded(golden_dir):
    return json.loads((golden_dir / "glip/units/positive_maps.json").read_text())


@pytest.fixture(scope="module", params=range(3))
def case(request, recorded):
    return recorded["cases"][request.param]


@pytest.fixture
def encoding(case, bert_tokenizer):
    return bert_tokenizer(case["caption"], truncation=True, max_length=256)


def sparse(row: torch.Tensor) -> list[list[float]]:
    return [[i, row[i].item()] for i in torch.nonzero(row).flatten().tolist()]


class TestRecorded:
    def test_character_table(self, case, encoding):
        found = TokenAlignment.from_encoding(encoding).char_to_token(
            np.arange(len(case["caption"]))
        )

        assert found.tolist() == [-1 if t is None else t for t in case["char_to_token"]]

    def test_positive_map(self, case, encoding):
        positive = create_positive_map(encoding, case["spans"])

        assert [sparse(row) for row in positive] == case["positive_map"]

    def test_greenlight_map(self, case, encoding):
        greenlight = create_greenlight_map(encoding, case["greenlight_spans"])

        assert torch.nonzero(greenlight).flatten().tolist() == case["greenlight_tokens"]

    def test_od_label_map(self, case, encoding):
        spans = {int(label): span for label, span in case["label_to_positions"].items()}

        labels = create_od_label_map(encoding, spans)

        found = {str(i): int(labels[i]) for i in range(256) if labels[i] != -1}
        assert found == case["od_labels"]

    def test_label_to_tokens(self, case, encoding):
        spans = {i + 1: spans for i, spans in enumerate(case["spans"])}

        tokens = label_to_tokens_from_spans(encoding, spans)

        assert {str(label): t for label, t in tokens.items()} == case["label_to_tokens"]

    def test_rows_of_a_positive_map_become_labels_from_one(self, recorded):
        positive = torch.zeros(3, 256)
        for row, columns in enumerate(recorded["dense"]):
            positive[row, columns] = 0.2

        tokens = label_to_tokens_from_positive_map(positive)

        assert {str(label): t for label, t in tokens.items()} == recorded["label_to_token_plus1"]

    def test_roberta_spans(self, golden_dir, shared_dir):
        transformers = pytest.importorskip("transformers")
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            shared_dir / "data/tokenizers/roberta-base"
        )
        cases = json.loads((golden_dir / "fiber/text_cases.json").read_text())["span_cases"]
        for case in cases:
            encoding = tokenizer(case["caption"], truncation=True, max_length=256)
            alignment = TokenAlignment.from_encoding(encoding)
            found = [alignment.tokens_of_spans([span]) for span in case["spans"]]
            assert found == case["tokens_per_span"], case["caption"]


class TestRule:
    def test_a_name_that_ends_in_a_blank_keeps_its_last_token(self, bert_tokenizer):
        caption = "person. bat . dog"

        ranges = TokenAlignment.from_encoding(bert_tokenizer(caption)).token_ranges([(8, 12)])

        assert ranges.tolist() == [[3, 3]]

    def test_a_name_of_blanks_has_no_token_wherever_it_stands(self, bert_tokenizer):
        alignment = TokenAlignment.from_encoding(bert_tokenizer(" .  . dog"))

        assert alignment.token_ranges([(0, 1), (3, 4)]).tolist() == [[-1, -1], [-1, -1]]

    def test_an_empty_name_at_the_start_has_no_token(self, bert_tokenizer):
        alignment = TokenAlignment.from_encoding(bert_tokenizer(". dog"))

        assert alignment.token_ranges([(0, 0)]).tolist() == [[-1, -1]]

    def test_spans_behind_the_truncation_point_have_no_token(self, bert_tokenizer):
        encoding = bert_tokenizer("dog. cat. bird. horse. cow", truncation=True, max_length=8)

        positive = create_positive_map(encoding, [[(0, 3)], [(10, 14)], [(16, 21)]])

        assert positive.sum(dim=1).tolist() == pytest.approx([1, 1, 0])

    def test_a_blank_before_the_span_does_not_matter(self, bert_tokenizer):
        encoding = bert_tokenizer("dog. tabby cat")

        positive = create_positive_map(encoding, [[(5, 14)], [(4, 14)]])

        assert torch.nonzero(positive[0]).flatten().tolist() == [3, 4, 5]
        assert torch.equal(positive[0], positive[1])

    def test_no_boxes_give_a_map_without_rows(self, bert_tokenizer):
        assert create_positive_map(bert_tokenizer("dog"), []).shape == (0, 256)

    def test_an_empty_caption_has_no_tokens_for_any_span(self, bert_tokenizer):
        assert create_positive_map(bert_tokenizer(""), [[(0, 3)]]).sum() == 0

    def test_tokens_behind_the_map_are_an_error_and_not_cut_off(self, bert_tokenizer):
        encoding = bert_tokenizer("dog " * 300)

        with pytest.raises(ValueError, match="does not fit a map of 256 tokens"):
            create_positive_map(encoding, [[(1100, 1103)]])

    def test_a_forbidden_caption_is_minus_one_throughout(self, bert_tokenizer):
        greenlight = create_greenlight_map(bert_tokenizer("dog"), [(0, 3)], masking_allowed=False)

        assert (greenlight == -1).all()

    def test_a_slow_encoding_is_refused(self):
        with pytest.raises(TypeError, match="fast tokenizer"):
            TokenAlignment.from_encoding({"input_ids": [101, 102]})


def reference_range(table: list, begin: int, end: int) -> list[int]:
    """The rule spelled out, one character at a time."""

    def look_up(position):
        return table[position] if 0 <= position < len(table) else None

    first = next((t for t in map(look_up, (begin, begin + 1, begin + 2)) if t is not None), None)
    last = next((t for t in map(look_up, (end - 1, end - 2, end - 3)) if t is not None), None)
    if first is None or last is None or first > last:
        return [-1, -1]
    return [first, last]


words = st.lists(st.sampled_from(["dog", "tabby", "e-mail", ".", "éclair", "狗", "x"]), max_size=8)


@settings(deadline=None)
@given(words=words, gaps=st.lists(st.integers(0, 4), min_size=9, max_size=9), data=st.data())
def test_array_look_up_equals_the_rule_character_by_character(bert_tokenizer, words, gaps, data):
    caption = "".join(" " * gap + word for gap, word in zip(gaps, words)) + " " * gaps[-1]
    encoding = bert_tokenizer(caption)
    table = [encoding.char_to_token(i) for i in range(len(caption))]
    position = st.integers(-2, len(caption) + 4)
    spans = data.draw(st.lists(st.tuples(position, position), max_size=6))

    ranges = TokenAlignment.from_encoding(encoding).token_ranges(spans)

    assert ranges.tolist() == [reference_range(table, begin, end) for begin, end in spans]


@settings(deadline=None)
@given(words=st.lists(st.text(st.characters(categories=["L", "P"]), min_size=1), min_size=1))
def test_rows_of_a_positive_map_sum_to_one_or_zero(bert_tokenizer, words):
    caption = " ".join(words)
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    spans = [[(int(end) - len(word), int(end))] for end, word in zip(ends, words)]
    encoding = bert_tokenizer(caption, truncation=True, max_length=256)

    sums = create_positive_map(encoding, spans).sum(dim=1)

    assert ((sums - 1).abs().lt(1e-4) | (sums == 0)).all()
