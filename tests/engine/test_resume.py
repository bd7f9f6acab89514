"""A run that is killed and started again ends with the bits of an undisturbed one."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.engine.hooks import Hook
from maskrcnn_benchmark.engine.stop_request import EvaluationInterrupted
from maskrcnn_benchmark.utils import checkpoint_files, comm
from maskrcnn_benchmark.utils.checkpoint_files import (
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from tests.engine import elastic_program
from tests.engine.tiny_run import KillAt, TinyOptions, run
from tests.process_tools import free_port, process_context, run_world


def in_process(function, *args) -> int:
    """Run a module-level function in a process of its own; its exit status."""
    process = process_context().Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode


def assert_same_bits(first, second, place="checkpoint"):
    """Everything in two nested structures is equal, to the last bit of every tensor."""
    assert type(first) is type(second), place
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first:
            assert_same_bits(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), place
        for number, pair in enumerate(zip(first, second)):
            assert_same_bits(*pair, f"{place}.{number}")
    elif torch.is_tensor(first):
        assert torch.equal(first, second), place
    else:
        assert first == second, place


def final_state(folder):
    return read_checkpoint(folder / "model_final.pth")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Final checkpoint of the run that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert in_process(run, folder, TinyOptions()) == 0
    return final_state(folder)


# Before the first checkpoint, on one, between two, at a validation, at both, at the very end.
@pytest.mark.parametrize("iterations", [(1,), (4,), (7,), (10,), (20,), (3, 9, 18)])
def test_killed_and_continued_equals_undisturbed(tmp_path, undisturbed, iterations):
    for iteration in iterations:
        status = in_process(run, tmp_path, TinyOptions(), (KillAt(iteration),))
        assert status == -signal.SIGKILL
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


def die_while_writing(folder, options, number_of_write):
    """A run that is killed when half of its n-th checkpoint has reached the disk."""
    writes = []
    save = torch.save

    def save_half(contents, file):
        writes.append(file)
        if len(writes) == number_of_write:
            file.write(b"PK\x03\x04 half a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(contents, file)

    checkpoint_files.torch.save = save_half
    run(folder, options)


@pytest.mark.parametrize("number_of_write", [1, 2, 4])
def test_a_kill_in_the_middle_of_writing_costs_nothing_but_time(
    tmp_path, undisturbed, number_of_write
):
    assert in_process(die_while_writing, tmp_path, TinyOptions(), number_of_write) == -9
    assert list(tmp_path.glob("*.tmp")) or list(tmp_path.glob(".*.tmp"))
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("iteration", [10, 20])
def test_a_validation_that_fails_costs_no_training(tmp_path, undisturbed, iteration):
    def prepare(trainer):
        evaluate = trainer.hooks[0].evaluate

        def fail():
            if trainer.iteration == iteration:
                raise RuntimeError("out of memory")
            return evaluate()

        trainer.hooks[0].evaluate = fail

    options = TinyOptions(save_period=5)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(tmp_path, options, prepare=prepare)
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{iteration:07d}.pth"
    assert in_process(run, tmp_path, options) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


def run_attached(*arguments):
    """Run with SIGHUP as a terminal leaves it; tests started by nohup hand on that it is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    run(*arguments)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("iteration", [2, 10])
def test_a_polite_signal_saves_and_exits_with_status_0(tmp_path, undisturbed, number, iteration):
    options = TinyOptions()
    assert in_process(run_attached, tmp_path, options, (KillAt(iteration, number),)) == 0
    assert read_checkpoint(tmp_path / f"model_{iteration:07d}.pth")["iteration"] == iteration
    assert not (tmp_path / "model_final.pth").exists()
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


class SignalDuringValidation(Hook):
    """Makes the validation at an iteration stop half way, as a signal does."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train(self, trainer):
        validation = trainer.hooks[0]
        evaluate = validation.evaluate

        def interrupted():
            if trainer.iteration == self.iteration:
                os.kill(os.getpid(), signal.SIGTERM)
                raise EvaluationInterrupted
            return evaluate()

        validation.evaluate = interrupted


def test_a_signal_during_validation_keeps_the_iteration_and_validates_again(tmp_path, undisturbed):
    assert in_process(run, tmp_path, TinyOptions(), (SignalDuringValidation(10),)) == 0
    assert read_checkpoint(tmp_path / "model_0000010.pth")["trainer"]["hooks_pending"]
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


@pytest.mark.parametrize(
    "options",
    [
        TinyOptions(num_workers=2),
        TinyOptions(amp_dtype=torch.bfloat16),
        TinyOptions(amp_dtype=torch.float16),
        TinyOptions(accumulation=2, optimizer="SGD", use_ema=False, base_lr=0.001),
    ],
    ids=["loader workers", "bfloat16", "float16", "accumulation and SGD"],
)
def test_every_way_of_training_continues_exactly(tmp_path, options):
    assert in_process(run, tmp_path / "whole", options) == 0
    assert in_process(run, tmp_path / "killed", options, (KillAt(11),)) == -9
    assert in_process(run, tmp_path / "killed", options) == 0
    assert_same_bits(final_state(tmp_path / "killed"), final_state(tmp_path / "whole"))


def test_loader_workers_change_nothing(tmp_path, undisturbed):
    assert in_process(run, tmp_path, TinyOptions(num_workers=2)) == 0
    assert_same_bits(final_state(tmp_path)["model"], undisturbed["model"])


def signalled_with_its_workers(folder, options):
    """A run in a process group that gets SIGINT as a whole, as by Ctrl-C."""
    os.setpgrp()

    class SignalGroup(Hook):
        def after_iteration(self, trainer, losses):
            if trainer.iteration == 6:
                os.killpg(os.getpgrp(), signal.SIGINT)

    run(folder, options, (SignalGroup(),))


def test_a_signal_to_the_whole_group_does_not_tear_the_workers_away(tmp_path):
    options = TinyOptions(num_workers=2)
    assert in_process(signalled_with_its_workers, tmp_path, options) == 0
    assert read_checkpoint(tmp_path / "model_0000006.pth")["iteration"] == 6


def test_a_finished_run_started_again_does_nothing(tmp_path):
    run(tmp_path, TinyOptions(max_iter=3))
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = run(tmp_path, TinyOptions(max_iter=3))
    assert again.finished
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def fail_at_final(trainer):
    """Let the disk be full when model_final.pth is to be written."""
    save = trainer.checkpoints.save

    def save_others(name, contents, **kwargs):
        if name == "model_final":
            raise CheckpointError("could not write model_final.pth")
        return save(name, contents, **kwargs)

    trainer.checkpoints.save = save_others


def test_a_run_without_its_final_file_is_not_finished(tmp_path, undisturbed):
    with pytest.raises(CheckpointError, match="model_final"):
        run(tmp_path, TinyOptions(), prepare=fail_at_final)
    saved = (tmp_path / "last_checkpoint").read_text()
    assert saved == "model_0000020.pth"
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


def test_a_signal_in_the_last_validation_leaves_it_to_the_next_start(tmp_path, undisturbed):
    assert in_process(run, tmp_path, TinyOptions(), (SignalDuringValidation(20),)) == 0
    assert not (tmp_path / "model_final.pth").exists()
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


def test_a_finished_run_of_older_files_ends_with_the_same_weights(tmp_path, undisturbed):
    """Their checkpoints do not tell whether all was written."""
    assert in_process(run, tmp_path, TinyOptions()) == 0
    contents = final_state(tmp_path)
    del contents["trainer"]["complete"]
    write_checkpoint(tmp_path / "model_final.pth", contents)
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


def signal_while_saving(folder, options, iteration):
    """SIGTERM comes at an iteration, and again while the state is written on the way out."""

    def prepare(trainer):
        save = trainer.checkpoints.save

        def signalled(*args, **kwargs):
            if trainer.iteration == iteration:
                os.kill(os.getpid(), signal.SIGTERM)
            return save(*args, **kwargs)

        trainer.checkpoints.save = signalled

    run(folder, options, (KillAt(iteration, signal.SIGTERM),), prepare)


def test_a_second_signal_while_the_state_is_saved_changes_nothing(tmp_path, undisturbed):
    assert in_process(signal_while_saving, tmp_path, TinyOptions(), 6) == 0
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    assert in_process(run, tmp_path, TinyOptions()) == 0
    assert_same_bits(final_state(tmp_path), undisturbed)


def test_an_automatically_terminated_run_stays_finished(tmp_path):
    options = TinyOptions(patience=1, validation_period=1, base_lr=0.5, max_iter=200)
    first = run(tmp_path, options)
    assert "auto termination" in first.terminated
    assert first.iteration < 200
    assert read_checkpoint(tmp_path / "model_final.pth")["iteration"] == first.iteration
    assert run(tmp_path, options).iteration == first.iteration


def test_a_longer_run_continues_a_finished_one(tmp_path):
    run(tmp_path, TinyOptions(max_iter=3))
    assert run(tmp_path, TinyOptions(max_iter=5)).iteration == 5


def run_both_worlds(folder, options, kill_at):
    hooks = (KillAt(kill_at, signal.SIGTERM),) if kill_at and comm.get_rank() == 1 else ()
    return run(folder, options, hooks).iteration


def test_a_signal_to_one_process_stops_all_and_the_run_continues_exactly(tmp_path):
    options = TinyOptions(batch_norm=False)
    assert run_world(2, run_both_worlds, tmp_path / "a", options, None, folder=tmp_path / "1") == [
        20,
        20,
    ]
    stopped = run_world(2, run_both_worlds, tmp_path / "b", options, 6, folder=tmp_path / "2")
    assert stopped == [6, 6]
    run_world(2, run_both_worlds, tmp_path / "b", options, None, folder=tmp_path / "3")
    assert_same_bits(final_state(tmp_path / "b"), final_state(tmp_path / "a"))


def run_until_the_disk_is_full(folder, options) -> str:
    """Process 0 can write no file beyond a size from iteration 9 on; what the run ended with."""

    class FullDisk(Hook):
        def after_iteration(self, trainer, losses):
            if trainer.iteration == 9 and comm.is_main_process():
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))

    try:
        run(folder, options, (FullDisk(),))
    except CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        return str(error)
    return "nothing"


def test_a_disk_without_room_stops_all_processes_and_leaves_the_earlier_checkpoint(tmp_path):
    options = TinyOptions(batch_norm=False, max_iter=16, validation_period=99)
    folders = [tmp_path / name for name in ("whole", "full", "1", "2", "3")]
    run_world(2, run_both_worlds, folders[0], options, None, folder=folders[2])

    errors = run_world(2, run_until_the_disk_is_full, folders[1], options, folder=folders[3])

    assert errors[0] == errors[1]
    assert "could not write" in errors[0] and "model_0000012.pth" in errors[0]
    assert (folders[1] / "last_checkpoint").read_text() == "model_0000008.pth"
    assert not list(folders[1].glob(".*.tmp"))
    run_world(2, run_both_worlds, folders[1], options, None, folder=folders[4])
    assert_same_bits(final_state(folders[1]), final_state(folders[0]))


@pytest.mark.slow
def test_torchrun_restarts_a_job_whose_process_died_and_it_ends_with_the_same_bits(tmp_path):
    run_world(2, elastic_program.train, tmp_path / "whole", 0, folder=tmp_path / "processes")
    repository = Path(__file__).resolve().parent.parent.parent
    launch = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launch}
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"),
            *("--max-restarts=3", "--rdzv_backend=c10d"),
            f"--rdzv_endpoint=127.0.0.1:{free_port()}",
            *(elastic_program.__file__, str(tmp_path / "elastic"), "10"),
        ],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)},
        check=True,
    )
    assert (tmp_path / "died").exists()
    assert_same_bits(final_state(tmp_path / "elastic"), final_state(tmp_path / "whole"))


def test_another_number_of_processes_continues_with_a_warning(tmp_path, caplog):
    options = TinyOptions(max_iter=8, batch_norm=False)
    run_world(2, run_both_worlds, tmp_path / "run", options, 6, folder=tmp_path / "out")
    trainer = run(tmp_path / "run", options)
    assert trainer.iteration == 8
    assert "continuing with 1 process(es) what 2 had begun" in caplog.text
