"""tools/finetune.py and tools/eval_all.py end to end on a tiny set."""

import json
import os
import signal

import pytest
import torch

from maskrcnn_benchmark.engine.hooks import Hook
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from tests.engine.small_task import (
    CONFIG_FILE,
    SMALL,
    rewrite,
    run_finetune,
    small_config,
    write_set,
    write_task,
)
from tools import eval_all

VALIDATED = [
    *("TEST.DURING_TRAINING", "True"),
    *("SOLVER.CHECKPOINT_PER_EPOCH", "1.0"),
    *("SOLVER.USE_AUTOSTEP", "True"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the small model to start from."""
    path = tmp_path_factory.mktemp("weights") / "start.pth"
    torch.manual_seed(0)
    torch.save({"model": build_detection_model(small_config()).state_dict()}, path)
    return path


def weights_of(path):
    return read_checkpoint(path)["model"]


def changed(first, second):
    """Names of weights that differ."""
    return {name for name in second if not torch.equal(first[name], second[name])}


@pytest.mark.parametrize(
    "mode", ["full", "linear_prob", *(f"language_prompt_v{n}" for n in (1, 2, 3, 4))]
)
def test_every_mode_changes_only_what_it_trains(tmp_path, weights, mode):
    task = write_task(tmp_path)
    opts = ["MODEL.WEIGHT", str(weights), "SOLVER.TUNING_HIGHLEVEL_OVERRIDE", mode]

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), "--skip-test", opts=opts) == 0

    folder = tmp_path / "out" / "ft_task_1"
    lines = (folder / "parameters.txt").read_text().splitlines()
    trained = {line.split(":")[0] for line in lines if line.endswith(": Not Frozen")}
    before, after = weights_of(weights), weights_of(folder / "model_final.pth")
    before = {name: before.get(name, torch.zeros_like(value)) for name, value in after.items()}
    # The branch of the fixed vocabulary has another number of classes and is used by nobody.
    differ = {name for name in changed(before, after) if "cls_logits" not in name}
    assert differ <= trained
    assert differ
    assert (mode == "language_prompt_v2") == (trained == {"rpn.tunable_linear.weight"})


@pytest.mark.slow
def test_a_run_with_validation_leaves_all_its_files_and_is_summed_up(tmp_path, weights, capsys):
    tasks = [write_task(tmp_path, name) for name in ("colours", "again")]
    output = tmp_path / "out"
    status = run_finetune(
        output,
        *("--ft-tasks", ",".join(map(str, tasks))),
        *("--custom_shot_and_epoch_and_general_copy", "1_1_2"),
        *("--shuffle_seeds", "3,30"),
        "--evaluate_only_best_on_test",
        opts=["MODEL.WEIGHT", str(weights), *VALIDATED],
    )

    assert status == 0
    assert "| again, seed 30: test |" in capsys.readouterr().out
    folders = sorted(path.name for path in output.glob("ft_task_*"))
    assert folders == [f"ft_task_{k}_seed_{s}" for k in (1, 2) for s in (3, 30)]
    folder = output / "ft_task_1_seed_3"
    for name in ("config.yml", "model_best.pth", "model_final.pth", "inference/test/bbox.json"):
        assert (folder / name).is_file(), name
    chosen = json.loads((folder / "few_shot_images.json").read_text())
    assert chosen["seed"] == 3
    assert all(count == 1 for count in chosen["sets"][0]["images_of_class"].values())

    arguments = ["--config-file", str(output / "config.yml"), "--evaluate_only_best_on_test"]
    arguments += ["--push_both_val_and_test", "OUTPUT_DIR", str(output)]
    assert eval_all.main(arguments) == 0

    table = capsys.readouterr().out
    assert "| mean of 2 tasks | - | 1 | model_best | test | AP |" in table
    summary = json.loads((output / "eval_summary.json").read_text())
    assert len(summary["runs"]) == 8  # tasks x seeds x val and test
    assert (output / "eval_summary.csv").read_text().count("\n") == 9
    assert (folder / "eval" / "model_best" / "inference" / "val" / "bbox.json").is_file()

    scored = (folder / "eval" / "model_best" / "scores.json").stat().st_mtime_ns
    assert eval_all.main(arguments) == 0
    assert (folder / "eval" / "model_best" / "scores.json").stat().st_mtime_ns == scored


def test_a_finished_task_is_skipped_and_left_alone(tmp_path, capsys):
    task = write_task(tmp_path)
    flags = ("--ft-tasks", str(task))
    run_finetune(tmp_path / "out", *flags)
    folder = tmp_path / "out" / "ft_task_1"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pth")}
    capsys.readouterr()

    assert run_finetune(tmp_path / "out", *flags) == 0

    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pth")} == before
    shown = capsys.readouterr().out
    assert "is finished" in shown
    assert "| colours: val |" in shown  # its numbers are remembered


class _SignalAt(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_iteration(self, trainer, losses):
        if trainer.iteration == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch, capsys):
    from maskrcnn_benchmark.engine import finetuning_run

    task = write_task(tmp_path, number=6)
    flags = ("--ft-tasks", str(task), "--skip-test")
    opts = ["SOLVER.MAX_EPOCH", "2"]
    run_finetune(tmp_path / "whole", *flags, opts=opts)
    build = finetuning_run.build_trainer

    def build_and_stop(*args, **kwargs):
        trainer = build(*args, **kwargs)
        trainer.hooks.append(_SignalAt(2))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(finetuning_run, "build_trainer", build_and_stop)
        assert run_finetune(tmp_path / "out", *flags, opts=opts) == 0
    assert "the same command goes on" in capsys.readouterr().out
    assert not (tmp_path / "out" / "ft_task_1" / "finished.json").exists()

    assert run_finetune(tmp_path / "out", *flags, opts=opts) == 0

    final = "ft_task_1/model_final.pth"
    assert not changed(weights_of(tmp_path / "whole" / final), weights_of(tmp_path / "out" / final))


def test_another_task_never_writes_into_the_folder(tmp_path, capsys):
    first, second = write_task(tmp_path, "first"), write_task(tmp_path, "second")
    run_finetune(tmp_path / "out", "--ft-tasks", str(first), "--skip-test")

    status = run_finetune(tmp_path / "out", "--ft-tasks", str(second), "--skip-test")

    assert status == 2
    assert "holds another run (task: 'first' / 'second'" in capsys.readouterr().err


def test_prepared_subsets_train_and_validate(tmp_path):
    task = write_task(tmp_path)
    folder = tmp_path / "colours"
    entries = {}
    for split, shots in (("train", 3), ("val", 3)):
        write_set(folder / f"prepared_{split}", 3)
        entries[f"{split}_{shots}_30"] = {
            "ann_file": str(folder / f"prepared_{split}" / "annotations_without_background.json"),
            "img_dir": str(folder / f"prepared_{split}"),
        }
    text = task.read_text().replace("REGISTER:", f"REGISTER:\n    {_yaml(entries)}")
    task.write_text(text)

    status = run_finetune(
        tmp_path / "out",
        *("--ft-tasks", str(task), "--use_prepared_data", "--shuffle_seeds", "30"),
        *("--custom_shot_and_epoch_and_general_copy", "3_1_2"),
    )

    assert status == 0
    results = json.loads((tmp_path / "out/ft_task_1_seed_30/results.json").read_text())
    assert list(results["sets"]) == ["val_3_30"]
    assert results["shots"] == 3


def _yaml(entries):
    return "\n    ".join(f"{name}: {json.dumps(entry)}" for name, entry in entries.items())


def test_without_training_the_weights_are_tested(tmp_path, weights):
    task = write_task(tmp_path)
    opts = ["MODEL.WEIGHT", str(weights)]

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), "--skip-train", opts=opts) == 0

    folder = tmp_path / "out" / "ft_task_1"
    assert not list(folder.glob("*.pth"))
    assert "val" in json.loads((folder / "results.json").read_text())["sets"]


def test_shots_of_10000_make_the_start_the_result(tmp_path, weights):
    task = write_task(tmp_path)
    flags = ("--ft-tasks", str(task), "--custom_shot_and_epoch_and_general_copy", "10000_1_1")

    assert run_finetune(tmp_path / "out", *flags, opts=["MODEL.WEIGHT", str(weights)]) == 0

    best = weights_of(tmp_path / "out/ft_task_1/model_best.pth")
    assert not changed(best, weights_of(weights))


def test_what_was_known_before_is_measured_before_and_after(tmp_path, weights, capsys):
    task, old = write_task(tmp_path), write_task(tmp_path, "old")
    flags = ("--ft-tasks", str(task), "--old-world", str(old), "--skip-test")
    opts = ["MODEL.WEIGHT", str(weights), "SOLVER.PULL_TO_START", "100.0"]

    assert run_finetune(tmp_path / "out", *flags, opts=opts) == 0

    content = json.loads((tmp_path / "out/ft_task_1/zero_shot.json").read_text())
    assert set(content["before"]) == {"new classes, val", "old world, old: val"}
    assert set(content["after"]) == set(content["before"])
    assert "| old world, old: val | AP |" in capsys.readouterr().out


def test_what_was_known_before_is_not_measured_on_a_shared_model(tmp_path, weights, capsys):
    task, old = write_task(tmp_path), write_task(tmp_path, "old")
    flags = ("--ft-tasks", str(task), "--old-world", str(old))
    opts = ["MODEL.WEIGHT", str(weights), "SOLVER.PARALLEL", "fsdp"]

    assert run_finetune(tmp_path / "out", *flags, opts=opts) == 2

    assert "leave out --old-world" in capsys.readouterr().err


def test_old_data_are_mixed_in_by_name(tmp_path, weights, capsys):
    write_set(tmp_path / "old", 5, classes={1: "wheel"})
    task = write_task(tmp_path)
    old = {
        "type": "CocoGrounding",
        "ann_file": str(tmp_path / "old" / "annotations_without_background.json"),
        "img_dir": str(tmp_path / "old"),
    }
    text = task.read_text().replace("REGISTER:", f"REGISTER:\n    {_yaml({'old': old})}")
    task.write_text(text)
    opts = ["MODEL.WEIGHT", str(weights), "DATASETS.REPLAY", "('old',)"]
    opts += ["DATASETS.REPLAY_SHARE", "0.5"]

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), "--skip-test", opts=opts) == 0

    assert "4 samples of each pass are drawn from old" in capsys.readouterr().out


def test_a_dry_run_draws_explains_and_learns_but_begins_nothing(tmp_path, weights, capsys):
    write_set(tmp_path / "mine" / "train", 6, file_name="_annotations.coco.json")
    write_set(tmp_path / "mine" / "valid", 3, file_name="_annotations.coco.json")

    status = run_finetune(
        tmp_path / "out",
        *("--data", str(tmp_path / "mine"), "--check"),
        opts=["MODEL.WEIGHT", str(weights), "SOLVER.BASE_LR", "0.001"],
    )

    shown = capsys.readouterr().out
    assert status == 0
    assert "prompt: 'red. green. blue'" in shown
    assert "class 3 (category 4, 'blue'): words 'blue', tokens 5 blue" in shown
    assert "the loss falls" in shown
    check = tmp_path / "out" / "ft_task_1" / "check"
    assert len(list(check.glob("training_*.jpg"))) == 6
    assert not list((tmp_path / "out" / "ft_task_1").glob("*.pth"))
    assert not list(check.glob("*.pth"))


def test_own_data_train_with_derived_classes(tmp_path, weights):
    write_set(tmp_path / "mine" / "train", 4, file_name="_annotations.coco.json")
    write_set(tmp_path / "mine" / "valid", 3, file_name="_annotations.coco.json")
    opts = ["MODEL.WEIGHT", str(weights), "SOLVER.MAX_EPOCH", "1", "DATASETS.GENERAL_COPY", "1"]

    assert run_finetune(tmp_path / "out", "--data", str(tmp_path / "mine"), opts=opts) == 0

    folder = tmp_path / "out" / "ft_task_1"
    assert (folder / "model_best.pth").is_file()
    assert "NUM_CLASSES: 4" in (folder / "config.yml").read_text()


def test_weights_of_another_architecture_are_refused_before_the_first_iteration(
    tmp_path, weights, capsys
):
    task = write_task(tmp_path)
    opts = ["MODEL.WEIGHT", str(weights), "MODEL.SWINT.DEPTHS", "(1, 1, 2, 1)"]

    status = run_finetune(tmp_path / "out", "--ft-tasks", str(task), opts=opts)

    assert status == 1
    assert "does not fit the configured model" in capsys.readouterr().err
    assert not list((tmp_path / "out" / "ft_task_1").glob("*.pth"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "has no category"),
        ({"images": []}, "lists no image"),
        ({"annotations": []}, "has no usable box"),
    ],
)
def test_data_that_cannot_be_used_are_refused(tmp_path, capsys, changes, message):
    task = write_task(tmp_path)
    rewrite(tmp_path / "colours" / "train" / "annotations_without_background.json", **changes)

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task)) == 1

    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out" / "ft_task_1").glob("*.pth"))


def test_a_class_count_on_the_command_line_that_is_too_small_is_refused(tmp_path, capsys):
    task = write_task(tmp_path)
    opts = ["MODEL.DYHEAD.NUM_CLASSES", "3"]

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), opts=opts) == 2

    assert "NUM_CLASSES 3 disagrees with" in capsys.readouterr().err


def test_training_sets_without_captions_are_refused_with_the_cure(tmp_path, capsys):
    task = write_task(tmp_path)
    opts = ["DATASETS.TRAIN_DATASETNAME_SUFFIX", ""]

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), opts=opts) == 2

    message = "no captions in train (COCODataset), and training needs them"
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.pth"))


def test_eval_all_without_checkpoints_fails(tmp_path, capsys):
    arguments = ["--config-file", CONFIG_FILE, *SMALL, "OUTPUT_DIR", str(tmp_path)]

    assert eval_all.main(arguments) == 1

    assert "no checkpoints found" in capsys.readouterr().err


def test_numbers_of_earlier_evaluations_are_summed_up_without_evaluating(tmp_path, capsys):
    folder = tmp_path / "ft_task_1_seed_3" / "eval" / "model_best"
    folder.mkdir(parents=True)
    scores = {"identity": None, "sets": {"test": {"metric": "AP", "value": 0.25}}}
    (folder / "scores.json").write_text(json.dumps(scores))
    arguments = ["--config-file", CONFIG_FILE, "--skip_eval", "OUTPUT_DIR", str(tmp_path)]

    assert eval_all.main(arguments) == 0

    assert "| test | AP | 25.0 | 1 |" in capsys.readouterr().out


def test_with_the_average_as_monitor_the_average_is_tested(tmp_path, weights, capsys):
    task = write_task(tmp_path)
    opts = ["MODEL.WEIGHT", str(weights), *VALIDATED]
    opts += ["SOLVER.MODEL_EMA", "0.9", "SOLVER.USE_EMA_FOR_MONITOR", "True"]

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), opts=opts) == 0

    assert "model_ema" in read_checkpoint(tmp_path / "out/ft_task_1/model_best.pth")
    assert "weights of model_ema from" in capsys.readouterr().out


def test_features_of_a_frozen_backbone_are_kept(tmp_path, weights, capsys):
    task = write_task(tmp_path)
    opts = ["MODEL.WEIGHT", str(weights), "AUGMENT.FLIP_PROB_TRAIN", "0.0"]
    opts += ["SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "language_prompt_v2"]

    assert run_finetune(tmp_path / "out", "--ft-tasks", str(task), "--skip-test", opts=opts) == 0

    assert "features of frozen encoders are kept" in capsys.readouterr().out
    record = json.loads((tmp_path / "out/ft_task_1/finished.json").read_text())
    assert record["images_per_second"] > 0
    assert record["peak_memory_mib"] > 0
