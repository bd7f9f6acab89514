"""Sharing the parameters out over processes changes where they are, not what they become."""

import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.engine.parallel import is_shared_out, shard
from maskrcnn_benchmark.engine.trainer import build_trainer, start_from
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from maskrcnn_benchmark.utils.sharding import local, whole
from tests.engine.one_update import (
    EVEN,
    assert_same_gradients,
    first_updates,
    without_dropout,
    write_even_world,
)
from tests.engine.small_world import read_config
from tests.engine.test_resume import assert_same_bits
from tests.engine.tiny_run import KillAt
from tests.process_tools import run_world

pytestmark = pytest.mark.slow


def average_over_gloo() -> str:
    """Empty, or why this PyTorch cannot share a model out on a CPU."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        return "FSDP2 is for GPUs only"
    try:
        share = torch.zeros(1)
        dist.reduce_scatter_tensor(share, torch.ones(2), op=dist.ReduceOp.AVG)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        return str(error)
    return ""


@pytest.fixture(scope="module", autouse=True)
def gloo_averages(tmp_path_factory):
    """Gloo of older versions knows sums alone; nccl, for which FSDP is made, always averages."""
    folder = tmp_path_factory.mktemp("probe")
    if problem := run_world(2, average_over_gloo, folder=folder)[0]:
        pytest.skip(f"this PyTorch cannot share a model out over gloo: {problem}")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_even_world(folder, SOLVER__IMS_PER_BATCH=4, SOLVER__MODEL_EMA=0.9)
    return folder


TWO_STEPS = (
    *("SOLVER.MAX_ITER", 2, "SOLVER.ACCUMULATION_STEPS", 2),
    *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5),
)


def train(world: Path, kind: str, *opts):
    return first_updates(
        *(str(world / "config.yaml"), str(world / kind)), "SOLVER.PARALLEL", kind, *TWO_STEPS, *opts
    )


@pytest.fixture(scope="module")
def replicated(world):
    return run_world(2, train, world, "ddp", folder=world / "processes_ddp")[0]


@pytest.fixture(scope="module")
def shared(world):
    return run_world(2, train, world, "fsdp", folder=world / "processes_fsdp")[0]


def test_two_steps_have_the_losses_gradients_and_weights_of_replicated_training(replicated, shared):
    """With accumulated parts and clipped gradients."""
    for found, expected in zip(shared.losses, replicated.losses, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
        assert expected["grad_norm"] > 0.5
    assert_same_gradients(shared, replicated)
    for name, value in replicated.weights.items():
        torch.testing.assert_close(shared.weights[name], value, rtol=1e-5, atol=1e-5)


def test_checkpoints_hold_whole_tensors_under_the_same_names(world, replicated, shared):
    one = read_checkpoint(world / "ddp/model_final.pth")
    other = read_checkpoint(world / "fsdp/model_final.pth")
    assert one.keys() == other.keys()
    for part in ("model", "model_ema"):
        assert one[part].keys() == other[part].keys()
        for name, value in one[part].items():
            torch.testing.assert_close(other[part][name], value, rtol=1e-5, atol=1e-5)
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    for name, buffers in one["optimizer"]["state"].items():
        for key, value in buffers.items():
            torch.testing.assert_close(
                other["optimizer"]["state"][name][key], value, rtol=1e-4, atol=1e-6
            )


def run_to_the_end(world: Path, output: str, kill_at: int | None) -> bool:
    """Five steps in the way of the tool; SIGTERM to one process if asked."""
    torch.set_num_threads(1)
    config = read_config(
        world / "config.yaml",
        *("OUTPUT_DIR", str(world / output), *EVEN, "SOLVER.PARALLEL", "fsdp"),
        *("SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 4),
    )
    trainer = without_dropout(build_trainer(config))
    start_from(trainer, "")
    if kill_at and comm.get_rank() == 1:
        trainer.hooks.append(KillAt(kill_at, signal.SIGTERM))
    trainer.train()
    assert is_shared_out(trainer.model)
    return trainer.finished


def test_a_stopped_run_continues_to_the_same_bits(world):
    folders = iter(world / f"processes_{number}" for number in range(3))
    assert all(run_world(2, run_to_the_end, world, "whole", None, folder=next(folders)))
    assert not any(run_world(2, run_to_the_end, world, "stopped", 3, folder=next(folders)))
    assert all(run_world(2, run_to_the_end, world, "stopped", None, folder=next(folders)))
    one, other = (
        read_checkpoint(world / name / "model_final.pth") for name in ("whole", "stopped")
    )
    assert_same_bits(other, one)


def numbers_held(world: Path) -> tuple[int, int]:
    config = read_config(
        world / "config.yaml",
        *("OUTPUT_DIR", str(world / "held"), *EVEN, "SOLVER.PARALLEL", "fsdp"),
    )
    model = build_trainer(config).model
    mine = sum(local(parameter).numel() for parameter in model.parameters())
    return mine, sum(whole(parameter).numel() for parameter in model.parameters())


def test_every_process_holds_about_half_of_the_parameters(world):
    for mine, total in run_world(2, numbers_held, world, folder=world / "processes_held"):
        assert 0.45 * total < mine < 0.55 * total


def test_a_sharded_checkpoint_continues_on_one_process(world, shared):
    config = read_config(
        world / "config.yaml",
        *("OUTPUT_DIR", str(world / "fsdp"), *EVEN, *TWO_STEPS, "SOLVER.MAX_ITER", 3),
    )
    trainer = build_trainer(config)
    start_from(trainer, "")
    name = "rpn.head.bbox_pred.weight"
    assert trainer.iteration == 2
    assert torch.equal(trainer.model.state_dict()[name], shared.weights[name])


def test_mixed_precision_and_its_loss_scale_work_on_shares(world):
    opts = ("SOLVER.USE_AMP", True, "SOLVER.AMP_DTYPE", "float16")
    found = run_world(2, train, world, "fsdp", *opts, folder=world / "processes_amp")[0]
    assert all(value.isfinite().all() for value in found.weights.values())


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("SOLVER.PARALLEL", "horovod"), r"SOLVER\.PARALLEL is 'horovod'"),
        (("SOLVER.PARALLEL", "fsdp", "MODEL.BACKBONE.USE_BN", True), "running statistics"),
        (("SOLVER.PARALLEL", "fsdp", "TEST.DURING_TRAINING", True), "test_grounding_net"),
        (("SOLVER.PARALLEL", "fsdp", "SOLVER.USE_AUTOSTEP", True), "test_grounding_net"),
    ],
)
def test_what_cannot_be_shared_is_refused(world, opts, message):
    with pytest.raises(ConfigError, match=message):
        build_trainer(read_config(world / "config.yaml", *EVEN, *opts))


def test_a_pytorch_that_shares_out_on_a_gpu_only_says_so_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cpu, "Stream", object)

    with pytest.raises(ConfigError, match="on a GPU only"):
        shard(torch.nn.Linear(1, 1), torch.device("cpu"))
