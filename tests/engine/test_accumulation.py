"""Parts of a batch make the update of the whole batch, however many positives each part has."""

from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.rpn.anchor_generator import make_anchor_generator
from tests.engine.one_update import assert_same_gradients, first_updates, write_even_world
from tests.process_tools import run_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_even_world(folder, SOLVER__IMS_PER_BATCH=4)
    return folder


def update(world: Path, parts: int):
    return first_updates(
        str(world / "config.yaml"),
        str(world / f"parts_{parts}"),
        "SOLVER.ACCUMULATION_STEPS",
        parts,
    )


@pytest.fixture(scope="module")
def whole_batch(world):
    return update(world, 1)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_have_the_losses_and_gradients_of_the_whole_batch(world, whole_batch, parts):
    found = update(world, parts)
    assert found.losses[0] == pytest.approx(whole_batch.losses[0], rel=1e-5)
    assert_same_gradients(found, whole_batch)


@pytest.mark.slow
def test_parts_on_two_processes_have_the_gradients_of_the_whole_batch(world, whole_batch):
    for found in run_world(2, update, world, 2, folder=world / "processes"):
        assert_same_gradients(found, whole_batch)


@pytest.mark.parametrize("body", ["SWINT-FPN-RETINANET", "R-50-FPN-RETINANET"])
def test_anchors_of_an_image_are_those_of_its_maps(body):
    config = cfg.clone()
    config.merge_from_list(
        [
            *("MODEL.BACKBONE.CONV_BODY", body, "MODEL.BACKBONE.OUT_CHANNELS", 16),
            *("MODEL.SWINT.EMBED_DIM", 8, "MODEL.SWINT.OUT_CHANNELS", (8, 16, 32, 64)),
            *("MODEL.SWINT.DEPTHS", (1, 1, 1, 1), "MODEL.SWINT.NUM_HEADS", (1, 1, 2, 2)),
            *("MODEL.RPN.ANCHOR_SIZES", (64, 128, 256, 512, 1024)),
            *("MODEL.RPN.ANCHOR_STRIDE", (8, 16, 32, 64, 128)),
        ]
    )
    backbone, anchors = build_backbone(config).eval(), make_anchor_generator(config)
    for height, width in ((96, 160), (75, 131)):
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, height, width))
        for expected, found in zip(anchors(maps), anchors.for_image(height, width)):
            assert torch.equal(found, expected)
