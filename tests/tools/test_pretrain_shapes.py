"""Command line of the shapes world's first stage."""

from safetensors.torch import load_file

from tests.engine.small_world import REPOSITORY
from tools.pretrain_shapes import main

CONFIG = str(REPOSITORY / "configs/shapes/glip_B.yaml")


def arguments(folder, *more):
    encoder = str(REPOSITORY / "configs/shapes/text_encoder")
    return [
        *("--config-file", CONFIG, "--batch-size", "12", "--pool", "24", "--ask", "12", *more),
        *("MODEL.WEIGHT", "", "OUTPUT_DIR", str(folder)),
        *("MODEL.LANGUAGE_BACKBONE.MODEL_TYPE", encoder),
        *("MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE", encoder),
    ]


def test_the_stage_leaves_encoders_without_a_tower_and_may_be_started_again(tmp_path, capsys):
    assert main(arguments(tmp_path, "--iterations", "2")) == 0
    weights = load_file(tmp_path / "encoders.safetensors")
    assert any(name.startswith("language_backbone.") for name in weights)
    assert not any("tower" in name for name in weights)
    assert main(arguments(tmp_path, "--iterations", "2")) == 0
    again = load_file(tmp_path / "encoders.safetensors")
    assert all((again[name] == value).all() for name, value in weights.items())
    assert "encoders.safetensors" in capsys.readouterr().out


def test_a_batch_that_does_not_divide_into_groups_is_a_mistaken_setting(tmp_path, capsys):
    assert main(arguments(tmp_path, "--iterations", "1", "--batch-size", "10")) == 2
    assert "multiple of 12" in capsys.readouterr().err
