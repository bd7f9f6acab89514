"""The build and what happens without it: no compiler, no library, an old PyTorch."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.layers import (
    _native,
    dynamic_mean,
    ml_nms,
    modulated_deform_conv,
    nms,
    roi_align,
    token_sigmoid_focal_loss,
)
from tests.layers.conftest import HARNESSES, REPOSITORY

BOXES = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
SCORES = torch.tensor([0.5, 0.9, 0.3])


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def fresh_state(monkeypatch, tmp_path):
    """Nothing loaded yet, and a package folder without libraries."""
    monkeypatch.setattr(_native, "_state", _native._State())
    monkeypatch.setattr(_native, "PACKAGE", tmp_path)
    monkeypatch.setattr(_native, "torch_version", lambda: _native.MINIMUM_TORCH)
    return _native._state


def test_without_libraries_one_line_says_so_and_everything_works(fresh_state, caplog):
    _native.load()

    with caplog.at_level(logging.WARNING):
        assert nms(BOXES, SCORES, 0.5).tolist() == [1, 2]
        assert ml_nms(BOXES, SCORES, torch.ones(3), 0.5).tolist() == [1, 2]

    assert [record.getMessage() for record in caplog.records] == [
        "Operators on cpu run on torchvision and plain PyTorch: _ops_cpu was not built."
    ]


def test_a_library_that_does_not_load_is_reported_and_replaced(fresh_state, tmp_path):
    (tmp_path / "_ops_cpu.so").write_bytes(b"not a library")

    _native.load()

    assert not _native.loaded()
    assert "_ops_cpu.so does not load" in _native.describe()["cpu"]
    assert nms(BOXES, SCORES, 0.5).tolist() == [1, 2]


def test_a_library_of_other_sources_is_reported_and_replaced(fresh_state, monkeypatch):
    def register(name: str) -> None:
        raise RuntimeError("operator glip::new does not exist")

    monkeypatch.setattr(_native, "_load", lambda name: None)
    monkeypatch.setattr(_native.importlib, "import_module", register)

    _native.load()

    assert not _native.loaded()
    assert "operator glip::new does not exist); build it again" in _native.describe()["cpu"]
    assert nms(BOXES, SCORES, 0.5).tolist() == [1, 2]


def test_an_old_pytorch_gets_the_reference(fresh_state, monkeypatch):
    monkeypatch.setattr(_native, "torch_version", lambda: (2, 9))

    _native.load()

    assert not _native.loaded()
    assert "need PyTorch 2.10 or newer" in _native.describe()["cpu"]


@pytest.mark.parametrize("text", ["2.15.0+cu132", "2.10.0a0+git123", "2.6.0"])
def test_versions_are_read_from_whatever_pytorch_calls_itself(monkeypatch, text):
    monkeypatch.setattr(torch, "__version__", text)

    assert _native.torch_version() == tuple(map(int, text.split(".")[:2]))


@pytest.mark.slow  # starts Python and PyTorch once more
def test_the_environment_switches_the_native_operators_off(native):
    script = (
        "import logging; logging.basicConfig();"
        "from maskrcnn_benchmark.layers import _native, nms; import torch;"
        "print(_native.loaded(), nms(torch.zeros(1, 4), torch.ones(1), 0.5).tolist())"
    )

    result = run_python("-c", script, MASKRCNN_NATIVE_OPS="0")

    assert result.stdout.split() == ["False", "[0]"]
    assert result.stderr.count("MASKRCNN_NATIVE_OPS=0") == 1


def test_disabling_ends_with_its_context_even_after_an_error(native):
    with pytest.raises(RuntimeError, match="inside"), _native.disabled():
        assert not _native.usable(BOXES)
        raise RuntimeError("inside")

    assert _native.usable(BOXES)


def results_of_many_operators() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    corners = normal(300, 2) * 10 + 20
    boxes = torch.cat((corners, corners + normal(300, 2).exp() * 10), 1)
    scores = torch.rand(300, generator=generator)
    image, weight = normal(1, 20, 9, 9).requires_grad_(), normal(18, 20, 3, 3).requires_grad_()
    convolved = modulated_deform_conv(
        image, normal(1, 18, 9, 9), normal(1, 9, 9, 9), weight, None, 1, 1
    )
    pooled = roi_align(image, torch.cat((torch.zeros(300, 1), boxes), 1), 3, 0.2)
    logits = normal(1, 27, 81)
    loss = token_sigmoid_focal_loss(logits, logits > 1, None)
    mean = dynamic_mean([convolved, convolved.cos()], normal(1, 2), normal(1, 4, 18))
    (convolved.square().sum() + pooled.square().sum() + mean.square().sum()).backward()
    return [nms(boxes, scores, 0.4), convolved, pooled, mean, loss, image.grad, weight.grad]


@pytest.mark.slow  # starts Python and PyTorch once more
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_lesser_instruction_sets_give_the_same_results(native, tmp_path, capability):
    order = ["default", "avx2", "avx512", "avx512_bf16"]
    if order.index(capability) >= order.index(_native.cpu_capability()):
        pytest.skip(f"this processor gets {_native.cpu_capability()}")
    script = (
        "import sys, torch; from tests.layers.test_build import _native, results_of_many_operators;"
        "torch.save([t.detach() for t in results_of_many_operators()], sys.argv[1]);"
        "print(_native.cpu_capability())"
    )

    run = run_python("-c", script, str(tmp_path / "results"), GLIP_CPU_CAPABILITY=capability)

    assert run.stdout.strip() == capability, run.stderr
    expected = torch.load(tmp_path / "results", weights_only=True)
    for tensor, value in zip(results_of_many_operators(), expected):
        torch.testing.assert_close(tensor, value, rtol=1e-4, atol=1e-4)


def test_the_declarations_are_pytorchs(compiler):
    include = Path(torch.__file__).parent / "include"
    if not (include / "torch" / "csrc" / "stable" / "c" / "shim.h").is_file():
        pytest.skip("this PyTorch has no stable headers")
    command = [compiler, "-std=c++20", "-fsyntax-only", f"-I{include}", f"-I{REPOSITORY / 'csrc'}"]

    result = subprocess.run(
        [*command, str(HARNESSES / "declarations.cpp")], capture_output=True, text=True
    )

    assert result.returncode == 0, result.stderr


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return run_python(
        "setup.py",
        "build_ext",
        "-b",
        str(folder / "lib"),
        "-t",
        str(folder / "temp"),
        **environment,
    )


def test_without_a_compiler_the_build_succeeds_and_says_so(tmp_path):
    result = build(tmp_path, CXX="no-such-compiler", FORCE_CUDA="0")

    assert result.returncode == 0, result.stderr
    assert "no C++ compiler found" in result.stdout
    assert not list(tmp_path.rglob("*.so"))


def test_a_compiler_that_fails_is_reported_and_the_build_goes_on(tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 1\n")
    broken.chmod(0o755)

    result = build(tmp_path, CXX=str(broken), FORCE_CUDA="0")

    assert result.returncode == 0, result.stderr
    assert "out of order" in result.stdout


def test_an_unknown_cuda_wish_is_refused(tmp_path):
    result = build(tmp_path, FORCE_CUDA="maybe")

    assert result.returncode != 0
    assert "FORCE_CUDA must be 0 or 1" in result.stderr


def test_cuda_without_a_compiler_is_refused_when_it_was_asked_for(tmp_path):
    result = build(tmp_path, FORCE_CUDA="1", CXX="no-such-compiler")

    assert result.returncode != 0
    assert "FORCE_CUDA=1" in result.stderr


def test_an_nvcc_without_any_usual_architecture_is_refused_with_what_it_has(tmp_path):
    nvcc, compiler = tmp_path / "cuda/bin/nvcc", tmp_path / "c++"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho compute_999\n")
    compiler.write_text('#!/bin/sh\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && : >"$2"; shift; done\n')
    for tool in (nvcc, compiler):
        tool.chmod(0o755)

    result = build(
        tmp_path,
        FORCE_CUDA="1",
        CUDA_HOME=str(nvcc.parent.parent),
        CXX=str(compiler),
        TORCH_CUDA_ARCH_LIST="",
        PATH="/nowhere",  # no nvidia-smi
    )

    assert result.returncode != 0
    assert "set TORCH_CUDA_ARCH_LIST to one of its own (999)" in result.stderr
