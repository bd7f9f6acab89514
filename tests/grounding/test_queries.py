"""Captions for class lists at test time."""

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.grounding import build_queries, token_count


def recorded_cases(golden_dir):
    for file in ("queries.json", "queries_chunked.json"):
        yield from json.loads((golden_dir / "glip/units" / file).read_text())


def test_captions_and_token_maps_equal_the_recorded_ones(golden_dir, bert_tokenizer):
    for case in recorded_cases(golden_dir):
        overrides = case.get("overrides", {})
        queries = build_queries(
            dict(zip(case["ids"], case["names"])),
            bert_tokenizer,
            separation_tokens=overrides.get("DATASETS.SEPARATION_TOKENS", ". "),
            chunk_size=overrides.get("TEST.CHUNKED_EVALUATION", -1),
            caption_prompt=case.get("prompt"),
            suppress=overrides.get("DATASETS.SUPRESS_QUERY", ()),
        )
        assert [query.caption for query in queries] == case["queries"], case["tag"]
        if case["tag"] == "odd separator":
            continue  # spells out "[SEP]", which today's tokenizers read as the special token
        maps = [{str(k): v for k, v in query.label_to_tokens.items()} for query in queries]
        assert maps == case["maps"], case["tag"]


def test_fiber_captions_equal_the_recorded_ones(golden_dir, shared_dir):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        shared_dir / "data/tokenizers/roberta-base"
    )
    cases = json.loads((golden_dir / "fiber/text_cases.json").read_text())
    for case in cases["detection_query_cases"]:
        categories = {i + 1: name for i, name in enumerate(case["names"])}
        (query,) = build_queries(categories, tokenizer, separation_tokens=case["separation_tokens"])
        assert query.caption == case["query"]
        assert {str(k): v for k, v in query.label_to_tokens.items()} == case["label_to_tokens"]


def test_a_thousand_classes_are_split_by_themselves_and_none_is_lost(golden_dir, bert_tokenizer):
    case = next(iter(json.loads((golden_dir / "glip/units/queries_chunked.json").read_text())))
    categories = dict(zip(case["ids"], case["names"]))

    queries = build_queries(categories, bert_tokenizer, separation_tokens=". ")

    assert [label for query in queries for label in query.label_to_tokens] == case["ids"]
    assert all(token_count(query.caption, bert_tokenizer) <= 256 for query in queries)
    assert len(queries) < 20


def test_adding_a_class_at_the_end_moves_no_other(bert_tokenizer):
    names = {1: "dog", 2: "hot dog", 3: "cat"}

    before = build_queries(names, bert_tokenizer, separation_tokens=". ")[0].label_to_tokens
    after = build_queries({**names, 4: "cow"}, bert_tokenizer, separation_tokens=". ")[0]

    assert {label: after.label_to_tokens[label] for label in before} == before


def test_prompts_follow_their_class_through_chunks(bert_tokenizer):
    prompts = [{"name": f"kind{i}", "prefix": f"{i}: "} for i in range(4)]

    queries = build_queries(
        {i: f"class {i}" for i in range(1, 5)},
        bert_tokenizer,
        separation_tokens=". ",
        chunk_size=2,
        caption_prompt=prompts,
    )

    assert [q.caption for q in queries] == ["0: kind0. 1: kind1", "2: kind2. 3: kind3"]


def test_a_class_that_does_not_fit_alone_is_named(bert_tokenizer):
    with pytest.raises(ValueError, match=r"Class 2 .* alone needs more than 16 tokens"):
        build_queries(
            {1: "dog", 2: "very " * 20}, bert_tokenizer, separation_tokens=". ", max_tokens=16
        )


def test_no_class_at_all_is_an_error(bert_tokenizer):
    with pytest.raises(ValueError, match="no class"):
        build_queries({}, bert_tokenizer, separation_tokens=". ")


def test_a_class_without_tokens_is_reported_and_left_out(bert_tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        (query,) = build_queries({1: "  ", 2: "pawn"}, bert_tokenizer, separation_tokens=". ")

    assert list(query.label_to_tokens) == [2]
    assert "{1: '  '}" in caplog.text


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    limit=st.integers(14, 60),
    suppress=st.lists(st.just("clutter"), max_size=2),
)
def test_any_class_list_is_covered_in_order_within_the_limit(
    bert_tokenizer, lengths, limit, suppress
):
    categories = {i + 1: " ".join(["dog"] * n) for i, n in enumerate(lengths)}

    queries = build_queries(
        categories, bert_tokenizer, separation_tokens=". ", suppress=suppress, max_tokens=limit
    )

    assert [label for query in queries for label in query.label_to_tokens] == list(categories)
    for query in queries:
        assert token_count(query.caption, bert_tokenizer) <= limit
        for label, (begin, end) in query.spans.items():
            assert query.caption[begin:end] == categories[label]
            assert len(query.label_to_tokens[label]) == lengths[label - 1]
