"""Frozen encoders run once per picture and change no loss by that."""

import pytest
import torch

from maskrcnn_benchmark.engine.finetuning import apply_tuning_mode
from maskrcnn_benchmark.engine.finetuning_cache import FrozenFeatures, build_frozen_features
from maskrcnn_benchmark.engine.trainer import build_trainer
from tests.engine.small_task import small_config, write_task

STILL = ["AUGMENT.FLIP_PROB_TRAIN", "0.0", "DATALOADER.SIZE_DIVISIBILITY", "32"]


def make_trainer(tmp_path, mode, *opts):
    config = small_config("OUTPUT_DIR", str(tmp_path / "out"), *STILL, *opts)
    config.merge_from_file(write_task(tmp_path))
    config.merge_from_list(["SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode, "SOLVER.MAX_EPOCH", 3])
    apply_tuning_mode(config)
    trainer = build_trainer(config)
    trainer.step.model.train()
    return trainer, config


class Calls:
    """Counts the images that the backbone sees."""

    def __init__(self, model):
        self.images = 0
        model.backbone.register_forward_pre_hook(self)

    def __call__(self, module, inputs):
        self.images += len(inputs[0])


def train(trainer):
    return [
        {name: float(loss) for name, loss in trainer.step([batch], [1.0]).losses.items()}
        for batch in trainer.loader
    ]


@pytest.mark.parametrize("mode", ["language_prompt_v2", "linear_prob"])
def test_losses_are_the_same_and_each_image_is_encoded_once(tmp_path, mode):
    plain, _ = make_trainer(tmp_path, mode)
    expected = train(plain)
    trainer, config = make_trainer(tmp_path, mode)
    calls = Calls(trainer.model)

    cache = build_frozen_features(config, trainer.model)
    found = train(trainer)

    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert calls.images == 4  # of 12 in three epochs
    assert (cache.hits, cache.misses) == (8, 4)


def test_a_full_memory_keeps_nothing_new_and_changes_nothing(tmp_path):
    trainer, _ = make_trainer(tmp_path, "language_prompt_v2")
    calls = Calls(trainer.model)
    cache = FrozenFeatures(trainer.model, max_bytes=0)

    train(trainer)

    assert (cache.hits, cache.bytes) == (0, 0)
    assert calls.images == 12


def test_the_same_pixels_with_other_padding_are_other_features(tmp_path):
    trainer, _ = make_trainer(tmp_path, "language_prompt_v2")
    cache = FrozenFeatures(trainer.model, 2**30)
    image = torch.rand(1, 3, 64, 64)
    padded = torch.nn.functional.pad(image, (0, 32))

    first, second = cache.encode_images(image), cache.encode_images(padded)

    assert first[0].shape != second[0].shape
    assert cache.misses == 2


def test_different_captions_of_one_batch_are_encoded_as_ever(tmp_path):
    trainer, _ = make_trainer(tmp_path, "language_prompt_v2")
    expected = trainer.model.encode_text(["red", "red and green"])
    FrozenFeatures(trainer.model, 2**30)

    found = trainer.model.encode_text(["red", "red and green"])
    same = trainer.model.encode_text(["red", "red"])

    assert torch.equal(found.hidden, expected.hidden)
    assert torch.equal(same.masks[0], same.masks[1])
    torch.testing.assert_close(same.hidden[0, :2], expected.hidden[0, :2])


def test_a_closed_cache_leaves_the_model_as_it_was(tmp_path):
    trainer, _ = make_trainer(tmp_path, "language_prompt_v2")

    FrozenFeatures(trainer.model, 2**30).close()

    assert "encode_images" not in vars(trainer.model)
    assert "encode_text" not in vars(trainer.model)


@pytest.mark.parametrize(
    ("mode", "opts"),
    [
        ("full", []),
        ("language_prompt_v2", ["AUGMENT.FLIP_PROB_TRAIN", "0.5"]),
        ("language_prompt_v2", ["AUGMENT.MULT_MIN_SIZE_TRAIN", "(48, 64)"]),
        ("language_prompt_v2", ["SOLVER.FROZEN_CACHE_MIB", "0"]),
    ],
)
def test_nothing_is_kept_where_nothing_recurs(tmp_path, mode, opts):
    trainer, config = make_trainer(tmp_path, mode, *opts)

    assert build_frozen_features(config, trainer.model) is None
