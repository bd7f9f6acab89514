"""Evaluation in half precision, with trained weights: what is found stays what it was."""

import json

import pytest

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.evaluate_tasks import WeightChoice, load_model
from maskrcnn_benchmark.engine.inference import inference
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_iou
from tests.engine.small_world import REPOSITORY

SURE = 0.3
NAMES = (REPOSITORY / "demo/shapes.txt").read_text().strip().split(". ")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Detects in the bundled picture with the bundled weights, in a precision."""
    folder = tmp_path_factory.mktemp("shapes")
    categories = [{"id": i + 1, "name": name.rstrip(".")} for i, name in enumerate(NAMES)]
    content = {
        "images": [{"id": 7, "file_name": "shapes.jpg", "width": 192, "height": 192}],
        "annotations": [],
        "categories": categories,
    }
    (folder / "shapes.json").write_text(json.dumps(content))

    def run(precision: str) -> list[dict]:
        config = cfg.clone()
        config.merge_from_file(REPOSITORY / "configs/shapes/glip_C.yaml")
        config.DATASETS.REGISTER.one = type(config)(
            {"img_dir": str(REPOSITORY / "demo"), "ann_file": str(folder / "shapes.json")}
        )
        config.merge_from_list(
            ["DATASETS.TEST", ("one",), "TEST.PRECISION", precision, "DATALOADER.NUM_WORKERS", 0]
        )
        config.freeze()
        weights = WeightChoice(
            REPOSITORY / "MODEL/shapes/glip_shapes_C.safetensors", "the test names it"
        )
        model = load_model(config, weights, use_ema=False, partial=False, trust=False)
        (loader,) = make_data_loader(config, is_train=False, tokenizer=model.tokenizer)
        output = folder / precision
        inference(config, model, loader, "one", output_folder=output)
        return json.loads((output / "bbox.json").read_text())

    return run


@pytest.fixture(scope="module")
def exact(run):
    found = [row for row in run("float32") if row["score"] >= SURE]
    assert len(found) >= 4  # the picture shows that many of the things named
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "score", "iou"), [("float16", 2e-3, 0.98), ("bfloat16", 2e-2, 0.9)]
)
def test_half_precision_finds_the_same_boxes(run, exact, precision, score, iou):
    found = run(precision)
    assert found != exact  # it was another precision
    for row in exact:
        same_class = [other for other in found if other["category_id"] == row["category_id"]]
        overlaps = boxlist_iou(_boxes([row]), _boxes(same_class))[0]
        nearest = same_class[int(overlaps.argmax())]
        assert overlaps.max() >= iou
        assert nearest["score"] == pytest.approx(row["score"], abs=score)


def _boxes(rows: list[dict]) -> BoxList:
    return BoxList([row["bbox"] for row in rows], (192, 192), mode="xywh").convert("xyxy")
