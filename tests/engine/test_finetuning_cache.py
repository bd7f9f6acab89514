"""Frozen encoders run once per picture and change no loss by that."""

import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset
from maskrcnn_benchmark.data.image_files import read_rgb
from maskrcnn_benchmark.engine.finetuning import apply_tuning_mode
from maskrcnn_benchmark.engine.finetuning_cache import FrozenFeatures, build_frozen_features
from maskrcnn_benchmark.engine.trainer import build_trainer
from tests.engine.small_task import small_config, write_task

STILL = ["AUGMENT.FLIP_PROB_TRAIN", "0.0", "DATALOADER.SIZE_DIVISIBILITY", "32"]


def make_trainer(tmp_path, mode, *opts, epochs=3):
    config = small_config("OUTPUT_DIR", str(tmp_path / "out"), *STILL, *opts)
    config.merge_from_file(write_task(tmp_path))
    config.merge_from_list(["SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode, "SOLVER.MAX_EPOCH", epochs])
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

    cache = build_frozen_features(config, trainer.model, trainer.loader.dataset)
    found = train(trainer)

    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert calls.images == 4  # of 12 in three epochs
    assert (cache.hits, cache.misses) == (8, 4)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """Names of the pictures that are decoded in this process."""
    names = []

    def read(file, name):
        names.append(name)
        return read_rgb(file, name)

    monkeypatch.setattr(ImageDataset, "read_picture", staticmethod(read))
    return names


@pytest.mark.parametrize("workers", ["0", "2"])
def test_pictures_whose_features_are_known_are_not_decoded(tmp_path, decoded, workers):
    trainer, _ = make_trainer(tmp_path, "language_prompt_v2", "DATALOADER.NUM_WORKERS", workers)
    expected = train(trainer)
    decoded.clear()
    trainer, config = make_trainer(tmp_path, "language_prompt_v2", "DATALOADER.NUM_WORKERS", "0")
    build_frozen_features(config, trainer.model, trainer.loader.dataset)

    found = train(trainer)

    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(decoded) == len(set(decoded)) == 4  # of 12 in three epochs


def test_loader_processes_learn_which_pictures_are_known(tmp_path):
    trainer, config = make_trainer(
        tmp_path, "language_prompt_v2", "DATALOADER.NUM_WORKERS", "2", epochs=10
    )
    cache = build_frozen_features(config, trainer.model, trainer.loader.dataset)

    unread = []
    for batch in trainer.loader:
        trainer.step([batch], [1.0])
        unread.append(len(batch.images.unread))

    assert unread[:2] == [0, 0]
    assert unread[-4:] == [2, 2, 2, 2]  # processes load a few batches ahead
    assert cache.misses == 4


def test_padding_that_is_new_to_a_picture_makes_it_read_again(tmp_path, decoded):
    def make() -> tuple:
        trainer, config = make_trainer(tmp_path, "language_prompt_v2", epochs=8)
        for number in (0, 3):  # together they are a smaller batch
            picture = tmp_path / f"colours/train/train_{number}.png"
            Image.open(picture).resize((64, 32)).save(picture)
        return trainer, config

    plain, _ = make()
    expected = train(plain)
    trainer, config = make()
    cache = build_frozen_features(config, trainer.model, trainer.loader.dataset)
    calls = Calls(trainer.model)
    decoded.clear()

    found = train(trainer)

    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert cache.misses == calls.images == 6  # two pictures have two paddings
    assert len(decoded) < 32


def test_pictures_of_several_sets_are_told_apart_by_their_pixels(tmp_path, decoded):
    trainer, config = make_trainer(tmp_path, "language_prompt_v2")
    both = ConcatDataset([trainer.loader.dataset] * 2)
    cache = build_frozen_features(config, trainer.model, both)

    train(trainer)

    assert (cache.hits, cache.misses) == (8, 4)
    assert len(decoded) == 12


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

    assert build_frozen_features(config, trainer.model, trainer.loader.dataset) is None
