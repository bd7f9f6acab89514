"""Where a run begins: weights, the pull towards them, the few images."""

import logging

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.finetuning_start import (
    PullToStart,
    build_pull_to_start,
    describe_few_shot,
    load_start_weights,
    log_few_shot,
)
from maskrcnn_benchmark.modeling.language_backbone import build_tokenizer
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError
from tests.engine.small_task import small_config, write_task


def step(pull, gradient=1.0, lr=0.1, steps=1):
    parameter = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([parameter], lr=lr)
    if pull is not None:
        PullToStart(optimizer, pull)
    for _ in range(steps):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return parameter.detach()


def test_every_update_goes_back_by_lr_times_strength_of_the_way():
    # lr 0.1, strength 2: of each step 80 % stays.
    torch.testing.assert_close(step(2.0), torch.tensor([1.0, -2.0]) - 0.1 * 0.8)
    expected = torch.tensor([1.0, -2.0]) - (0.1 * 0.8 + 0.1) * 0.8
    torch.testing.assert_close(step(2.0, steps=2), expected)


def test_a_pull_of_one_over_the_rate_or_more_holds_the_weights():
    for strength in (10.0, 1000.0):
        torch.testing.assert_close(step(strength, steps=3), torch.tensor([1.0, -2.0]))


def test_a_strong_pull_ends_nearer_the_start_than_a_weak_one():
    start = torch.tensor([1.0, -2.0])
    distances = [(step(s, steps=20) - start).norm() for s in (None, 0.5, 2.0)]

    assert distances[0] > distances[1] > distances[2] > 0


def test_a_pull_below_zero_is_refused_and_none_is_built_by_default():
    with pytest.raises(ConfigError, match="PULL_TO_START"):
        step(-1.0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    assert build_pull_to_start(small_config(), optimizer) is None


class Detector(nn.Module):
    """Names as in a detector."""

    def __init__(self, depth):
        super().__init__()
        self.backbone = nn.ModuleList(nn.Linear(2, 2) for _ in range(depth))
        self.rpn = nn.ModuleDict({"head": nn.ModuleDict({"bbox_pred": nn.Linear(2, 2)})})


def test_a_detector_of_another_architecture_is_refused(tmp_path):
    torch.save({"model": Detector(1).state_dict()}, tmp_path / "one.pth")

    with pytest.raises(CheckpointError, match="does not fit the configured model"):
        load_start_weights(Detector(2), str(tmp_path / "one.pth"))


def test_a_backbone_alone_may_be_the_start(tmp_path):
    backbone = {n: v for n, v in Detector(1).state_dict().items() if n.startswith("backbone")}
    torch.save(backbone, tmp_path / "backbone.pth")

    assert load_start_weights(Detector(1), str(tmp_path / "backbone.pth"))


def test_no_weights_are_no_error_and_missing_ones_are(tmp_path):
    assert load_start_weights(Detector(1), "") is None
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        load_start_weights(Detector(1), str(tmp_path / "gone.pth"))


def chosen(tmp_path, shots, seed):
    config = small_config("DATASETS.FEW_SHOT", str(shots), "DATASETS.SHUFFLE_SEED", str(seed))
    config.merge_from_file(write_task(tmp_path, number=12))
    loader = make_data_loader(config, is_train=True, tokenizer=build_tokenizer(config))
    return loader.dataset, config


def test_the_chosen_images_are_written_and_differ_by_seed(tmp_path):
    choices = {
        seed: describe_few_shot(*chosen(tmp_path, 2, seed))["sets"][0]["image_ids"]
        for seed in (0, 3, 30)
    }

    assert choices[0] == [1, 2, 3, 4, 5, 6]  # the first ones, as the original chose
    assert len({tuple(sorted(ids)) for ids in choices.values()}) == 3


def test_too_few_images_for_the_shots_are_told(tmp_path, caplog):
    # Other tests may have given the package's logger handlers of its own.
    logging.getLogger("maskrcnn_benchmark").propagate = True
    log_few_shot(*chosen(tmp_path, 10, 3), tmp_path / "few.json")

    assert "only 4 image(s) of 'red' for 10 shot(s)" in caplog.text
    assert (tmp_path / "few.json").is_file()


def test_all_data_choose_nothing(tmp_path):
    assert describe_few_shot(*chosen(tmp_path, 0, 3)) is None
