"""A training checkpoint becomes a small file of weights that loads everywhere."""

import pytest
import safetensors
import torch
from torch import nn

from maskrcnn_benchmark.utils.checkpoint import load_weights
from maskrcnn_benchmark.utils.checkpoint_files import read_checkpoint
from tests.engine.tiny_run import TinyModel, TinyOptions, run
from tools.convert_checkpoint import main as convert


@pytest.fixture
def checkpoint(tmp_path):
    """The final checkpoint of a short training."""
    run(tmp_path / "run", TinyOptions(max_iter=3))
    return tmp_path / "run/model_final.pth"


def test_weights_survive_bit_for_bit_and_nothing_else(checkpoint, tmp_path, capsys):
    target = tmp_path / "out/weights.safetensors"
    assert convert([str(checkpoint), str(target)]) == 0
    assert str(target) in capsys.readouterr().out

    model = TinyModel()
    assert load_weights(model, target, partial=False).complete
    trained = read_checkpoint(checkpoint)["model"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained[name])
    with safetensors.safe_open(target, "pt") as file:
        assert file.metadata()["iteration"] == "3"
        assert not any("num_batches_tracked" in name for name in file.keys())  # noqa: SIM118


def test_the_average_and_half_precision_are_taken_where_asked(checkpoint, tmp_path):
    target = tmp_path / "weights.safetensors"
    assert convert([str(checkpoint), str(target), "--use_ema", "--half"]) == 0
    weight = read_checkpoint(target)["model"]["first.weight"]
    average = read_checkpoint(checkpoint)["model_ema"]["first.weight"]
    assert torch.equal(weight, average.half())
    assert target.stat().st_size < checkpoint.stat().st_size / 4


def test_tied_weights_are_written(tmp_path):
    layer = nn.Linear(2, 2)
    torch.save({"model": {"a.weight": layer.weight, "b.weight": layer.weight}}, tmp_path / "w.pth")
    assert convert([str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")]) == 0
    assert len(read_checkpoint(tmp_path / "w.safetensors")["model"]) == 2


def test_a_weight_beyond_16_bits_is_refused(tmp_path, capsys):
    torch.save({"model": {"a.weight": torch.full((2, 2), 1e6)}}, tmp_path / "w.pth")
    assert convert([str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors"), "--half"]) == 1
    assert "1e+06 does not fit into 16 bits" in capsys.readouterr().err
    assert not (tmp_path / "w.safetensors").exists()


@pytest.mark.parametrize("contents", [b"", b"<html></html>"])
def test_what_is_no_checkpoint_is_an_error(tmp_path, contents, capsys):
    (tmp_path / "w.pth").write_bytes(contents)
    assert convert([str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")]) == 1
    assert "is not a checkpoint" in capsys.readouterr().err


def test_an_existing_file_is_replaced_only_on_request(checkpoint, tmp_path):
    target = tmp_path / "weights.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(SystemExit):
        convert([str(checkpoint), str(target)])
    assert target.read_bytes() == b"mine"
    assert convert([str(checkpoint), str(target), "--overwrite"]) == 0


def test_another_suffix_is_an_argument_error(checkpoint, tmp_path):
    with pytest.raises(SystemExit):
        convert([str(checkpoint), str(tmp_path / "weights.pth")])
