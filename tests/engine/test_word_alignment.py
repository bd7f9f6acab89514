"""First stage of the shapes world: encoders learn words from close-ups."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.data.shapes import all_kinds
from maskrcnn_benchmark.data.shapes.crops import (
    draw_crops,
    name_holds,
    names_for,
    random_name,
    to_grey,
)
from maskrcnn_benchmark.engine.word_alignment import (
    AlignmentPlan,
    WordAlignment,
    alignment_logits,
    alignment_loss,
    learned_weights,
)
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder
from tests.engine.small_world import REPOSITORY


def small_stage(iterations: int, model: str = "glip_B", encoder: str = "text_encoder"):
    config = cfg.clone()
    config.merge_from_file(REPOSITORY / f"configs/shapes/{model}.yaml")
    settings = {
        "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": str(REPOSITORY / "configs/shapes" / encoder),
        "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE": str(REPOSITORY / "configs/shapes/text_encoder"),
        "MODEL.WEIGHT": "",
    }
    config.merge_from_list([part for setting in settings.items() for part in setting])
    torch.manual_seed(0)
    return WordAlignment(
        build_detection_model(config),
        AlignmentPlan(iterations=iterations, batch_size=12, pool=24, save_every=2),
        mean=config.INPUT.PIXEL_MEAN,
        std=config.INPUT.PIXEL_STD,
    )


@pytest.mark.parametrize("seed", range(5))
def test_names_hold_for_their_objects_and_every_object_has_one(seed):
    rng = np.random.default_rng(seed)
    kinds = all_kinds(held_out=False)
    objects = [(kinds[int(i)], "small") for i in rng.integers(len(kinds), size=6)]
    for kind, size in objects:
        assert name_holds(random_name(rng, kind, size, colour=True), kind, size)
    names = names_for(rng, objects, 12)
    assert len(set(names)) == 12
    assert all(any(name_holds(name, *item) for name in names) for item in objects)


def test_captions_of_grey_pictures_name_no_colour():
    rng = np.random.default_rng(0)
    kinds = all_kinds(held_out=False)
    names = names_for(rng, [(kind, "large") for kind in kinds[:12]], 12, colour=False)
    colours = {kind.colour for kind in kinds}
    assert not colours & {word for name in names for word in name.split()}
    grey = to_grey(draw_crops(rng, kinds, 2).pixels)
    assert (grey == grey[..., :1]).all()


def test_crops_are_tight_around_one_object_of_a_trained_kind():
    crops = draw_crops(np.random.default_rng(3), all_kinds(held_out=False), 20)
    assert crops.pixels.shape == (20, 64, 64, 3)
    width, height = (crops.boxes[:, 2:] - crops.boxes[:, :2]).T
    large = np.array([size == "large" for size in crops.sizes])
    assert (np.maximum(width, height)[large] > 40).all()
    assert (np.maximum(width, height)[~large] <= 32).all()
    assert crops.boxes.min() >= 0
    assert crops.boxes.max() <= 64


def test_loss_is_the_entropy_of_the_target_when_true_tokens_take_everything():
    positive = torch.tensor([[True, True, False, False]])
    word = torch.tensor([[True, True, True, False]])
    logits = torch.tensor([20.0, 20.0, -20.0, 50.0]).expand(1, 3, 4)
    assert alignment_loss(logits, positive, word).item() == pytest.approx(np.log(2), abs=1e-5)
    wrong = torch.tensor([-20.0, -20.0, 20.0, 50.0]).expand(1, 3, 4)
    assert alignment_loss(wrong, positive, word) > 30


def test_steps_change_encoders_and_leave_the_tower_alone(tmp_path):
    stage = small_stage(iterations=3)
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    stage.run(CheckpointFolder(tmp_path))
    changed = {n for n, v in stage.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert changed <= set(learned_weights(stage.model))
    assert any(name.startswith("language_backbone.") for name in changed)


def test_interrupted_stage_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    whole = small_stage(iterations=4)
    whole.run(CheckpointFolder(tmp_path / "whole"))
    first = small_stage(iterations=4)
    for iteration in (1, 2):
        first.step(iteration)
    CheckpointFolder(tmp_path / "parts").save(
        "model_0000002",
        {
            "model": first.model.state_dict(),
            "optimizer": first.optimizer.state_dict(),
            "iteration": 2,
        },
    )
    second = small_stage(iterations=4)
    second.run(CheckpointFolder(tmp_path / "parts"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_accuracy_is_a_percentage_for_every_question():
    results = small_stage(iterations=1).accuracy(held_out=True, number=12)
    assert set(results) == {"shape", "colour", "texture", "size", "name"}
    assert all(0 <= value <= 100 for value in results.values())


@pytest.mark.parametrize("settings", [{"batch_size": 10}, {"iterations": 0}, {"pool": 12}])
def test_a_plan_that_cannot_run_is_refused(settings):
    with pytest.raises(ValueError, match=r"multiple of 12|needs an iteration"):
        AlignmentPlan(**settings)


def test_encoders_that_are_fused_learn_too():
    stage = small_stage(2, "fiber", "fused_text_encoder")
    before = {name: value.clone() for name, value in learned_weights(stage.model).items()}
    image, text = (group["params"] for group in stage.optimizer.param_groups)
    encoders = stage.model.fusion_backbone
    assert {id(p) for p in encoders.language_backbone.parameters()} == {id(p) for p in text}
    assert {id(p) for p in encoders.backbone.parameters()} < {id(p) for p in image}
    stage.step(1)
    moved = [n for n, value in learned_weights(stage.model).items() if not value.equal(before[n])]
    for part in ("backbone.", "language_backbone."):
        assert any(name.startswith(f"fusion_backbone.{part}") for name in moved)


@pytest.mark.parametrize("model", [("glip_B", "text_encoder"), ("fiber", "fused_text_encoder")])
def test_objects_that_share_a_caption_get_the_logits_that_they_get_alone(model):
    stage = small_stage(1, *model)
    stage.model.eval()
    images = torch.randn(4, 3, 64, 64)
    boxes = torch.tensor([[10.0, 10, 40, 40]]).expand(4, 4)
    captions = ["red. blue star.", "small ring.", "red. blue star.", "small ring."]
    with torch.no_grad():
        together = alignment_logits(stage.model, images, boxes, captions)
        for index, caption in enumerate(captions):
            one = slice(index, index + 1)
            alone = alignment_logits(stage.model, images[one], boxes[one], [caption])
            torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-4)
