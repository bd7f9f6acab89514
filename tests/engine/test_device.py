"""Which names of devices are understood."""

import pytest
import torch

from maskrcnn_benchmark.engine.device import choose_device
from maskrcnn_benchmark.errors import ConfigError


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("name", ["foo", "tpu", "", "cuda:", "cuda:x", "cudafoo", "meta", "CPU"])
def test_other_names_are_a_mistaken_setting(name):
    with pytest.raises(ConfigError, match=r"cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [("cuda", 3, "cuda:1"), ("cuda:1", 0, "cuda:1"), ("cpu", 1, "cpu")],
)
def test_a_device_that_exists_is_taken(two_gpus, name, rank, expected):
    assert choose_device(name, rank) == torch.device(expected)


def test_a_gpu_beyond_those_of_the_machine_is_refused(two_gpus):
    with pytest.raises(ConfigError, match=r"cuda:2, but there are 2 GPUs"):
        choose_device("cuda:2")


def test_without_a_gpu_the_cpu_is_taken_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cuda:7") == torch.device("cpu")
    assert "MODEL.DEVICE is cuda:7" in caplog.text
