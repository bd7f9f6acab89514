"""A text encoder does not run on random weights unnoticed."""

import pytest
import torch
from torch import Tensor

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.utils.model_serialization import load_weights_into
from tests.conftest import REPOSITORY

CAPTION = "red star. blue ring"


def make_model() -> GeneralizedVLRCNN:
    config = default_config()
    config.merge_from_file(str(REPOSITORY / "configs/shapes/glip_A.yaml"))
    torch.manual_seed(0)
    return build_detection_model(config)


def other_weights(keep: str = "") -> dict[str, Tensor]:
    weights = make_model().state_dict()
    return {name: value + 0.01 for name, value in weights.items() if name.startswith(keep)}


def test_training_a_text_encoder_on_random_weights_is_said_once(caplog):
    model = make_model()
    assert "UNTRAINED" not in caplog.text

    model.encode_text([CAPTION])
    model.encode_text([CAPTION])

    assert caplog.text.count("UNTRAINED") == 1
    assert "holds no weights" in caplog.text


def test_a_checkpoint_of_the_image_side_leaves_the_text_encoder_untrained(caplog):
    model = make_model().eval()
    load_weights_into(model, other_weights(keep="backbone.body."))

    model.encode_text([CAPTION])

    assert "UNTRAINED" in caplog.text


@pytest.mark.parametrize("training", [True, False])
def test_weights_that_come_after_building_are_enough(caplog, training):
    model = make_model().train(training)
    load_weights_into(model, other_weights())

    model.encode_text([CAPTION])

    assert "UNTRAINED" not in caplog.text


def test_weights_are_told_from_random_ones_in_half_precision_too(caplog):
    model = make_model().half()

    model.encode_text([CAPTION])

    assert "UNTRAINED" in caplog.text
