"""FIBER's commands, as its README gives them, on a tiny model and a few drawn pictures."""

import json
import shutil
from pathlib import Path

import pytest

from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from tests.engine.small_world import REPOSITORY, write_detection_set, write_expression_set
from tests.fiber_tools import tiny_settings
from tests.tools.test_train_net import evaluate_net, train_net

SMALL_RUN = {
    "INPUT.MIN_SIZE_TRAIN": 64,
    "INPUT.MAX_SIZE_TRAIN": 96,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "AUGMENT.MULT_MIN_SIZE_TRAIN": (48, 64),
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.USE_AMP": False,
    "SOLVER.MAX_EPOCH": 1,
    "SOLVER.WARMUP_ITERS": 0,
    "TEST.IMS_PER_BATCH": 1,
    "TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM": -1,
}


def options(output: Path, **settings) -> list[str]:
    merged = {**tiny_settings(), **SMALL_RUN, "OUTPUT_DIR": output, **settings}
    return [str(part) for pair in merged.items() for part in pair]


@pytest.fixture
def data_root(tmp_path, monkeypatch) -> Path:
    """A folder laid out as DATA.md says, with four pictures."""
    root = tmp_path / "DATASET"
    expressions = write_expression_set(tmp_path, 4)
    (root / "mdetr_annotations").mkdir(parents=True)
    for split in ("train", "val", "testA"):
        shutil.copy(expressions, root / f"mdetr_annotations/finetune_refcoco_{split}.json")
    shutil.copytree(tmp_path / "images", root / "refcoco/train2014")
    monkeypatch.setenv("DATASET", str(root))
    return root


@pytest.mark.slow
def test_referring_expressions_are_trained_and_evaluated(data_root, tmp_path):
    config = ["--config-file", str(REPOSITORY / "configs/refcoco.yaml")]
    output = tmp_path / "output"

    assert train_net([*config, *options(output)]) == 0

    weights = output / "model_final.pth"
    assert read_checkpoint(weights)["iteration"] == 2
    assert "Precision @ 1, 5, 10 by GIoU" in (output / "log.txt").read_text()

    task = ["--task_config", str(REPOSITORY / "configs/refexp/_refcoco_testA.yaml")]
    small = options(output, **{"TEST.EVAL_TASK": "grounding"})
    assert evaluate_net([*config, *task, "--weight", str(weights), *small]) == 0

    folder = output / "eval/model_final/inference/refcoco_testA"
    lines = (folder / "Recall_results.csv").read_text()
    for k in (1, 5, 10):
        assert f"refcoco: Recall@{k} = " in lines
        assert f"refcoco: Recall@{k} (GIoU) = " in lines
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert 0 <= metrics["precision@1 (GIoU)"] <= metrics["precision@1"] <= 1


@pytest.mark.slow
def test_a_class_list_in_several_chunks_is_evaluated(tmp_path):
    annotations = write_detection_set(tmp_path, 3)
    name = "pretrain/mixed_nococo_flickr_objects365"
    config = ["--config-file", str(REPOSITORY / f"configs/{name}.yaml")]
    entry = {"img_dir": str(tmp_path / "images"), "ann_file": str(annotations)}
    task = tmp_path / "task.yaml"
    task.write_text(json.dumps({"DATASETS": {"REGISTER": {"squares": entry}, "TEST": ["squares"]}}))
    opts = options(tmp_path / "output", **{"TEST.CHUNKED_EVALUATION": 2})

    assert evaluate_net([*config, "--task_config", str(task), *opts]) == 0

    assert (tmp_path / "output/inference/squares/bbox.json").exists()
