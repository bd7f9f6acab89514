"""Fixtures of the operator tests."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.layers import _native

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESSES = Path(__file__).resolve().parent / "native"


@pytest.fixture(params=["native", "reference"])
def backend(request) -> Iterator[str]:
    """Every test that asks for it runs on the compiled operators and on what stands in for them."""
    if request.param == "native":
        if not _native.loaded():
            pytest.skip(f"the native operators are not loaded: {_native.describe()['cpu']}")
        yield "native"
    else:
        with _native.disabled():
            yield "reference"


@pytest.fixture
def native() -> None:
    """Skip where the compiled operators are missing."""
    if not _native.loaded():
        pytest.skip(f"the native operators are not loaded: {_native.describe()['cpu']}")


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(20220617)


@pytest.fixture
def with_threads() -> Iterator[Callable]:
    """`with_threads(n, function)`: what the function returns when PyTorch has n threads."""
    before = torch.get_num_threads()

    def run(count: int, function: Callable):
        torch.set_num_threads(count)
        return function()

    yield run
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def compiler() -> str:
    """A C++ compiler."""
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    pytest.skip("no C++ compiler")


@pytest.fixture(scope="session")
def load_harness(compiler, tmp_path_factory) -> Callable[..., None]:
    """`load_harness(name, sources, flags)`: build a library of the given sources and load it."""
    if not _native.loaded():
        pytest.skip(f"the native operators are not loaded: {_native.describe()['cpu']}")

    def load(name: str, sources: list[Path], *flags: str) -> None:
        target = tmp_path_factory.mktemp("harness") / f"{name}.so"
        torch_libraries = Path(torch.__file__).parent / "lib"
        command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off"]
        command += [
            "-fvisibility=hidden",
            "-Wno-psabi",
            f"-I{HARNESSES}",
            f"-I{REPOSITORY / 'csrc'}",
        ]
        command += [*flags, *map(str, sources), "-o", str(target)]
        command += [f"-L{torch_libraries}", "-ltorch_cpu"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        torch.ops.load_library(str(target))

    return load
