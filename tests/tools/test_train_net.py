"""The training and evaluation commands, as users type them, on a small real model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from maskrcnn_benchmark.engine import trainer as trainer_module
from maskrcnn_benchmark.engine.detectors import ClassDetector
from maskrcnn_benchmark.engine.trainer import build_trainer, checkpoint_period, start_from
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint, write_checkpoint
from tests.engine.one_update import assert_same_gradients, first_updates, write_even_world
from tests.engine.small_world import REPOSITORY, read_config, write_config, write_detection_set
from tests.engine.test_resume import assert_same_bits, final_state, in_process
from tests.engine.tiny_run import KillAt
from tests.process_tools import free_port, run_world
from tools.test_grounding_net import main as evaluate_net
from tools.test_net import main as evaluate_plainly
from tools.test_net import run_test
from tools.train_net import main as train_net


@pytest.fixture
def world(tmp_path) -> Path:
    """Folder with a detection set and the configuration of a small model with everything on."""
    write_detection_set(tmp_path, 6)
    write_config(
        tmp_path,
        SOLVER__MODEL_EMA=0.9,
        SOLVER__USE_EMA_FOR_MONITOR=True,
        TEST__DURING_TRAINING=True,
        MODEL__SWINT__DROP_PATH_RATE=0.2,
        MODEL__FPN__DROP_BLOCK=True,
        # Low enough for a model that has learnt nothing yet.
        MODEL__ATSS__INFERENCE_TH=0.0,
    )
    return tmp_path


def command(world: Path, *opts: str) -> list[str]:
    return ["--config-file", str(world / "config.yaml"), *opts]


def test_training_writes_what_it_promises_and_does_nothing_when_it_is_finished(world, capsys):
    assert train_net(command(world, "--use-tensorboard", "--save_original_config")) == 0
    output = world / "output"
    names = {path.name for path in output.iterdir() if not path.name.startswith("events")}
    assert names == {
        ".lock",
        "config.yml",
        "config_original.yml",
        "last_checkpoint",
        "log.txt",
        "model_0000003.pth",
        "model_0000006.pth",
        "model_best.pth",
        "model_final.pth",
    }
    assert list(output.glob("events*"))
    assert (output / "config_original.yml").read_text() == (world / "config.yaml").read_text()
    assert yaml.safe_load((output / "config.yml").read_text())["SOLVER"]["MAX_ITER"] == 6
    log = (output / "log.txt").read_text()
    assert "eta: " in log and "loss_dot_product_token" in log
    assert "finished" in capsys.readouterr().out

    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.pth")}
    assert train_net(command(world)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.pth")} == before
    assert (
        "is finished (all 6 iterations are done): nothing to do" in (output / "log.txt").read_text()
    )


def train_and_die(world: str, output: str, iteration: int | None, number: int = signal.SIGKILL):
    """Train as the tool does, with a signal after some iteration."""
    torch.set_num_threads(1)
    config = read_config(Path(world) / "config.yaml", "OUTPUT_DIR", output)
    trainer = build_trainer(config)
    start_from(trainer, "")
    if iteration is not None:
        trainer.hooks.append(KillAt(iteration, number))
    trainer.train()


def test_a_killed_training_of_the_real_model_ends_with_the_same_bits(world):
    assert in_process(train_and_die, str(world), str(world / "whole"), None) == 0
    for iteration in (2, 5):
        status = in_process(train_and_die, str(world), str(world / "killed"), iteration)
        assert status == -signal.SIGKILL
    assert in_process(train_and_die, str(world), str(world / "killed"), 4, signal.SIGTERM) == 0
    assert in_process(train_and_die, str(world), str(world / "killed"), None) == 0
    assert_same_bits(final_state(world / "killed"), final_state(world / "whole"))


def first_step(world: str, per_process: int):
    size = comm.get_world_size()
    return first_updates(
        *(f"{world}/config.yaml", f"{world}/first_step_{size}"),
        *("SOLVER.IMS_PER_BATCH", per_process * size),
    )


@pytest.mark.slow
def test_two_processes_with_batch_1_have_the_gradients_of_one_with_batch_2(world):
    write_even_world(world)
    alone = first_step(str(world), 2)
    first, second = run_world(2, first_step, str(world), 1, folder=world / "processes")
    assert_same_gradients(first, alone, tolerance=1e-4)
    for name, gradient in first.gradients.items():
        assert torch.equal(second.gradients[name], gradient), name


def clean_environment() -> dict[str, str]:
    launch = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {key: value for key, value in os.environ.items() if key not in launch}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


LAUNCHERS = {
    "plain": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"],
    "launch": [sys.executable, "-m", "torch.distributed.launch", "--nproc_per_node=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_trains(world, launcher):
    program = list(LAUNCHERS[launcher])
    if launcher != "plain":
        program.append(f"--master_port={free_port()}")
    opts = ["SOLVER.MAX_ITER", "2", "TEST.DURING_TRAINING", "False"]
    done = subprocess.run(
        [*program, str(REPOSITORY / "tools/train_net.py"), *command(world, *opts)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = world / "output"
    processes = 1 if launcher == "plain" else 2
    assert len(read_checkpoint(output / "model_final.pth")["random_states"]) == processes
    assert (output / "log_rank1.txt").exists() == (processes == 2)


@pytest.mark.slow
def test_sigterm_from_outside_saves_and_ends_the_command_with_status_0(world):
    opts = ["SOLVER.MAX_ITER", "100000", "TEST.DURING_TRAINING", "False"]
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tools/train_net.py"), *command(world, *opts)],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "iter: 20/" in line:
            process.send_signal(signal.SIGTERM)
    assert process.wait() == 0, "".join(lines)
    assert "stopped, start again to go on" in lines[-1]
    pointer = (world / "output/last_checkpoint").read_text()
    assert read_checkpoint(world / "output" / pointer)["iteration"] >= 20


def run_differently(world: str):
    opts = ["OUTPUT_DIR", f"{world}/other"]
    if comm.get_rank() == 1:
        opts += ["SOLVER.BASE_LR", "0.5"]
    comm.setup, comm.cleanup = lambda *arguments: comm.read_launch_settings(), lambda: None
    return train_net(command(Path(world), *opts))


def test_processes_with_different_settings_are_refused(world):
    assert run_world(2, run_differently, str(world), folder=world / "processes") == [2, 2]
    assert not (world / "other").exists()


@pytest.mark.parametrize(
    ("opts", "status", "message"),
    [
        (["SOLVER.BASE_RATE", "0.1"], 2, "SOLVER.BASE_LR"),
        (["SOLVER.OPTIMIZER", "ADAM"], 2, "SOLVER.OPTIMIZER is 'ADAM'"),
        (["SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "half"], 2, "'half', not one of full"),
        (["SOLVER.COMPILE", "('neck',)"], 2, "SOLVER.COMPILE: unknown part 'neck'"),
        (["MODEL.DYHEAD.FUSE_CONFIG.TYPE", "MHA-X"], 2, "MHA-X"),
        (["MODEL.SWINT.VERSION", "v2"], 2, "MODEL.SWINT.VERSION: 'v2'"),
        (["MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", "rnn"], 2, "MODEL_TYPE: 'rnn'"),
        (["DATASETS.TRAIN_DATASETNAME_SUFFIX", ""], 2, "no captions in train (COCODataset)"),
        (["DATASETS.MULTISTAGE_TRAINING", "True"], 2, "DATASETS.MULTISTAGE_TRAINING"),
        (["TEST.EVAL_TASK", "grounding"], 2, "val (COCODataset) has no captions"),
        (["MODEL.WEIGHT", "nowhere.pth"], 1, "nowhere.pth not found"),
        (["DATASETS.TRAIN", "('missing',)", "DATASETS.TRAIN_DATASETNAME_SUFFIX", ""], 2, "missing"),
    ],
)
def test_mistakes_end_with_one_line_that_names_them(world, opts, status, message, capsys):
    assert train_net(command(world, *opts)) == status
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line


def test_annotations_that_are_no_json_end_with_one_line(world, capsys):
    (world / "annotations.json").write_text("{")
    assert train_net(command(world)) == 1
    assert "annotations.json is not valid JSON" in capsys.readouterr().err


def test_a_mistake_of_the_program_keeps_its_traceback(world, monkeypatch):
    def broken(*arguments, **options):
        return int("no number")

    monkeypatch.setattr(trainer_module, "build_optimizer", broken)
    with pytest.raises(ValueError, match="invalid literal"):
        train_net(command(world))


def test_the_tuning_mode_freezes_here_too(world):
    mode = ["SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "language_prompt_v2", "SOLVER.MAX_ITER", "3"]
    assert train_net(command(world, *mode, "TEST.DURING_TRAINING", "False")) == 0
    trained = read_checkpoint(world / "output/model_final.pth")["optimizer"]["state"]
    assert list(trained) == ["rpn.tunable_linear.weight"]


def test_weights_of_another_size_are_refused_with_a_shape(world, capsys):
    config = read_config(world / "config.yaml", "OUTPUT_DIR", str(world / "first"))
    weights = build_trainer(config).model.state_dict()
    other = {name: torch.zeros(*value.shape, 2) for name, value in weights.items()}
    write_checkpoint(world / "other.pth", {"model": other})
    assert train_net(command(world, "MODEL.WEIGHT", str(world / "other.pth"))) == 1
    assert "is a checkpoint of a model of another size" in capsys.readouterr().err


def test_a_file_that_is_no_checkpoint_is_named(world, capsys):
    (world / "page.pth").write_text("<!DOCTYPE html>")
    assert train_net(command(world, "MODEL.WEIGHT", str(world / "page.pth"))) == 1
    assert "page.pth is not a checkpoint: it is a web page" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_is_named(world, capsys):
    for path in (world / "images").iterdir():
        path.write_bytes(b"no picture")
    assert train_net(command(world)) == 1
    assert "images/00" in capsys.readouterr().err


def test_initial_weights_are_loaded_and_are_where_the_average_begins(world):
    config = read_config(world / "config.yaml", "OUTPUT_DIR", str(world / "first"))
    weights = build_trainer(config).model.state_dict()
    changed = {k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}
    write_checkpoint(world / "start.pth", {"model": changed})
    trainer = build_trainer(config)
    start_from(trainer, str(world / "start.pth"))
    name = "rpn.head.bbox_pred.weight"
    assert torch.equal(trainer.model.state_dict()[name], changed[name])
    assert torch.equal(trainer.ema.state_dict()[name], changed[name])


def test_the_run_in_the_output_folder_wins_over_initial_weights_even_if_these_are_gone(world):
    assert train_net(command(world, "SOLVER.MAX_ITER", "3")) == 0
    assert train_net(command(world, "MODEL.WEIGHT", "nowhere.pth")) == 0
    assert read_checkpoint(world / "output/model_final.pth")["iteration"] == 6


def test_changed_settings_of_a_continued_run_are_logged(world):
    train_net(command(world, "SOLVER.MAX_ITER", "3"))
    train_net(command(world, "SOLVER.BASE_LR", "0.25"))
    log = (world / "output/log.txt").read_text()
    assert "SOLVER.BASE_LR: the earlier run had 0.0005, this one has 0.25" in log


@pytest.mark.parametrize(
    ("opts", "period"),
    [
        ((), 3),
        (("SOLVER.MAX_ITER", 120, "SOLVER.MAX_EPOCH", 12, "SOLVER.CHECKPOINT_PER_EPOCH", 0.5), 5),
        (("SOLVER.MAX_ITER", 4, "SOLVER.MAX_EPOCH", 12, "SOLVER.CHECKPOINT_PER_EPOCH", 1.0), 1),
    ],
)
def test_the_checkpoint_period_counts_epochs_where_asked_and_is_never_0(world, opts, period):
    assert checkpoint_period(read_config(world / "config.yaml", *opts)) == period


def test_automatic_termination_without_validation_is_refused(world):
    config = read_config(
        world / "config.yaml",
        *("SOLVER.AUTO_TERMINATE_PATIENCE", 2, "TEST.DURING_TRAINING", False),
    )
    with pytest.raises(ValueError, match="needs validation results"):
        build_trainer(config)


def test_training_options_come_from_the_configuration(world):
    config = read_config(
        world / "config.yaml",
        *("SOLVER.USE_AMP", True, "SOLVER.AMP_DTYPE", "bfloat16"),
        *("SOLVER.ACCUMULATION_STEPS", 2, "SOLVER.KEEP_LAST_CHECKPOINTS", 1),
        *("SOLVER.MAX_EPOCH", 4, "SOLVER.USE_COSINE", True),
    )
    trainer = build_trainer(config)
    assert trainer.step.options.amp_dtype is torch.bfloat16
    assert trainer.step.options.accumulation == 2
    assert trainer.checkpoints.keep_last == 1
    assert trainer.max_iter == config.SOLVER.MAX_ITER == 12
    trainer.train()
    assert trainer.finished
    assert len(list((world / "output").glob("model_0*.pth"))) == 1


def test_a_frozen_language_backbone_stays_as_it_was(world):
    config = read_config(world / "config.yaml", "MODEL.LANGUAGE_BACKBONE.FREEZE", True)
    trainer = build_trainer(config)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.train()
    changed = {k for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and not any(name.startswith("language_backbone") for name in changed)


@pytest.fixture
def trained(world) -> Path:
    """A folder with a finished training."""
    assert train_net(command(world, "TEST.DURING_TRAINING", "False")) == 0
    return world


def test_evaluation_of_a_checkpoint_prints_the_table_and_names_the_files(trained, capsys):
    weight = trained / "output/model_final.pth"
    assert evaluate_net(command(trained, "--weight", str(weight))) == 0
    out = capsys.readouterr().out
    folder = trained / "output/eval/model_final/inference/val"
    assert "| val | AP |" in out and str(folder) in out
    assert {"bbox.json", "bbox.csv", "metrics.json", "predictions.pth"} <= {
        path.name for path in folder.iterdir()
    }
    assert (trained / "output/eval/model_final/log.txt").is_file()


def test_the_plain_evaluation_gives_the_same_numbers_and_says_how_large_the_model_is(
    trained, capsys
):
    weight = ["--weight", str(trained / "output/model_final.pth")]
    folder = trained / "output/eval/model_final"
    assert evaluate_net(command(trained, *weight)) == 0
    expected = json.loads((folder / "inference/val/metrics.json").read_text())
    shutil.rmtree(folder)
    capsys.readouterr()

    assert evaluate_plainly(command(trained, "--complexity", *weight)) == 0

    assert json.loads((folder / "inference/val/metrics.json").read_text()) == expected
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"FLOPs: [\d.]+ G, #Parameter: [\d.]+ M", lines[-1])
    assert lines.count(lines[-1]) == 2
    assert "operators on cpu" in (folder / "log.txt").read_text()


def test_a_model_at_hand_is_evaluated_on_the_configured_sets(world, tmp_path):
    config = read_config(world / "config.yaml")
    model = build_detection_model(config)

    results = run_test(config, model, False, tmp_path / "log")

    assert set(results) == {"val"}
    assert (tmp_path / "log/inference/val/bbox.json").is_file()


def test_evaluation_takes_the_average_where_asked(trained, capsys):
    weight = str(trained / "output/model_final.pth")
    assert evaluate_net(command(trained, "--weight", weight, "--use_ema")) == 0
    assert "weights of model_ema" in (trained / "output/eval/model_final/log.txt").read_text()


def test_evaluation_without_weight_takes_the_last_checkpoint_unless_the_command_line_names_one(
    trained,
):
    assert evaluate_net(command(trained)) == 0
    other = trained / "other.pth"
    other.write_bytes((trained / "output/model_0000003.pth").read_bytes())
    assert evaluate_net(command(trained, "MODEL.WEIGHT", str(other))) == 0
    log = (trained / "output/log.txt").read_text()
    assert "model_final.pth, because" in log and "last_checkpoint names it" in log
    assert "other.pth, because MODEL.WEIGHT is given on the command line" in log


def test_weights_of_another_model_are_refused_before_anything_is_evaluated(trained, capsys):
    weight = str(trained / "output/model_final.pth")
    opts = ["MODEL.DYHEAD.NUM_CONVS", "2"]
    assert evaluate_net(command(trained, "--weight", weight, *opts)) == 1
    assert "does not fit the configured model" in capsys.readouterr().err
    assert not (trained / "output/eval/model_final/inference").exists()
    assert evaluate_net(command(trained, "--weight", weight, "--partial-weights", *opts)) == 0


def evaluate_and_be_told_to_stop(world: str) -> None:
    """Evaluate as the tool does; SIGTERM comes with the second batch."""
    torch.set_num_threads(1)
    detect, calls = ClassDetector.detect, []

    def detect_and_signal(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return detect(self, *arguments)

    ClassDetector.detect = detect_and_signal
    sys.exit(evaluate_net(command(Path(world))))


def test_an_evaluation_told_to_stop_ends_with_status_1_and_goes_on_later(trained):
    assert in_process(evaluate_and_be_told_to_stop, str(trained)) == 1
    folder = trained / "output/inference/val"
    assert list(folder.glob("unfinished*")) and not (folder / "bbox.json").exists()
    assert evaluate_net(command(trained)) == 0
    assert "2 images are predicted already" in (trained / "output/log.txt").read_text()
    assert not list(folder.glob("unfinished*"))


def test_several_tasks_with_equal_set_names_do_not_overwrite_each_other(trained, capsys):
    for name, subset in (("first", 2), ("second", 4)):
        (trained / f"{name}.yaml").write_text(yaml.safe_dump({"TEST": {"SUBSET": subset}}))
    tasks = f"{trained / 'first.yaml'},{trained / 'second.yaml'}"
    assert evaluate_net(command(trained, "--task_config", tasks)) == 0
    out = capsys.readouterr().out
    assert "| first: val | AP |" in out and "| mean of 2 | AP |" in out
    counts = []
    for name in ("first", "second"):
        results = json.loads((trained / f"output/inference/{name}/val/bbox.json").read_text())
        counts.append(len({entry["image_id"] for entry in results}))
    assert counts == [2, 4]


def test_a_single_task_keeps_the_plain_layout_and_the_command_line_wins_over_it(trained):
    (trained / "task.yaml").write_text(yaml.safe_dump({"TEST": {"SUBSET": 2}}))
    arguments = ["--task_config", str(trained / "task.yaml"), "TEST.SUBSET", "3"]
    assert evaluate_net(command(trained, *arguments)) == 0
    results = json.loads((trained / "output/inference/val/bbox.json").read_text())
    assert len({entry["image_id"] for entry in results}) == 3


def test_sets_without_classes_are_scored_by_the_recall_of_their_boxes(trained, capsys):
    assert evaluate_net(command(trained, "DATASETS.CLASS_AGNOSTIC", "True")) == 0
    assert "AR@1000" in capsys.readouterr().out
    assert (trained / "output/inference/val/box_proposals.json").is_file()


def test_a_task_file_with_a_missing_set_is_an_error_before_evaluation(trained, capsys):
    (trained / "task.yaml").write_text(yaml.safe_dump({"DATASETS": {"TEST": ["nothing"]}}))
    assert evaluate_net(command(trained, "--task_config", str(trained / "task.yaml"))) == 2
    assert "nothing" in capsys.readouterr().err


def test_missed_expectations_change_the_exit_status_only_on_request(trained):
    opts = ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', [0.99, 0.001]]]"]
    assert evaluate_net(command(trained, *opts)) == 0
    assert evaluate_net(command(trained, "--fail-on-unexpected", *opts)) == 1


def test_a_missing_configuration_file_option_is_an_argument_error():
    with pytest.raises(SystemExit) as caught:
        evaluate_net([])
    assert caught.value.code == 2


def test_a_cuda_configuration_without_a_gpu_falls_back_to_the_cpu(world, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = read_config(world / "config.yaml", "MODEL.DEVICE", "cuda")
    assert build_trainer(config).step.device == torch.device("cpu")
    assert trainer_module.LOG_PERIOD == 20
