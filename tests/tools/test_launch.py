"""The launch scripts: two simulated hosts train together and survive the death of a process."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from tests.engine import elastic_program
from tests.engine.small_world import REPOSITORY, write_config, write_detection_set
from tests.engine.test_resume import assert_same_bits, final_state
from tests.process_tools import free_port, run_world

LAUNCH = REPOSITORY / "tools" / "launch"


def run_script(name: str, *arguments: str, path: Path | None = None, **settings: str):
    """Run a script; its output and exit status."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launcher}
    environment.update(OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY), **settings)
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        [str(LAUNCH / name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_two_hosts_train_together_and_every_process_has_its_log(tmp_path):
    write_detection_set(tmp_path, 4)
    config = write_config(tmp_path)

    done = run_script(
        "two_hosts.sh",
        *("--config-file", str(config), "SOLVER.MAX_ITER", "2"),
        PYTHON=sys.executable,
        PORT=str(free_port()),
        LOGS=str(tmp_path / "logs"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_checkpoint(tmp_path / "output/model_final.pth")["random_states"]) == 2
    assert "iter: 2/2" in done.stdout
    for host in ("host0", "host1"):
        assert list((tmp_path / "logs" / host).rglob("stdout.log"))
        assert (tmp_path / "logs" / f"{host}.log").is_file()


@pytest.mark.slow
def test_a_process_that_dies_on_one_host_restarts_both_and_the_run_ends_with_the_same_bits(
    tmp_path,
):
    run_world(2, elastic_program.train, tmp_path / "whole", 0, folder=tmp_path / "processes")

    done = run_script(
        "two_hosts.sh",
        *(str(tmp_path / "elastic"), "10"),
        PYTHON=sys.executable,
        PROGRAM=elastic_program.__file__,
        PORT=str(free_port()),
        LOGS=str(tmp_path / "logs"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "died").exists()
    assert_same_bits(final_state(tmp_path / "elastic"), final_state(tmp_path / "whole"))


def stub(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_slurm_starts_one_agent_per_host_with_its_settings(tmp_path):
    stub(tmp_path / "bin", "scontrol", "echo node7; echo node8")
    stub(tmp_path / "bin", "srun", 'shift; exec "$@"')
    stub(tmp_path / "bin", "nvidia-smi", "seq 16")
    stub(tmp_path / "bin", "python", 'printf "%s\\n" "$@"')

    done = run_script(
        "slurm.sh",
        *("--config-file", "a file.yaml", "SOLVER.SEED", "3"),
        path=tmp_path / "bin",
        SLURM_JOB_NODELIST="node[7-8]",
        SLURM_NNODES="2",
        SLURM_JOB_ID="41",
        LOGS=str(tmp_path / "logs"),
    )

    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    for option in (
        *("--nnodes=2", "--rdzv-endpoint=node7:20041", "--rdzv-id=glip_41"),
        *("--nproc-per-node=16", "--max-restarts=3", "--rdzv-backend=c10d", "--tee=0:3"),
    ):
        assert option in words
    assert words[-5:] == [
        *("tools/train_net.py", "--config-file", "a file.yaml", "SOLVER.SEED", "3")
    ]


def test_ssh_without_hosts_says_what_is_missing():
    done = run_script("ssh.sh")
    assert done.returncode != 0
    assert "name the hosts" in done.stderr


def test_the_exit_status_of_a_host_is_that_of_the_launch(tmp_path):
    stub(tmp_path / "bin", "python", "exit 3")
    done = run_script("two_hosts.sh", path=tmp_path / "bin", LOGS=str(tmp_path / "logs"))
    assert done.returncode == 3


@pytest.mark.parametrize("name", ["slurm.sh", "ssh.sh", "two_hosts.sh"])
def test_every_script_tells_its_settings(name):
    done = run_script(name, "--help")
    assert done.returncode == 0
    for word in (name, "PROCESSES", "RESTARTS", "tools/train_net.py --help"):
        assert word in done.stdout
    assert "SBATCH" not in done.stdout and "set -euo" not in done.stdout


def test_a_dry_run_shows_what_every_host_would_run(tmp_path):
    done = run_script(
        *("two_hosts.sh", "--config-file", "a b.yaml"), DRY_RUN="1", LOGS=str(tmp_path), PORT="2000"
    )
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("[host")]
    assert sorted(line[:7] for line in lines) == ["[host0]", "[host1]"]
    for line in lines:
        assert r"--rdzv-endpoint=127.0.0.1:2000" in line and r"--config-file a\ b.yaml" in line


@pytest.mark.parametrize(("name", "advice"), [("slurm.sh", "sbatch"), ("ssh.sh", "HOSTS=")])
def test_a_script_that_is_called_in_the_wrong_place_says_how(name, advice):
    done = run_script(name, "--config-file", "a.yaml", HOSTS="", SLURM_JOB_NODELIST="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and advice in done.stderr
