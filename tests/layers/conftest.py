"""Fixtures of the operator tests."""

from collections.abc import Callable, Iterator

import pytest
import torch

from maskrcnn_benchmark.layers import _native


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
