"""One token for each caption."""

import pytest
import torch

from maskrcnn_benchmark.config import default_config
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.language_backbone.caption_tokens import captions_as_tokens
from tests.conftest import REPOSITORY

CAPTIONS = ["red star: it has five points and is red", "ring", "blue ring: round", "ring", ""]


@pytest.fixture(scope="module")
def model():
    config = default_config()
    config.merge_from_file(str(REPOSITORY / "configs/shapes/glip_A.yaml"))
    config.MODEL.LANGUAGE_BACKBONE.N_LAYERS = 2  # so that both features differ
    torch.manual_seed(0)
    return build_detection_model(config).eval()


def pooled_alone(model, caption: str, pooling: str) -> tuple[torch.Tensor, torch.Tensor]:
    text = model.encode_text([caption])
    real = text.masks[0].bool()
    vectors = [features[0][real] for features in (text.hidden, text.embedded)]
    return tuple(x[0] if pooling == "first" else x.mean(dim=0) for x in vectors)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("captions_at_once", [1, 2, 32])
@torch.no_grad()
def test_token_i_is_caption_i_encoded_alone(model, pooling, captions_at_once):
    text = captions_as_tokens(model.encode_text, CAPTIONS, pooling, captions_at_once)

    assert (
        text.hidden.shape
        == text.embedded.shape
        == (1, 6, model.language_backbone.body.language_dim)
    )
    for place, caption in enumerate([*CAPTIONS, ""]):
        hidden, embedded = pooled_alone(model, caption, pooling)
        assert not torch.allclose(hidden, embedded, atol=1e-3)
        torch.testing.assert_close(text.hidden[0, place], hidden, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(text.embedded[0, place], embedded, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_no_object_is_masked(model):
    text = captions_as_tokens(model.encode_text, CAPTIONS, "first")

    assert text.masks.tolist() == [[1, 1, 1, 1, 1, 0]]
    assert text.masks.dtype == torch.int64
    torch.testing.assert_close(text.aggregate, text.embedded[:, :5].mean(1))


def test_no_more_captions_are_encoded_together_than_allowed(model):
    sizes = []

    def encode(captions):
        sizes.append(len(captions))
        return model.encode_text(captions)

    with torch.no_grad():
        captions_as_tokens(encode, [f"thing {number}" for number in range(6)], "mean", 3)

    assert sizes == [3, 3, 1]


def test_another_pooling_is_refused_with_the_choices(model):
    with pytest.raises(ConfigError, match="LAN_FEATURE_AGG_TYPE is 'max', not one of first, mean"):
        captions_as_tokens(model.encode_text, CAPTIONS, "max")
