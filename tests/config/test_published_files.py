"""The configuration files that commands name, under their published names."""

import json
from functools import cache
from pathlib import Path

import pytest

from maskrcnn_benchmark.config import CfgNode, default_config
from maskrcnn_benchmark.config.dataset_sources import catalogue_of, dataset_names

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
ODINW = [name for name in FILES if name.startswith(("odinw_13/", "odinw_35/", "odinw/"))]
NAMED_BY_COMMANDS = [
    "pretrain/_coco.yaml",
    "pretrain/glip_A_Swin_T_O365.yaml",
    "pretrain/glip_Swin_T_O365.yaml",
    "pretrain/glip_Swin_T_O365_GoldG.yaml",
    "pretrain/glip_Swin_L.yaml",
    "pretrain/mixed_nococo_flickr_objects365.yaml",
    "pretrain/mixed_nococo_flickr_objects365_refexpclean.yaml",
    "lvis/minival.yaml",
    "lvis/val.yaml",
    "flickr/test.yaml",
    "flickr/val.yaml",
    "odinw/Aquarium_Aquarium_Combined.v2-raw-1024.coco.yaml",
    "e2e_dyhead_SwinT_B_FPN_coco_finetuning_fusion_backbone.yaml",
    "e2e_dyhead_SwinT_B_FPN_lvis_finetuning_fusion_backbone.yaml",
    "refcoco.yaml",
    "refcocoplus.yaml",
    "refcocog.yaml",
    "refexp/_refcoco_testA.yaml",
    "refexp/_refcoco_testB.yaml",
    "refexp/_refcoco+_testA.yaml",
    "refexp/_refcoco+_testB.yaml",
    "refexp/_refcocog_test.yaml",
]
NUM_CLASSES_OF_THEIR_OWN = {"boggleBoards": 35, "dice": 71, "pistols": 297, "selfdrivingCar": 3000}


@cache
def load(name: str) -> CfgNode:
    config = default_config()
    if name.startswith("shapes/tasks/"):  # names sets that the model's own file registers
        config.merge_from_file(CONFIGS / "shapes/glip_C.yaml")
    config.merge_from_file(CONFIGS / name)
    config.freeze()
    return config


def test_every_file_that_a_command_names_is_there():
    assert [name for name in NAMED_BY_COMMANDS if name not in FILES] == []
    assert len([name for name in FILES if name.startswith("odinw_13/")]) == 13
    assert len([name for name in FILES if name.startswith("odinw_35/")]) == 36


@pytest.mark.parametrize("name", FILES)
def test_file_merges_and_its_datasets_are_known(name):
    config = load(name)
    for is_train in (True, False):
        known = catalogue_of(config, is_train)
        assert [name for name in dataset_names(config, is_train) if name not in known] == []


def test_glip_variants_differ_in_fusion_and_data():
    a, b, c, large = (
        load(f"pretrain/glip_{name}.yaml")
        for name in ("A_Swin_T_O365", "Swin_T_O365", "Swin_T_O365_GoldG", "Swin_L")
    )
    fusions = [config.MODEL.DYHEAD.FUSE_CONFIG.EARLY_FUSE_ON for config in (a, b, c, large)]
    assert fusions == [False, True, True, True]
    assert b.DATASETS.TRAIN == ("object365_dt_train",)
    assert c.DATASETS.TRAIN == ("object365_dt_train", "mixed_train_no_coco", "flickr30k_train")
    assert (c.MODEL.DYHEAD.NUM_CONVS, large.MODEL.DYHEAD.NUM_CONVS) == (6, 8)
    assert large.MODEL.SWINT.OUT_CHANNELS == (192, 384, 768, 1536)
    assert large.MODEL.BACKBONE.FREEZE_CONV_BODY_AT == 2
    assert c.DATASETS.SEPARATION_TOKENS == ". "
    assert c.AUGMENT.MULT_MIN_SIZE_TRAIN == (480, 560, 640, 720, 800)
    assert c.SOLVER.LANG_LR == 1e-5


def test_fiber_files_share_one_model_in_two_fusion_layouts():
    pretrain = load("pretrain/mixed_nococo_flickr_objects365.yaml")
    expressions = load("refcocoplus.yaml")
    assert pretrain.MODEL.BACKBONE.FUSION_VERSION == "v2"
    assert expressions.MODEL.BACKBONE.FUSION_VERSION == "v3"
    assert expressions.MODEL.SWINT == pretrain.MODEL.SWINT
    assert expressions.DATASETS.TRAIN == ("refcoco+_train",)
    assert expressions.MODEL.ATSS.INFERENCE_TH == 0.0


def test_lvis_task_uses_the_evaluation_data_it_registers():
    config = load("lvis/minival.yaml")
    entry = config.DATASETS.REGISTER.lvis_evaluation_mini_val
    assert entry.ann_file == "coco/annotations/lvis_v1_minival_inserted_image_name.json"
    assert not config.DATALOADER.ASPECT_RATIO_GROUPING


@pytest.mark.parametrize("name", ODINW)
class TestODinWTask:
    def test_classes_are_numbered_from_one_and_prompts_match_them(self, name):
        datasets = load(name).DATASETS
        classes = datasets.OVERRIDE_CATEGORY
        assert [entry["id"] for entry in classes] == list(range(1, len(classes) + 1))
        assert all(set(entry) == {"id", "name", "supercategory"} for entry in classes)
        if datasets.CAPTION_PROMPT is not None:
            assert len(datasets.CAPTION_PROMPT) == len(classes)
            assert set(datasets.CAPTION_PROMPT[0]) == {"prefix", "name", "suffix"}

    def test_class_count_is_that_of_the_classes_plus_background(self, name):
        config = load(name)
        own = NUM_CLASSES_OF_THEIR_OWN.get(Path(name).name.split("_")[0])
        expected = own or len(config.DATASETS.OVERRIDE_CATEGORY) + 1
        heads = (config.MODEL[head] for head in ("ATSS", "DYHEAD", "FCOS", "ROI_BOX_HEAD"))
        assert {head.NUM_CLASSES for head in heads} == {expected}

    def test_few_shot_subsets_lie_beside_the_annotations_of_their_split(self, name):
        config = load(name)
        register = config.DATASETS.REGISTER
        assert {"train", "val", "test", *config.DATASETS.TRAIN, *config.DATASETS.TEST} <= set(
            register
        )
        splits = [split for split in ("train", "val", "minival") if split in register]
        for split in splits:
            folder = register[split].ann_file.rpartition("/")[0]
            for shot in (1, 3, 5, 10):
                for seed in (3, 30, 300):
                    entry = register[f"{split}_{shot}_{seed}"]
                    file = f"fewshot_{split}_shot{shot}_seed{seed}.json"
                    assert entry.ann_file == f"{folder}/{file}"
                    assert entry.img_dir == register[split].img_dir


def test_odinw_names_that_need_care_are_kept_to_the_letter():
    def names(file):
        return [entry["name"] for entry in load(file).DATASETS.OVERRIDE_CATEGORY]

    boggle = names("odinw_35/boggleBoards_416x416AutoOrient_export_.yaml")
    assert "t\\" in boggle
    assert "o " in boggle
    assert names("odinw_35/ChessPieces_Chess_Pieces.v23-raw.coco.yaml")[0] == "  "
    assert names("odinw_13/CottontailRabbits.yaml") == ["Cottontail-Rabbit"]
    assert names("odinw_35/CottontailRabbits.yaml") == ["rabbit"]


def test_only_four_tasks_of_odinw_35_and_none_of_13_have_prompts():
    with_prompt = {name for name in ODINW if load(name).DATASETS.CAPTION_PROMPT is not None}
    stems = {Path(name).name.split(".")[0].split("_")[0] for name in with_prompt}
    assert stems == {"Aquarium", "EgoHands", "Packages", "pothole"}
    assert not [name for name in with_prompt if name.startswith("odinw_13/")]


def test_the_list_of_35_tasks_leaves_out_the_second_plantdoc():
    listed = json.loads((CONFIGS / "odinw_35" / "_all.json").read_text(encoding="utf-8"))
    assert len(listed) == 35
    assert all((CONFIGS.parent / path).is_file() for path in listed)
    assert "configs/odinw_35/plantdoc_100x100.yaml" not in listed


def test_sample_data_lies_where_its_task_files_look(shared_dir, monkeypatch):
    monkeypatch.setenv("DATASET", str(shared_dir / "data"))
    tasks = {
        "odinw_35/Raccoon_Raccoon.v2-raw.coco.yaml": "odinw/Raccoon",
        "odinw_35/BCCD_BCCD.v3-raw.coco.yaml": "odinw/BCCD",
        "odinw_35/PascalVOC.yaml": "odinw/PascalVOC",
        "odinw_35/ChessPieces_Chess_Pieces.v23-raw.coco.yaml": "odinw/ChessPieces",
    }
    for task in tasks:
        for entry in load(task).DATASETS.REGISTER.values():
            if "minival" not in entry.ann_file:
                assert (shared_dir / "data" / entry.ann_file).is_file(), entry.ann_file


def test_categories_of_the_task_files_are_those_of_the_annotations(shared_dir):
    for task in ("Raccoon_Raccoon.v2-raw.coco", "BCCD_BCCD.v3-raw.coco", "PascalVOC"):
        datasets = load(f"odinw_35/{task}.yaml").DATASETS
        annotations = shared_dir / "data" / datasets.REGISTER.train.ann_file
        content = json.loads(annotations.read_text(encoding="utf-8"))
        assert content["categories"] == datasets.OVERRIDE_CATEGORY
