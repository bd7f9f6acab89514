"""Which runs a fine-tuning command asks for, and what trains in each."""

import pytest
import yaml

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.config.dataset_sources import copies_of
from maskrcnn_benchmark.engine.finetuning import (
    NO_TRAINING,
    TUNING_MODES,
    Schedule,
    apply_tuning_mode,
    expand_task_files,
    parse_seeds,
    plan_runs,
    resolve_last_checkpoint,
)
from maskrcnn_benchmark.modeling.detector import build_detection_model
from tests.engine.small_task import small_config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1_200_8", Schedule(1, 200, 8, 1)),
        ("3_200_4", Schedule(3, 200, 4, 3)),
        ("0_200_1", Schedule(0, 200, 1, 0)),
        ("5_200_2_1", Schedule(5, 200, 2, 1)),
    ],
)
def test_the_published_schedules_are_read(text, expected):
    assert Schedule.parse(text) == expected


@pytest.mark.parametrize("text", ["3_200", "a_200_4", "3_0_4", "3_200_0", "3_200_4_1_1", "-1_2_3"])
def test_other_schedules_are_refused(text):
    with pytest.raises(ConfigError, match="custom_shot_and_epoch_and_general_copy"):
        Schedule.parse(text)


def write_task_file(folder, name, **datasets):
    path = folder / f"{name}.yaml"
    register = {"train": {"ann_file": "a.json", "img_dir": "."}, **datasets.pop("REGISTER", {})}
    content = {
        "DATASETS": {"TRAIN": ["train"], "TEST": ["val"], "REGISTER": register, **datasets},
        "SOLVER": {"MAX_EPOCH": 12},
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def plan(tmp_path, *opts, tasks=("a",), **kwargs):
    base = small_config("OUTPUT_DIR", str(tmp_path / "out"), *opts)
    files = [write_task_file(tmp_path, name) for name in tasks]
    return plan_runs(base, list(opts), config_file="small.yaml", task_files=files, **kwargs)


def test_every_task_and_seed_has_a_folder_of_its_own(tmp_path):
    runs = plan(tmp_path, tasks=("a", "b"), seeds=[3, 30])

    assert [(run.task, run.folder.name) for run in runs] == [
        ("a", "ft_task_1_seed_3"),
        ("a", "ft_task_1_seed_30"),
        ("b", "ft_task_2_seed_3"),
        ("b", "ft_task_2_seed_30"),
    ]


def test_without_task_files_the_configuration_is_the_task(tmp_path):
    (run,) = plan(tmp_path, tasks=())

    assert run.task == "small"
    assert run.folder.name == "ft_task_1"
    assert run.config.DATASETS.TRAIN == ("train",)


def test_schedule_wins_over_the_task_and_the_command_line_over_the_schedule(tmp_path):
    schedule = Schedule.parse("3_200_4")

    (run,) = plan(tmp_path, schedule=schedule)
    (named,) = plan(tmp_path, "SOLVER.MAX_EPOCH", "7", schedule=schedule)

    assert (run.config.SOLVER.MAX_EPOCH, run.config.DATASETS.GENERAL_COPY) == (200, 4)
    assert run.config.DATASETS.FEW_SHOT == run.shots == 3
    assert (named.config.SOLVER.MAX_EPOCH, named.config.DATASETS.GENERAL_COPY) == (7, 4)


def test_copies_of_the_schedule_repeat_coco_and_lvis_too(tmp_path):
    (run,) = plan(tmp_path, schedule=Schedule.parse("0_12_8"), tasks=())

    for name in ("train", "coco_grounding_train", "lvis_grounding_train"):
        assert copies_of(name, run.config, is_train=True) == 8


def test_seeds_choose_images_and_seed_training_whatever_the_command_line_says(tmp_path):
    opts = ("DATASETS.SHUFFLE_SEED", "5", "SOLVER.SEED", "10")

    first, second = plan(tmp_path, *opts, seeds=[3, 30])

    assert (first.config.DATASETS.SHUFFLE_SEED, second.config.DATASETS.SHUFFLE_SEED) == (3, 30)
    assert (first.config.SOLVER.SEED, second.config.SOLVER.SEED) == (13, 40)


def prepared_run(tmp_path, schedule, *opts, seeds=(), names=("train_3_30", "val_3_30", "val_1_30")):
    base = small_config("OUTPUT_DIR", str(tmp_path), *opts)
    entry = {"ann_file": "a.json", "img_dir": "."}
    file = write_task_file(tmp_path, "a", REGISTER=dict.fromkeys(names, entry))
    return plan_runs(
        base,
        list(opts),
        config_file="small.yaml",
        task_files=[file],
        schedule=Schedule.parse(schedule),
        seeds=seeds,
        prepared_data=True,
    )[0].config.DATASETS


def test_prepared_subsets_are_named_with_the_seed_of_the_loop(tmp_path):
    datasets = prepared_run(tmp_path, "3_200_4", "DATASETS.SHUFFLE_SEED", "3", seeds=[30])

    assert (datasets.TRAIN, datasets.TEST) == (("train_3_30",), ("val_3_30",))
    assert datasets.FEW_SHOT == 0
    assert datasets.GENERAL_COPY_TEST == -1  # every image counts once


def test_prepared_validation_may_have_other_shots(tmp_path):
    datasets = prepared_run(tmp_path, "3_200_4_1", seeds=[30])

    assert datasets.TEST == ("val_1_30",)


def test_all_data_need_no_prepared_subset(tmp_path):
    assert prepared_run(tmp_path, "0_200_1", seeds=[30]).TRAIN == ("train",)


def test_a_prepared_subset_that_is_not_registered_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no set 'train_3_31'.*train_3_30"):
        prepared_run(tmp_path, "3_200_4", seeds=[31])


def test_shots_of_10000_train_nothing(tmp_path):
    (run,) = plan(tmp_path, schedule=Schedule(NO_TRAINING, 1, 1, 1))

    assert not run.trains
    assert run.config.DATASETS.FEW_SHOT == 0


def test_task_patterns_are_expanded_in_order_and_once(tmp_path):
    for name in ("b.yaml", "a.yaml", "c.yaml"):
        (tmp_path / name).touch()

    found = expand_task_files(f"{tmp_path}/c.yaml,{tmp_path}/[ab].yaml,{tmp_path}/a.yaml")

    assert [path.rpartition("/")[2] for path in found] == ["c.yaml", "a.yaml", "b.yaml"]
    with pytest.raises(FileNotFoundError, match="nothing"):
        expand_task_files(f"{tmp_path}/nothing*.yaml")
    with pytest.raises(FileNotFoundError, match="--task_config: no file"):
        expand_task_files("nothing*.yaml", "--task_config")


def test_seeds_are_a_list_of_different_whole_numbers():
    assert parse_seeds("3, 30,300") == [3, 30, 300]
    assert parse_seeds(None) == []
    for text in ("3,x", "3,3"):
        with pytest.raises(ConfigError, match="shuffle_seeds"):
            parse_seeds(text)


def test_the_last_checkpoint_of_a_folder_can_be_asked_for(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000100.pth")

    assert resolve_last_checkpoint(str(tmp_path / "model_last_checkpoint.pth")) == str(
        tmp_path / "model_0000100.pth"
    )
    # FIBER's weights are files of that name; they are files, not references.
    assert resolve_last_checkpoint("MODEL/last_checkpoint") == "MODEL/last_checkpoint"
    with pytest.raises(FileNotFoundError, match="there is no"):
        resolve_last_checkpoint(str(tmp_path / "no" / "model_last_checkpoint.pth"))


# ---- what trains --------------------------------------------------------------------------------

PROBED = {
    "rpn.head.log_scale",
    "rpn.head.bias_lang",
    "rpn.head.bias0",
    "rpn.head.bbox_pred.weight",
    "rpn.head.bbox_pred.bias",
    "rpn.head.centerness.weight",
    "rpn.head.centerness.bias",
    "rpn.head.dot_product_projection_text.weight",
    "rpn.head.dot_product_projection_text.bias",
}
CLASSIC = {"rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias"}
OFFSETS = {"rpn.tunable_linear.weight"}


def names_of(mode):
    config = small_config("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode)
    apply_tuning_mode(config)
    model = build_detection_model(config)
    model.eval()
    model.train()  # as after a validation
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return trained, {name for name, _ in model.named_parameters()}


def test_full_tuning_trains_everything_but_the_classic_branch():
    trained, everything = names_of("full")

    assert trained == everything - CLASSIC


def test_a_linear_probe_trains_the_last_layers():
    assert names_of("linear_prob")[0] == PROBED


def test_language_prompt_v1_trains_the_text_encoder():
    trained, everything = names_of("language_prompt_v1")

    assert trained == {name for name in everything if name.startswith("language_backbone.")}


def test_language_prompt_v2_trains_one_tensor():
    assert names_of("language_prompt_v2")[0] == OFFSETS


def test_language_prompt_v3_trains_the_text_encoder_and_the_probed_layers():
    trained, everything = names_of("language_prompt_v3")

    assert trained == {n for n in everything if n.startswith("language_backbone.")} | PROBED


def test_language_prompt_v4_trains_the_offsets_and_the_probed_layers():
    assert names_of("language_prompt_v4")[0] == OFFSETS | PROBED


def test_a_mode_wins_over_the_command_line(tmp_path):
    opts = ("MODEL.BACKBONE.FREEZE", "True", "SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "full")

    (run,) = plan(tmp_path, *opts)

    assert not run.config.MODEL.BACKBONE.FREEZE


def test_no_mode_changes_nothing():
    config = small_config("MODEL.FPN.FREEZE", "True")
    before = config.leaves()

    apply_tuning_mode(config)

    assert config.leaves() == before


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'linear'.*linear_prob.*language_prompt_v4"):
        apply_tuning_mode(small_config("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "linear"))
    assert set(TUNING_MODES) == {"full", "linear_prob"} | {
        f"language_prompt_v{n}" for n in (1, 2, 3, 4)
    }
