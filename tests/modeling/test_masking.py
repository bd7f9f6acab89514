"""Hiding tokens for masked language modelling."""

import json
import random

import pytest
import torch

from maskrcnn_benchmark.modeling.language_backbone.masking import mask_tokens

BERT = {"vocabulary": range(30522), "mask_token_id": 103, "pad_token_id": 0}


def recorded(golden_dir):
    return json.loads((golden_dir / "glip/units/mlm_masking.json").read_text())


@pytest.mark.parametrize("index", range(6))
def test_tokens_and_labels_equal_the_recorded_ones(golden_dir, index):
    case = recorded(golden_dir)[index]
    rng = random.Random(case["seed"])
    lights = None if case["greenlight"] is None else torch.tensor(case["greenlight"])
    ids, labels = mask_tokens(
        torch.tensor(case["input_ids"]), greenlight_map=lights, rng=rng, **BERT
    )
    assert ids.tolist() == case["masked_ids"] and labels.tolist() == case["labels"]
    assert rng.random() == case["after"]


def test_the_global_generator_is_used_by_default_and_the_input_is_left_alone():
    ids = torch.full((4, 64), 2000)
    random.seed(7)
    first = mask_tokens(ids, **BERT)
    random.seed(7)
    second = mask_tokens(ids, **BERT)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert ids.eq(2000).all() and (first[0] != ids).any()


def test_shares_are_those_of_the_paper():
    ids = torch.full((64, 256), 2000)
    hidden, labels = mask_tokens(ids, rng=random.Random(0), **BERT)
    scored = labels != -100
    assert scored.float().mean() == pytest.approx(0.15, abs=0.01)
    assert (hidden[scored] == 103).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (hidden[scored] == 2000).float().mean() == pytest.approx(0.1, abs=0.02)
    assert hidden[~scored].eq(2000).all()


def test_the_map_may_be_wider_than_the_text():
    ids = torch.full((1, 8), 2000)
    hidden, labels = mask_tokens(ids, greenlight_map=torch.full((1, 256), -1), **BERT)
    assert torch.equal(hidden, ids) and labels.eq(-100).all()
