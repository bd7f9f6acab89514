"""Launch settings from the environment, and collectives with and without a process group."""

import pytest
import torch
import torch.distributed as dist

from maskrcnn_benchmark.utils import comm
from tests.process_tools import run_world

LAUNCH_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "MASTER_ADDR",
)


@pytest.fixture
def environment(monkeypatch):
    """Sets launch variables after removing those of the surroundings."""
    for name in LAUNCH_VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


def test_a_plain_call_is_a_world_of_one(environment):
    assert comm.read_launch_settings() == comm.LaunchSettings(0, 1, 0)


def test_the_local_rank_flag_of_old_launchers_is_used_when_the_environment_is_silent(environment):
    environment(RANK=3, WORLD_SIZE=4)
    assert comm.read_launch_settings(local_rank_flag=1) == comm.LaunchSettings(3, 4, 1)


def test_the_environment_beats_the_local_rank_flag(environment):
    environment(RANK=3, WORLD_SIZE=4, LOCAL_RANK=2)
    assert comm.read_launch_settings(local_rank_flag=1).local_rank == 2


def test_slurm_variables_describe_the_world(environment):
    environment(SLURM_PROCID=5, SLURM_NTASKS=8, SLURM_LOCALID=1, MASTER_ADDR="node0")
    assert comm.read_launch_settings() == comm.LaunchSettings(5, 8, 1)


def test_torchrun_inside_a_slurm_job_wins_over_slurm(environment):
    environment(SLURM_PROCID=0, SLURM_NTASKS=1, SLURM_LOCALID=0, MASTER_ADDR="node0")
    environment(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1)
    assert comm.read_launch_settings() == comm.LaunchSettings(1, 2, 1)


def test_an_interactive_slurm_shell_is_not_a_world(environment):
    environment(SLURM_PROCID=0, SLURM_NTASKS=4)
    assert comm.read_launch_settings().world_size == 1


def test_a_variable_that_is_no_number_is_named(environment):
    environment(WORLD_SIZE="two")
    with pytest.raises(ValueError, match="WORLD_SIZE must be a whole number, not 'two'"):
        comm.read_launch_settings()


def test_a_rank_outside_the_world_is_refused(environment):
    environment(RANK=2, WORLD_SIZE=2)
    with pytest.raises(ValueError, match="rank 2 lies outside the world of 2"):
        comm.read_launch_settings()


def test_without_a_group_every_collective_is_the_identity(environment):
    with comm.process_group("cpu") as settings:
        assert settings.world_size == 1
        assert not comm.is_distributed()
        assert comm.is_main_process()
        assert comm.all_gather("x") == ["x"]
        assert comm.gather("x") == ["x"]
        assert comm.broadcast({"a": 1}) == {"a": 1}
        assert comm.any_process(True) is True
        assert comm.reduce_dict({"loss": torch.tensor(2.0)}) == {"loss": torch.tensor(2.0)}
        assert comm.reduce_dict({}) == {}
        comm.synchronize()


def _exchange():
    rank = comm.get_rank()
    values = {"b": torch.tensor(1.0 + rank), "a": torch.tensor(10.0 * rank)}
    untouched = torch.ones(2)
    comm.all_reduce_sum(untouched)
    return {
        "rank": rank,
        "world_size": comm.get_world_size(),
        "is_main": comm.is_main_process(),
        "gathered_by_all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank),
        "broadcast": comm.broadcast(f"from {rank}"),
        "any": comm.any_process(rank == 1),
        "none": comm.any_process(False),
        "mean": {name: float(value) for name, value in comm.reduce_dict(values).items()},
        "sum": {name: float(v) for name, v in comm.reduce_dict(values, average=False).items()},
        "untouched": untouched.tolist(),
    }


def test_two_processes_exchange_values(tmp_path):
    first, second = run_world(2, _exchange, folder=tmp_path)

    assert (first["rank"], second["rank"]) == (0, 1)
    assert (first["is_main"], second["is_main"]) == (True, False)
    assert (first["gathered"], second["gathered"]) == ([0, 1], None)
    for result in (first, second):
        assert result["world_size"] == 2
        assert result["gathered_by_all"] == [{"rank": 0}, {"rank": 1}]
        assert result["broadcast"] == "from 0"
        assert (result["any"], result["none"]) == (True, False)
        assert result["mean"] == {"a": 5.0, "b": 1.5}
        assert result["sum"] == {"a": 10.0, "b": 3.0}
        assert result["untouched"] == [1.0, 1.0]


def _leave_again_and_again(folder, as_before_2_8):
    comm.BEFORE_2_8 = as_before_2_8
    rank, world_size = comm.get_rank(), comm.get_world_size()
    comm.cleanup()
    for number in range(20):
        store = dist.FileStore(f"{folder}/store_{number}", world_size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        comm.all_gather(list(range(1000)))
        comm.synchronize()
        comm.cleanup()
    return comm.is_distributed()


@pytest.mark.parametrize("as_before_2_8", [comm.BEFORE_2_8, True])
def test_a_group_can_be_left_right_after_an_exchange(tmp_path, as_before_2_8):
    arguments = (str(tmp_path), as_before_2_8)
    assert run_world(2, _leave_again_and_again, *arguments, folder=tmp_path) == [False, False]
