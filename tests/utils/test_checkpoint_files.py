"""Files that users pass as checkpoints, and writes that fail half way."""

import argparse
import collections
import io
import pickle
import resource
import signal
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from maskrcnn_benchmark.utils.c2_model_loading import rename_blob
from maskrcnn_benchmark.utils.checkpoint_files import (
    CheckpointError,
    read_checkpoint,
    remove_stale_temporaries,
    write_checkpoint,
    write_safetensors,
)

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}


class RunsCode:
    """Writes a file when it is unpickled; a stand-in for anything hostile."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def assert_holds_weights(contents):
    assert contents["model"].keys() == WEIGHTS.keys()
    for name, value in WEIGHTS.items():
        assert torch.equal(contents["model"][name], value)


@pytest.mark.parametrize("name", ["model.pth", "last_checkpoint", "model.pt"])
@pytest.mark.parametrize("zip_format", [True, False])
def test_torch_files_of_both_formats_are_read_whatever_their_name(tmp_path, name, zip_format):
    path = tmp_path / name
    torch.save({"model": WEIGHTS}, path, _use_new_zipfile_serialization=zip_format)
    assert_holds_weights(read_checkpoint(path))


@pytest.mark.parametrize("name", ["model.safetensors", "weights"])
def test_safetensors_are_read(tmp_path, name):
    safetensors.torch.save_file(WEIGHTS, tmp_path / name)
    assert_holds_weights(read_checkpoint(tmp_path / name))


def test_plain_data_of_training_scripts_needs_no_trust(tmp_path):
    extras = {
        "eval_result": np.float64(0.5),
        "history": np.arange(3.0),
        "milestones": collections.Counter([3, 4]),
        "args": argparse.Namespace(lr=0.1),
    }
    torch.save({"model": WEIGHTS, **extras}, tmp_path / "model.pth")
    contents = read_checkpoint(tmp_path / "model.pth")
    assert contents["eval_result"] == 0.5
    assert contents["args"].lr == 0.1


def test_numpy_numbers_written_by_old_numpy_versions_are_read(tmp_path):
    torch.save({"model": WEIGHTS, "eval_result": np.float64(0.5)}, tmp_path / "new.pth")
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    with zipfile.ZipFile(new) as source, zipfile.ZipFile(old, "w") as target:
        for item in source.namelist():
            data = source.read(item)
            target.writestr(item, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_checkpoint(old)["eval_result"] == 0.5


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, zip_format):
    path, trace = tmp_path / "model.pth", tmp_path / "code_ran"
    torch.save(
        {"model": WEIGHTS, "extra": RunsCode(trace)},
        path,
        _use_new_zipfile_serialization=zip_format,
    )
    with pytest.raises(CheckpointError, match=r"would run code.*--trust-checkpoint"):
        read_checkpoint(path)
    assert not trace.exists()


def test_a_pickle_with_code_is_read_when_it_is_trusted(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": WEIGHTS, "extra": RunsCode(tmp_path / "code_ran")}, path)
    assert_holds_weights(read_checkpoint(path, trust=True))


def torch_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(1000)}}, buffer)
    return buffer.getvalue()


def plain_zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(80), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(80), "a JPEG picture"),
        (b"MODEL:\n  WEIGHT: x\n", "of no known format"),
        (plain_zip_bytes(), "a plain zip archive"),
        (torch_bytes()[:-100], "cut short"),
        (torch_bytes()[:70], "cut short"),
        (pickle.dumps({"names": ["a", "b"]}), "a pickle without arrays"),
        (pickle.dumps(io.StringIO), "a pickle of other things than arrays"),
        (b"\x80\x02", "a pickle of other things than arrays"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, contents, message):
    path = tmp_path / "model.pth"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_cut_safetensors_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.torch.save(WEIGHTS)[:-4])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_checkpoint(path)


def test_a_bare_tensor_a_folder_and_a_missing_file_are_refused(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="holds a Tensor"):
        read_checkpoint(tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth does not exist"):
        read_checkpoint(tmp_path / "nothing.pth")


def test_caffe2_pickles_become_torchvision_names(tmp_path):
    blobs = {
        "conv1_w": np.ones((2, 3, 7, 7), np.float32),
        "res2_0_branch2a_w": np.ones((2, 2, 1, 1), np.float32),
        "res2_0_branch2a_w_momentum": np.ones(1, np.float32),
    }
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, protocol=2))
    weights = read_checkpoint(path)["model"]
    assert sorted(weights) == ["conv1.weight", "layer1.0.conv1.weight"]


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("conv1_w", "conv1.weight"),
        ("res_conv1_bn_s", "bn1.weight"),
        ("res_conv1_bn_b", "bn1.bias"),
        ("res3_0_branch1_w", "layer2.0.downsample.0.weight"),
        ("res3_0_branch1_bn_b", "layer2.0.downsample.1.bias"),
        ("res5_2_branch2c_bn_s", "layer4.2.bn3.weight"),
    ],
)
def test_blob_names(blob, name):
    assert rename_blob(blob) == name


def test_what_was_written_is_read_back(tmp_path):
    write_checkpoint(tmp_path / "model.pth", {"model": WEIGHTS, "iteration": 3})
    contents = read_checkpoint(tmp_path / "model.pth")
    assert_holds_weights(contents)
    assert contents["iteration"] == 3
    write_safetensors(tmp_path / "model.safetensors", WEIGHTS, {"iteration": "3"})
    assert_holds_weights(read_checkpoint(tmp_path / "model.safetensors"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pth", "model.safetensors"]


@pytest.fixture
def small_disk():
    """Files cannot grow beyond 64 KiB inside the test, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_disk_without_room_leaves_the_older_file_and_nothing_else(tmp_path, small_disk):
    path = tmp_path / "model.pth"
    write_checkpoint(path, {"model": WEIGHTS})
    with pytest.raises(CheckpointError, match=r"could not write .*MiB free"):
        write_checkpoint(path, {"model": {"weight": torch.zeros(1 << 16)}})
    assert_holds_weights(read_checkpoint(path))
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_left_overs_of_killed_writers_are_removed(tmp_path):
    (tmp_path / ".model_0000001.pth.123.tmp").write_bytes(b"half")
    for name in ("notes.tmp", ".notes.tmp", ".notes.2-b.tmp"):
        (tmp_path / name).write_bytes(b"mine")
    remove_stale_temporaries(tmp_path)
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert kept == [".notes.2-b.tmp", ".notes.tmp", "notes.tmp"]
