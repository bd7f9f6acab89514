"""Encoders that learn the features of another model's."""

from itertools import islice

import pytest
import torch
from safetensors.torch import load_file

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.shapes import SplitPlan, write_split
from maskrcnn_benchmark.engine import encoder_imitation
from maskrcnn_benchmark.engine.encoder_imitation import (
    EncoderImitation,
    ImitationPlan,
    image_distance,
    text_distance,
)
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder, load_weights
from maskrcnn_benchmark.utils.random_state import seed_all
from tests.conftest import REPOSITORY
from tools.imitate_encoders import main

CONFIGS = REPOSITORY / "configs/shapes"
WORDS = ("image", "text")  # in the lines of the log
TEACHER = str(REPOSITORY / "MODEL/shapes/encoders.safetensors")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_split(SplitPlan("detection_train", 8, False, "detection"), folder / "shapes", 1)
    return folder


@pytest.fixture
def arguments(world, monkeypatch):
    """Command line of the tool for four pictures a step."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("DATASET", str(world))

    def make(folder, *more, settings=()):
        return [
            *("--config-file", str(CONFIGS / "fiber.yaml")),
            *("--teacher-config", str(CONFIGS / "glip_A.yaml"), "--teacher", TEACHER, *more),
            *(
                "OUTPUT_DIR",
                str(folder),
                "SOLVER.IMS_PER_BATCH",
                "4",
                "DATALOADER.NUM_WORKERS",
                "0",
            ),
            *("DATASETS.TRAIN", '("detection_train_grounding",)', *settings),
        ]

    return make


def test_distances_are_zero_for_equal_features_and_one_for_the_mean_of_the_teacher():
    maps = [torch.randn(2, 4, 6, 6), torch.randn(2, 4, 3, 3)]
    assert image_distance(maps, maps).item() == 0
    means = [m.mean().expand_as(m) for m in maps]
    assert image_distance(means, maps).item() == pytest.approx(1, abs=0.02)
    words, masks = torch.randn(1, 3, 8), torch.tensor([[1, 1, 0]])
    other = words.clone()
    other[:, 2] = 7  # padding does not count, nor does the length of a vector
    assert text_distance(5 * other, words, masks).item() == pytest.approx(0, abs=1e-6)
    assert text_distance(-words, words, masks).item() == pytest.approx(4)


def test_new_encoders_come_nearer_to_those_of_the_teacher(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_imitation, "LOG_PERIOD", 8)
    assert main(arguments(tmp_path, "--iterations", "16")) == 0
    lines = [x for x in (tmp_path / "log.txt").read_text().splitlines() if " iteration " in x]
    image, text = (
        [float(line.split(f" {word} ")[1].split()[0]) for line in lines] for word in WORDS
    )
    assert image[1] < image[0]
    assert text[1] < 0.5 * text[0]
    names = load_file(tmp_path / "encoders.safetensors").keys()
    assert any(name.startswith("fusion_backbone.backbone") for name in names)
    assert not any("dyhead_tower" in name for name in names)


def test_an_interrupted_stage_ends_with_the_weights_of_an_undisturbed_one(arguments, tmp_path):
    config = default_config()
    command = arguments(tmp_path)
    config.merge_from_file(str(CONFIGS / "fiber.yaml"))
    config.merge_from_list(command[command.index("OUTPUT_DIR") :])
    config.merge_from_list(["SOLVER.MAX_EPOCH", 0, "SOLVER.MAX_ITER", 4])

    def run(name: str, steps: int):
        seed_all(0)
        student, teacher_config = build_detection_model(config), default_config()
        teacher_config.merge_from_file(str(CONFIGS / "glip_A.yaml"))
        teacher = build_detection_model(teacher_config)
        load_weights(teacher, TEACHER)
        stage = EncoderImitation(student, teacher, ImitationPlan(iterations=4, save_every=2))
        folder = CheckpointFolder(tmp_path / name)
        stage.resume(folder)
        loader = make_data_loader(config, start_iter=stage.iteration, tokenizer=student.tokenizer)
        stage.run(islice(loader, steps), folder)
        return student.state_dict()

    whole = run("whole", 4)
    run("parts", 3)  # stopped one step after its checkpoint
    again = run("parts", 4)
    different = [name for name, value in whole.items() if not torch.equal(value, again[name])]
    assert not different


def test_a_teacher_of_another_width_is_a_mistaken_setting(arguments, tmp_path, capsys):
    command = arguments(
        tmp_path, "--iterations", "1", settings=("MODEL.BACKBONE.OUT_CHANNELS", "48")
    )
    command += ["MODEL.DYHEAD.CHANNELS", "48"]
    assert main(command) == 2
    assert "pyramid maps" in capsys.readouterr().err
