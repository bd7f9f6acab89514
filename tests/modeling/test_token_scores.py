"""From probabilities of tokens to scores of labels."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.modeling.rpn.token_scores import TokenAggregator, aggregate_token_scores
from tests.golden_tools import GLIP, load_units


def recorded():
    units = load_units("score_aggregation")
    maps = json.loads((GLIP / "units" / "score_aggregation_map.json").read_text())
    return units, maps


@pytest.mark.parametrize(
    ("key", "method", "columns", "map_name"),
    [
        ("MEAN", "MEAN", "num_columns", "map"),
        ("MAX", "MAX", "num_columns", "map"),
        ("v2.MEAN", "MEAN", "num_columns_v2", "map"),
        ("v2.MAX", "MAX", "num_columns_v2", "map"),
        ("v2.POWER", "POWER", "num_columns_v2", "map"),
        ("v2.MEAN.int", "MEAN", "num_columns_v2", "map_int"),
    ],
)
def test_recorded_scores_are_reproduced(key, method, columns, map_name):
    units, maps = recorded()
    label_to_tokens = {int(label): tokens for label, tokens in maps[map_name].items()}

    scores = aggregate_token_scores(
        torch.from_numpy(units["probabilities"]), label_to_tokens, int(units[columns]), method
    )

    torch.testing.assert_close(scores, torch.from_numpy(units[key]), atol=1e-6, rtol=1e-5)


def test_recorded_onehot_scores_are_the_first_columns():
    units, maps = recorded()
    probabilities = torch.from_numpy(units["probabilities"])

    scores = aggregate_token_scores(probabilities, maps["map"], len(maps["map"]), "ONEHOT")

    assert torch.equal(scores, torch.from_numpy(units["ONEHOT"]))


token_maps = st.dictionaries(
    st.integers(1, 12), st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1
)


@given(token_maps, st.sampled_from(["MEAN", "MAX", "POWER"]), st.integers(0, 2**31))
def test_every_label_is_scored_from_its_own_tokens(label_to_tokens, method, seed):
    probabilities = torch.rand(3, 10, generator=torch.Generator().manual_seed(seed))

    scores = aggregate_token_scores(probabilities, label_to_tokens, 12, method)

    for label in range(1, 13):
        own = probabilities[:, label_to_tokens.get(label, [])]
        if label not in label_to_tokens:
            expected = torch.zeros(3)
        elif method == "MEAN":
            expected = own.mean(dim=1)
        elif method == "MAX":
            expected = own.amax(dim=1)
        else:
            expected = own.prod(dim=1) ** (1 / own.shape[1])
        torch.testing.assert_close(scores[:, label - 1], expected)


@given(token_maps, st.sampled_from(["MEAN", "MAX", "POWER"]), st.integers(0, 2**31))
def test_no_score_exceeds_the_best_token(label_to_tokens, method, seed):
    # What lets the post-processor skip anchors without a token above the threshold.
    probabilities = torch.rand(4, 10, generator=torch.Generator().manual_seed(seed))

    scores = aggregate_token_scores(probabilities, label_to_tokens, 12, method)

    assert (scores.amax(dim=1) <= probabilities.amax(dim=1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("method", ["MEAN", "MAX", "POWER"])
def test_a_label_without_tokens_scores_nothing(method):
    scores = aggregate_token_scores(torch.full((2, 4), 0.9), {1: [0, 1], 2: []}, 2, method)

    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.0], [0.9, 0.0]]))


@pytest.mark.parametrize("method", ["MEAN", "MAX", "POWER", "ONEHOT"])
def test_an_empty_map_scores_nothing(method):
    assert not aggregate_token_scores(torch.full((2, 4), 0.9), {}, 3, method).any()


def test_a_token_listed_twice_counts_twice():
    scores = aggregate_token_scores(torch.tensor([[0.9, 0.3]]), {1: [0, 0, 1]}, 1)

    torch.testing.assert_close(scores, torch.tensor([[0.7]]))


def test_a_certain_zero_makes_the_geometric_mean_zero():
    assert aggregate_token_scores(torch.tensor([[0.0, 1.0]]), {1: [0, 1]}, 1, "POWER").item() == 0


def test_unmentioned_tokens_are_not_looked_at():
    probabilities = torch.tensor([[0.5, float("nan")]])

    assert aggregate_token_scores(probabilities, {1: [0]}, 1).tolist() == [[0.5]]


def test_no_anchors_give_no_scores():
    for method in ("MEAN", "MAX", "POWER"):
        assert aggregate_token_scores(torch.empty(0, 4), {1: [0], 2: [1, 2]}, 2, method).shape == (
            0,
            2,
        )


def test_labels_below_one_are_refused():
    with pytest.raises(ValueError, match="start at 1, got 0"):
        TokenAggregator({0: [1]}, num_tokens=4)


def test_tokens_beyond_the_text_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"label 7 names token 256 .* 256 tokens.*CHUNKED"):
        TokenAggregator({3: [1], 7: [255, 256]}, num_tokens=256)


def test_labels_beyond_the_columns_are_refused():
    with pytest.raises(ValueError, match="label 9 has no column among 8 classes"):
        aggregate_token_scores(torch.rand(1, 4), {9: [1]}, 8)


def test_an_unknown_method_is_refused_by_the_name_of_its_key():
    with pytest.raises(ValueError, match=r"SCORE_AGG must be one of MEAN.*'SUM'"):
        TokenAggregator({1: [1]}, num_tokens=4, method="SUM")
