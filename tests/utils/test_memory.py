"""Freed memory stays with the process where the tools compute on a CPU."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from maskrcnn_benchmark.utils.memory import keep_freed_memory

PROGRAM = """
import sys
from pathlib import Path
import torch
from maskrcnn_benchmark.engine.device import choose_device

def resident():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024

if sys.argv[1] == "chosen":
    choose_device("cpu")
before = resident()
del_me = torch.ones(100 * 2**18)  # 100 MiB
del del_me
print(resident() - before)
"""

glibc_only = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/status").exists(),
    reason="only the allocator of glibc is told",
)


def kept_megabytes(chosen: str, **variables: str) -> float:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "LD_PRE"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, chosen],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@glibc_only
def test_a_process_on_the_cpu_keeps_what_tensors_give_back():
    assert kept_megabytes("chosen") > 90
    assert kept_megabytes("not chosen") < 10


@glibc_only
def test_the_users_own_setting_stands():
    assert kept_megabytes("chosen", MALLOC_TRIM_THRESHOLD_="131072") < 10


@pytest.mark.parametrize("name", ["LD_PRELOAD", "GLIBC_TUNABLES"])
def test_another_allocator_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "chosen by the user")
    assert keep_freed_memory.__wrapped__() is False


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory.__wrapped__() is False
