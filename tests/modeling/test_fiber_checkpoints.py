"""Files that fused detectors start from: FIBER's two stages, DesCo's, and a plain Swin."""

import pytest
import torch

from maskrcnn_benchmark.modeling.detector import FusedVLRCNN
from maskrcnn_benchmark.utils.checkpoint import load_weights
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError
from tests.fiber_tools import build_tiny_model

IMAGE = "fusion_backbone.backbone.body."
TEXT = "fusion_backbone.language_backbone.body.model."


@pytest.fixture(scope="module")
def trained() -> FusedVLRCNN:
    """A model whose every value differs from a new one's."""
    model = build_tiny_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    return model


def file_of(folder, contents, name="weights.pth"):
    torch.save(contents, folder / name)
    return folder / name


def filled(model, trained, prefix: str = "") -> set[str]:
    """Parameters that have the trained value."""
    expected = dict(trained.named_parameters())
    return {
        name
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and torch.equal(parameter, expected[name])
    }


def parameters(model, prefix: str = "") -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefix)}


@pytest.mark.parametrize("name", ["fiber_refcoco.pth", "last_checkpoint"])
def test_a_file_of_the_second_stage_fills_everything(trained, tmp_path, name):
    """FIBER's and DesCo's, whose pre-trained ones are named ``last_checkpoint``."""
    weights = {f"module.{key}": value for key, value in trained.state_dict().items()}
    path = file_of(tmp_path, {"model": weights, "iteration": 7, "optimizer": {}}, name)
    model = build_tiny_model()

    report = load_weights(model, path, partial=False)

    assert report.complete and filled(model, trained) == parameters(model)


def test_files_without_the_numbers_of_positions_are_whole(trained, tmp_path):
    weights = {k: v for k, v in trained.state_dict().items() if "position_ids" not in k}
    path = file_of(tmp_path, {"model": weights})

    assert load_weights(build_tiny_model(), path, partial=False).complete


def test_a_file_of_the_first_stage_fills_both_encoders(trained, tmp_path):
    """Coarse-grained FIBER: an image-text model, nested, with towers of its own names."""
    weights = {}
    for key, value in trained.state_dict().items():
        if key.startswith(IMAGE) and not key.startswith(f"{IMAGE}norm"):
            weights[f"vit_model.{key.removeprefix(IMAGE)}"] = value
        elif key.startswith(TEXT):
            weights[f"text_transformer.{key.removeprefix(TEXT)}"] = value
    extra = {
        "vit_model.norm.weight": torch.zeros(64),
        "cross_modal_text_transform.weight": torch.zeros(24, 24),
        "itm_score.fc.bias": torch.zeros(2),
    }
    path = file_of(tmp_path, {"state_dict": {**weights, **extra}, "epoch": 3})
    model = build_tiny_model()

    report = load_weights(model, path)

    assert filled(model, trained, TEXT) == parameters(model, TEXT)
    output_norms = {f"{IMAGE}norm{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")}
    assert filled(model, trained, IMAGE) == parameters(model, IMAGE) - output_norms
    assert not filled(model, trained, "rpn.") and output_norms <= set(report.missing)
    assert sorted(report.unexpected) == sorted(
        ["norm.weight", "cross_modal_text_transform.weight", "itm_score.fc.bias"]
    )


def test_a_plain_swin_fills_the_image_side_but_not_what_reads_the_text(trained, tmp_path):
    weights = {
        key.removeprefix(IMAGE): value
        for key, value in trained.state_dict().items()
        if key.startswith(IMAGE) and "i2t" not in key and not key.startswith(f"{IMAGE}norm")
    }
    model = build_tiny_model()

    load_weights(model, file_of(tmp_path, {"model": weights}))

    assert filled(model, trained) == {f"{IMAGE}{key}" for key in weights} & parameters(model)


class TestVersionsThatDoNotFit:
    """v3 has norms that v2 lacks; a file of the other version must not pass unnoticed."""

    def test_a_v2_file_in_a_v3_model(self, tmp_path):
        v2 = build_tiny_model({"MODEL.BACKBONE.FUSION_VERSION": "v2"})
        path = file_of(tmp_path, {"model": v2.state_dict()})
        with pytest.raises(CheckpointError, match="does not fit"):
            load_weights(build_tiny_model(), path, partial=False)

    def test_a_v3_file_in_a_v2_model(self, trained, tmp_path):
        path = file_of(tmp_path, {"model": trained.state_dict()})
        model = build_tiny_model({"MODEL.BACKBONE.FUSION_VERSION": "v2"})
        with pytest.raises(CheckpointError, match="FUSION_VERSION 'v3'"):
            load_weights(model, path, partial=False)
