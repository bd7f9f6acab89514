"""The demo's Python API, on a small untrained model whose every box counts."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.config import cfg as defaults
from maskrcnn_benchmark.engine.predictor_glip import GLIPDemo
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def small_config(tmp_path_factory):
    config = defaults.clone()
    config.merge_from_file(str(REPOSITORY / "configs/shapes/glip_B.yaml"))
    config.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.ATSS.INFERENCE_TH", 0.0])
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({"model": build_detection_model(config).state_dict()}, weights)
    config.MODEL.WEIGHT = str(weights)
    return config


@pytest.fixture(scope="module")
def predictor(small_config):
    return GLIPDemo(small_config, min_image_size=96)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)


def test_boxes_come_in_pixels_of_the_picture_best_first(predictor, picture):
    boxes = predictor.compute_prediction(picture, "a red star and a blue ring")
    scores = boxes.get_field("scores")
    assert boxes.size == (130, 90)
    assert len(boxes) > 0
    assert torch.equal(scores, scores.sort(descending=True).values)
    assert (boxes.bbox >= 0).all()
    assert (boxes.bbox[:, 2] <= 129).all()
    assert (boxes.bbox[:, 3] <= 89).all()


@pytest.mark.parametrize(
    ("caption", "custom", "names"),
    [
        ("a red star and a blue ring", None, ["a red star", "a blue ring"]),
        (["star", "hot_ring (toy)"], None, ["star", "hot_ring (toy)"]),
        ("a red star", [{"span": "star"}, {"char_bounds": [2, 5]}], ["star", "red"]),
        ("dog and hot dog", None, ["dog", "hot dog"]),
    ],
)
def test_entities_and_labels_count_alike_for_every_form_of_caption(
    predictor, picture, caption, custom, names
):
    boxes = predictor.compute_prediction(picture, caption, custom)
    assert predictor.entities == names
    assert set(boxes.get_field("labels").tolist()) <= set(range(1, len(names) + 1))


def test_names_beyond_the_text_encoder_are_split_and_all_asked_for(predictor, picture):
    names = [f"object number {n}" for n in range(120)]
    boxes = predictor.compute_prediction(picture, names)
    assert int(boxes.get_field("labels").max()) > 80


@pytest.mark.parametrize(("height", "width"), [(1, 2000), (2000, 1), (3, 100)])
def test_a_long_strip_is_looked_at_in_bounded_size(predictor, height, width, monkeypatch, caplog):
    seen = _seen_sizes(predictor, monkeypatch)

    boxes = predictor.compute_prediction(np.zeros((height, width, 3), np.uint8), ["star"])

    assert boxes.size == (width, height)
    assert max(seen[0]) <= 8 * 96 + 40
    assert "a long strip" in caplog.text


@pytest.mark.parametrize(("height", "width"), [(50, 400), (400, 50), (90, 130)])
def test_other_pictures_get_the_shorter_side_asked_for(
    predictor, height, width, monkeypatch, caplog
):
    seen = _seen_sizes(predictor, monkeypatch)

    predictor.compute_prediction(np.zeros((height, width, 3), np.uint8), ["star"])

    assert seen == [(96 * height // min(height, width), 96 * width // min(height, width))]
    assert not caplog.text


def _seen_sizes(predictor: GLIPDemo, monkeypatch) -> list[tuple[int, int]]:
    """Filled with (height, width) of the pictures that the model gets."""
    seen: list[tuple[int, int]] = []
    encode = predictor.model.encode_images

    def noting(images):
        seen.append(tuple(images.image_sizes[0]))
        return encode(images)

    monkeypatch.setattr(predictor.model, "encode_images", noting)
    return seen


@pytest.mark.parametrize("size", [0, -1])
def test_a_shorter_side_that_no_picture_has_is_refused(small_config, size):
    config = small_config.clone()
    config.INPUT.MIN_SIZE_TEST = size
    with pytest.raises(ConfigError, match=rf"side of {size} pixels"):
        GLIPDemo(config, load_model=False)
    with pytest.raises(ConfigError, match=rf"side of {size} pixels"):
        GLIPDemo(small_config, min_image_size=size, load_model=False)


def test_the_first_call_draws_and_keeps_the_size(predictor, picture):
    drawn, boxes = predictor.run_on_web_image(picture, "a red star", thresh=0.0)
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.uint8
    assert not np.array_equal(drawn, picture)
    assert len(boxes) > 0


def test_a_threshold_per_entity_wins_over_the_argument(small_config, predictor, picture):
    found = predictor.compute_prediction(picture, ["star", "ring"])
    strict = GLIPDemo(small_config, confidence_threshold=[1.0, 0.0], load_model=False)
    strict.entities = ["star", "ring"]
    _, shown = strict.visualize_with_predictions(picture, found, thresh=0.99)
    assert set(shown.get_field("labels").tolist()) == {2}


def test_noun_phrases_are_named_with_their_characters(predictor):
    spans = predictor.run_ner("a small dog near the old tree")
    assert predictor.entities == ["a small dog", "the old tree"]
    assert spans == [(0, 11), (17, 29)]


@pytest.mark.parametrize("caption", ["", "   ", []])
def test_an_empty_caption_is_refused(predictor, picture, caption):
    with pytest.raises(ValueError, match=r"empty|at least one name"):
        predictor.compute_prediction(picture, caption)


def test_a_sentence_too_long_for_the_text_encoder_is_refused(predictor, picture):
    with pytest.raises(ValueError, match="tokens"):
        predictor.compute_prediction(picture, "a red star and " * 100 + "a ring")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
        "picture.jpg",
    ],
)
def test_what_is_no_picture_is_refused(predictor, image):
    with pytest.raises(ValueError, match="picture"):
        predictor.compute_prediction(image, "a red star")


def test_a_checkpoint_of_another_model_is_refused(small_config, tmp_path):
    other = tmp_path / "other.pth"
    torch.save(
        {"model": {"backbone.body.patch_embed.proj.weight": torch.zeros(96, 3, 4, 4)}}, other
    )
    config = small_config.clone()
    config.MODEL.WEIGHT = str(other)
    with pytest.raises(CheckpointError, match="another model"):
        GLIPDemo(config)
