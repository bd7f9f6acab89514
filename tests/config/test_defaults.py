"""The tree of settings at its defaults."""

from pathlib import Path

import pytest
import yaml

from maskrcnn_benchmark.config import cfg, default_config

# Added to the settings of GLIP and FIBER; docs/config.md says what each is for.
OWN_KEYS = {
    "DATASETS.FLICKR_ENTITIES_DIR",
    "DATASETS.REPLAY",
    "DATASETS.REPLAY_SHARE",
    "DATASETS.SKIP_BROKEN_IMAGES",
    "INPUT.IMAGE_BACKEND",
    "MODEL.DYHEAD.FUSE_CONFIG.IMPLEMENTATION",
    "MODEL.DYHEAD.FUSE_CONFIG.INITIAL_SCALE",
    "MODEL.DYHEAD.IDENTITY_INIT",
    "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING",
    "SOLVER.ACCUMULATION_STEPS",
    "SOLVER.AMP_DTYPE",
    "SOLVER.COMPILE",
    "SOLVER.COMPILE_BACKEND",
    "SOLVER.COMPILE_MODE",
    "SOLVER.FROZEN_CACHE_MIB",
    "SOLVER.KEEP_LAST_CHECKPOINTS",
    "SOLVER.MAX_NON_FINITE_STEPS",
    "SOLVER.PARALLEL",
    "SOLVER.PULL_TO_START",
    "TEST.CHUNKS_PER_FORWARD",
    "TEST.COMPILE",
    "TEST.PRECISION",
    "TEST.RENUMBER_ANNOTATIONS",
    "local_rank",
    "num_gpus",
}
NUM_GLIP_LEAVES = 458
NUM_GLIP_OPEN_SECTIONS = 4  # counted among the leaves: MULTITASK, SPEC, LAYER_SEARCH, REGISTER
NUM_FIBER_LEAVES = 20 + 36 + 4  # augmentation, DYDETR, and four single ones


def test_all_keys_of_glip_and_fiber_are_there_and_no_others_than_documented():
    leaves = cfg.leaves()
    published = set(leaves) - OWN_KEYS
    assert len(published) == NUM_GLIP_LEAVES - NUM_GLIP_OPEN_SECTIONS + NUM_FIBER_LEAVES
    assert set(leaves) >= OWN_KEYS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.DEVICE", "cuda"),
        ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 2),
        ("MODEL.FPN.DROP_BLOCK", True),
        ("MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN", 256),
        ("MODEL.LANGUAGE_BACKBONE.PAD_MAX", True),
        ("MODEL.SWINT.OUT_CHANNELS", (96, 192, 384, 768)),
        ("MODEL.RPN.ASPECT_RATIOS", (0.5, 1.0, 2.0)),
        ("MODEL.ATSS.TOPK", 9),
        ("MODEL.ATSS.NMS_TH", 0.6),
        ("MODEL.DYHEAD.NUM_CLASSES", 81),
        ("MODEL.DYHEAD.SCORE_AGG", "MEAN"),
        ("MODEL.DYHEAD.FUSE_CONFIG.MLM_LOSS_FOR_ONLY_POSITIVES", True),
        ("MODEL.DYDETR.NUM_PROPOSALS", 300),
        ("INPUT.PIXEL_MEAN", [102.9801, 115.9465, 122.7717]),
        ("AUGMENT.ERASE_H", 1 / 3),
        ("DATASETS.SEPARATION_TOKENS", " "),
        ("DATASETS.PREDEFINED_TEXT", None),
        ("DATASETS.GENERAL_COPY", -1),
        ("DATALOADER.ASPECT_RATIO_GROUPING", True),
        ("SOLVER.BIAS_LR_FACTOR", 2),
        ("SOLVER.WARMUP_FACTOR", 1 / 3),
        ("SOLVER.STEPS", (30000,)),
        ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", None),
        ("TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM", -1),
        ("GLIPKNOW.GPT3_NUM", 5),
        ("OUTPUT_DIR", "OUTPUT"),
    ],
)
def test_published_default(key, value):
    found = cfg.leaves()[key]
    assert found == value
    assert type(found) is type(value)


def test_new_keys_are_only_allowed_in_the_open_sections():
    sections = {
        "MODEL.MULTITASK": cfg.MODEL.MULTITASK,
        "MODEL.SPEC": cfg.MODEL.SPEC,
        "MODEL.BACKBONE.LAYER_SEARCH": cfg.MODEL.BACKBONE.LAYER_SEARCH,
        "DATASETS.REGISTER": cfg.DATASETS.REGISTER,
    }
    for name, node in sections.items():
        assert node.is_new_allowed(), name
        assert not node, name
    assert not cfg.MODEL.is_new_allowed()


def test_two_trees_share_nothing():
    first, second = default_config(), default_config()
    first.INPUT.PIXEL_MEAN[0] = 0.0
    first.DATASETS.REGISTER["train"] = None
    assert second.INPUT.PIXEL_MEAN[0] == 102.9801
    assert "train" not in second.DATASETS.REGISTER


def test_every_key_is_named_in_the_documentation_of_what_was_added():
    document = Path(__file__).parents[2] / "docs" / "config.md"
    text = document.read_text(encoding="utf-8")
    assert {key for key in OWN_KEYS if f"`{key}`" not in text} == set()


def test_a_dumped_tree_reads_back_as_it_was(tmp_path):
    config = default_config()
    config.SOLVER.STEPS = (0.67, 0.89)
    config.DATASETS.OVERRIDE_CATEGORY = [{"id": 1, "name": "t\\", "supercategory": "letters"}]
    config.local_rank, config.num_gpus = 3, 4
    saved = tmp_path / "config.yml"
    saved.write_text(config.dump(), encoding="utf-8")
    again = default_config()
    again.merge_from_file(saved)
    # Pairs inside TEST.RANGES come back as lists, as YAML knows no tuples.
    again.TEST.RANGES = tuple(tuple(pair) for pair in again.TEST.RANGES)
    assert again == config
    assert yaml.safe_load(config.dump())["SOLVER"]["STEPS"] == [0.67, 0.89]
