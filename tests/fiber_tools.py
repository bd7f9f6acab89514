"""FIBER models for tests: the published ones with golden weights, and a tiny one.

The recipes lie beside the golden numbers (``tests/golden/fiber``). Recorded cases bring their token
ids, so none of this needs RoBERTa's tokenizer.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.layers.drop_block import DropBlock2D
from maskrcnn_benchmark.modeling.detector import FusedVLRCNN, build_detection_model
from maskrcnn_benchmark.modeling.language_backbone.roberta import ROBERTA
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

REPOSITORY = Path(__file__).resolve().parent.parent
FIBER = REPOSITORY / "tests" / "golden" / "fiber"
CONFIGS = (
    "pretrain/mixed_nococo_flickr_objects365",
    "pretrain/mixed_nococo_flickr_objects365_refexpclean",
    "e2e_dyhead_SwinT_B_FPN_coco_finetuning_fusion_backbone",
    "e2e_dyhead_SwinT_B_FPN_lvis_finetuning_fusion_backbone",
    "refcoco",
    "refcocoplus",
    "refcocog",
)
WORDS = "a the small large red green blue square circle ring left of right to above below . and in"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_fiber_{name}", FIBER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_fixtures = _load("fixture_io")
fill_state_dict = _load("named_weights_fiber").fill_state_dict
match_detections = _fixtures.match_detections


class GoldenCase(_fixtures.Fixture):
    """One recorded case of ``tests/golden/fiber``."""

    def __init__(self, name: str) -> None:
        super().__init__(FIBER / f"{name}.npz")
        self.name = name

    def tensor(self, key: str) -> Tensor:
        """An array that was recorded whole; integers become int64."""
        array = torch.from_numpy(np.ascontiguousarray(self[key]))
        return array if array.is_floating_point() else array.long()

    def images(self) -> ImageList:
        """Both images, normalised, in one padded batch."""
        return to_image_list([torch.from_numpy(self.image(index)) for index in (0, 1)], 32)

    def tokens(self) -> dict[str, Tensor]:
        return {name: self.tensor(f"input/{name}") for name in ("input_ids", "attention_mask")}

    def targets(self) -> list[BoxList]:
        """Ground truth of both images."""
        targets = []
        for index, (height, width) in enumerate(self.images().image_sizes):
            boxes = BoxList(self.tensor(f"input/boxes{index}_xyxy"), (width, height), mode="xyxy")
            boxes.add_field("labels", self.tensor(f"input/labels{index}"))
            targets.append(boxes)
        return targets

    def assert_close(self, name: str, actual: Tensor) -> None:
        """Fail, naming the tensor, when it is not the recorded one."""
        report = self.compare(name, actual)
        assert report["ok"], f"{self.name} {name}: {report}"


def fiber_config(name: str, overrides: dict[str, Any] | None = None) -> Any:
    """Published configuration ``configs/<name>.yaml`` on the CPU.

    Without asking a hub for RoBERTa's weights, which golden ones replace, or for its tokenizer,
    which a stand-in replaces.
    """
    config = default_config.clone()
    config.merge_from_file(str(REPOSITORY / "configs" / f"{name}.yaml"))
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": _untrained_roberta(),
        "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE": word_tokenizer_folder(),
        **(overrides or {}),
    }
    for key, value in settings.items():
        config.merge_from_list([key, value])
    return config


def build_golden_model(name: str, overrides: dict[str, Any] | None = None) -> FusedVLRCNN:
    """Detector of a published configuration with the golden weights."""
    model = build_detection_model(fiber_config(name, overrides))
    fill_state_dict(model)
    return model


def tiny_settings() -> dict[str, Any]:
    """What makes a published fused detector small enough to run in a blink."""
    return {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHT": "",
        "MODEL.BACKBONE.OUT_CHANNELS": 32,
        "MODEL.BACKBONE.USE_CHECKPOINT": False,
        "MODEL.SWINT.EMBED_DIM": 8,
        "MODEL.SWINT.DEPTHS": (1, 2, 3, 2),
        "MODEL.SWINT.NUM_HEADS": (1, 2, 2, 4),
        "MODEL.SWINT.WINDOW_SIZE": 4,
        "MODEL.SWINT.OUT_CHANNELS": (8, 16, 32, 64),
        "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": tiny_roberta_folder(),
        "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE": word_tokenizer_folder(),
        "MODEL.LANGUAGE_BACKBONE.LANG_DIM": 24,
        "MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN": 32,
        "MODEL.DYHEAD.CHANNELS": 32,
        "MODEL.DYHEAD.NUM_CONVS": 1,
        "MODEL.DYHEAD.USE_CHECKPOINT": False,
    }


def tiny_config(overrides: dict[str, Any] | None = None) -> Any:
    """``configs/refcoco.yaml`` with ``tiny_settings``."""
    config = default_config.clone()
    config.merge_from_file(str(REPOSITORY / "configs" / "refcoco.yaml"))
    for key, value in {**tiny_settings(), **(overrides or {})}.items():
        config.merge_from_list([key, value])
    return config


def build_tiny_model(overrides: dict[str, Any] | None = None, open_gates: bool = True) -> Any:
    """Detector of ``tiny_config`` with fixed weights, in evaluation mode.

    Args:
        overrides: settings by dotted key.
        open_gates: let image and text read each other; new models start with closed gates.
    """
    torch.manual_seed(0)
    model = build_detection_model(tiny_config(overrides))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "alpha_" in name:
                parameter.fill_(0.7 if open_gates else 0.0)
            elif name.endswith("relative_position_bias_table"):
                parameter.normal_()
    return model.eval()


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch off everything that is random in training."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropBlock2D) or type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
        elif hasattr(module, "dropout_prob"):  # attention of transformers before version 5
            module.dropout_prob = 0.0
    return model


@lru_cache
def word_tokenizer_folder() -> str:
    """Folder with a tokenizer of RoBERTa's special tokens and a few whole words."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*special, *dict.fromkeys(WORDS.split())]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
    )
    folder = _temporary_folder("words-")
    fast.save_pretrained(folder)
    return folder


@lru_cache
def _untrained_roberta() -> str:
    """Folder that describes RoBERTa-base and holds no weights."""
    folder = _temporary_folder("roberta-base-")
    (Path(folder) / "config.json").write_text(json.dumps(dict(ROBERTA.known["roberta-base"])))
    return folder


@lru_cache
def tiny_roberta_folder() -> str:
    """Folder that describes a RoBERTa of four small layers and holds no weights."""
    folder = _temporary_folder("roberta-")
    config = {
        "model_type": "roberta",
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 40,
        "max_position_embeddings": 40,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    }
    (Path(folder) / "config.json").write_text(json.dumps(config))
    return folder


def _temporary_folder(prefix: str) -> str:
    folder = tempfile.mkdtemp(prefix=prefix)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
