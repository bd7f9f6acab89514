"""Numbers of many runs put together."""

import csv
import json
import math

import pytest

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.engine.eval_summary import (
    Row,
    aggregate,
    comparison_table,
    config_of_folder,
    find_checkpoints,
    find_run_folders,
    markdown_table,
    write_summary,
)
from tests.engine.small_task import small_config


def row(task, seed, value, shots=1, dataset="test", tuning="full", folder=None):
    folder = folder or f"out/{tuning}_{shots}/ft_task_{task}_seed_{seed}"
    return Row(folder, task, tuning, shots, seed, "model_best", dataset, "AP", value)


def test_mean_and_deviation_are_over_seeds():
    (group,) = aggregate([row("a", 3, 0.1), row("a", 30, 0.3)])

    assert group.mean == pytest.approx(0.2)
    assert group.deviation == pytest.approx(math.sqrt(0.02))
    assert group.seeds == 2


def test_one_seed_has_no_deviation():
    (group,) = aggregate([row("a", 3, 0.1)])

    assert group.deviation is None
    assert "| 10.0 | 1 |" in markdown_table([group])


def test_the_mean_over_tasks_is_taken_seed_by_seed():
    groups = aggregate([row("a", 3, 0.1), row("a", 30, 0.3), row("b", 3, 0.5), row("b", 30, 0.3)])

    mean = groups[-1]
    assert mean.task == "mean of 2 tasks"
    assert mean.mean == pytest.approx(0.3)
    assert mean.deviation == pytest.approx(0.0)


def test_a_seed_that_a_task_lacks_stays_out_of_the_mean_over_tasks():
    groups = aggregate([row("a", 3, 0.1), row("a", 30, 0.9), row("b", 3, 0.5)])

    assert (groups[-1].mean, groups[-1].seeds) == (pytest.approx(0.3), 1)


def test_settings_are_kept_apart_and_all_data_come_last():
    rows = [row("a", 3, 0.5, shots=0), row("a", 3, 0.1), row("a", 3, 0.2, shots=10)]
    rows += [row("a", 3, 0.3, dataset="val"), row("a", 3, 0.4, tuning="linear_prob")]

    groups = aggregate(rows)

    assert [(g.tuning, g.shots, g.dataset) for g in groups] == [
        ("full", 1, "val"),
        ("full", 1, "test"),
        ("full", 10, "test"),
        ("full", 0, "test"),
        ("linear_prob", 1, "test"),
    ]
    assert "| full | all |" in markdown_table(groups)


def test_the_comparison_has_a_line_per_setting_and_a_column_per_task_and_set():
    rows = [row("a", 3, 0.5, shots=0), row("a", 3, 0.1), row("a", 3, 0.05, shots=10000)]
    rows += [row("a", 3, 0.3, dataset="val"), row("b", 3, 0.4, tuning="linear_prob")]

    assert comparison_table(aggregate(rows)).splitlines() == [
        "| tuning | shots | checkpoint | a: test AP | a: val AP | b: test AP |",
        "|---|---|---|---|---|---|",
        "| full | none | model_best | 5.0 | - | - |",
        "| full | 1 | model_best | 10.0 | 30.0 | - |",
        "| full | all | model_best | 50.0 | - | - |",
        "| linear_prob | 1 | model_best | - | - | 40.0 |",
    ]


def test_runs_that_differ_in_another_setting_are_told_apart_by_their_folders():
    rows = [
        row("a", seed, value, folder=f"outc/{rate}/ft_task_1_seed_{seed}")
        for rate, seed, value in (("lr3", 3, 0.1), ("lr6", 3, 0.5), ("lr3", 30, 0.3))
    ]
    rows.append(row("a", 3, 0.7, shots=5, folder="outc/lr3_long/ft_task_1_seed_3"))

    groups = aggregate(rows)

    assert [(g.folder, round(g.mean, 3), g.seeds) for g in groups] == [
        ("lr3", 0.2, 2),
        ("lr6", 0.5, 1),
        ("", 0.7, 1),
    ]
    assert markdown_table(groups).splitlines()[2:] == [
        "| a | full | 1 | lr3 | model_best | test | AP | 20.0 ± 14.1 | 2 |",
        "| a | full | 1 | lr6 | model_best | test | AP | 50.0 | 1 |",
        "| a | full | 5 | - | model_best | test | AP | 70.0 | 1 |",
    ]
    assert comparison_table(groups).splitlines() == [
        "| tuning | shots | folder | checkpoint | a: test AP |",
        "|---|---|---|---|---|",
        "| full | 1 | lr3 | model_best | 20.0 ± 14.1 |",
        "| full | 1 | lr6 | model_best | 50.0 |",
        "| full | 5 | - | model_best | 70.0 |",
    ]


def test_seeds_and_tasks_of_several_folders_still_belong_together():
    rows = [row("a", 3, 0.1, folder="x/ft_task_1"), row("a", 30, 0.3, folder="y/ft_task_1")]
    rows += [row("b", 3, 0.3, folder="z/ft_task_1"), row("b", 30, 0.3, folder="z/ft_task_2")]

    groups = aggregate(rows)

    assert [(g.task, g.seeds, g.folder) for g in groups] == [
        ("a", 2, ""),
        ("b", 2, ""),
        ("mean of 2 tasks", 2, ""),
    ]


def test_one_folder_inside_another_is_named_too():
    rows = [row("a", 3, 0.1, folder="out/ft_task_1"), row("a", 3, 0.3, folder="out/b/ft_task_1")]

    assert [g.folder for g in aggregate(rows)] == ["out", "out/b"]


def test_tasks_from_files_of_equal_stem_are_told_apart_by_their_number():
    rows = [
        row("a", seed, value, folder=f"out/ft_task_{number}_seed_{seed}")
        for number, seed, value in ((1, 3, 0.1), (1, 30, 0.3), (2, 3, 0.5), (2, 30, 0.7))
    ]

    groups = aggregate([*rows, row("a", 3, 0.9, folder="out/ft_task_1")])

    assert [(g.task, round(g.mean, 3), g.seeds) for g in groups] == [
        ("a (ft_task_1)", 0.9, 1),
        ("a (ft_task_1_seed_*)", 0.2, 2),
        ("a (ft_task_2_seed_*)", 0.6, 2),
        ("mean of 3 tasks", 0.5, 1),
    ]


def test_a_set_without_annotations_is_left_out():
    assert aggregate([row("a", 3, math.nan)]) == []


def test_the_summary_is_written_in_three_forms(tmp_path):
    paths = write_summary([row("a", 3, 0.1), row("a", 30, 0.3)], tmp_path)

    assert [path.name for path in paths] == [f"eval_summary.{k}" for k in ("json", "csv", "md")]
    content = json.loads(paths[0].read_text())
    assert (len(content["runs"]), len(content["groups"])) == (2, 1)
    lines = list(csv.DictReader(paths[1].open()))
    assert [line["value"] for line in lines] == ["0.1", "0.3"]
    assert "20.0 ± 14.1" in paths[2].read_text()


def test_a_parent_stands_for_its_runs_in_order(tmp_path):
    for name in ("ft_task_10", "ft_task_2_seed_30", "ft_task_2_seed_3", "data"):
        (tmp_path / "out" / name).mkdir(parents=True)

    names = [path.name for path in find_run_folders([str(tmp_path / "o*")])]

    assert names == ["ft_task_2_seed_3", "ft_task_2_seed_30", "ft_task_10"]
    assert find_run_folders([str(tmp_path / "out" / "data")]) == [tmp_path / "out" / "data"]
    with pytest.raises(FileNotFoundError, match="no folder matches"):
        find_run_folders([str(tmp_path / "nothing")])


def test_checkpoints_are_the_best_or_all_at_a_frequency(tmp_path):
    for name in ("model_0000100", "model_0000150", "model_best", "model_final"):
        (tmp_path / f"{name}.pth").touch()
    (tmp_path / "last_checkpoint").touch()

    best = find_checkpoints(tmp_path, only_best=True)
    some = find_checkpoints(tmp_path, only_best=False, frequency=100)

    assert [path.stem for path in best] == ["model_best"]
    assert [path.stem for path in some] == ["model_0000100", "model_best", "model_final"]
    with pytest.raises(ConfigError, match="eval_freq"):
        find_checkpoints(tmp_path, only_best=False, frequency=0)


def test_a_folder_is_evaluated_as_it_was_trained_and_the_command_line_wins(tmp_path):
    saved = small_config("DATASETS.GENERAL_COPY", "5", "TEST.IMS_PER_BATCH", "7")
    saved.DATASETS.REGISTER.clear()
    saved.merge_from_other_cfg({"DATASETS": {"REGISTER": {"val": {"ann_file": "v.json"}}}})
    (tmp_path / "config.yml").write_text(saved.dump())

    config = config_of_folder(small_config(), tmp_path, ["TEST.IMS_PER_BATCH", "3"])

    assert config.DATASETS.GENERAL_COPY == 5
    assert config.TEST.IMS_PER_BATCH == 3
    assert list(config.DATASETS.REGISTER) == ["val"]
    assert str(tmp_path) == config.OUTPUT_DIR
