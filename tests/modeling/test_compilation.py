"""Compiling a detector: no graph breaks, the same numbers, the same checkpoints."""

import pytest
import torch
from torch import Tensor, nn

from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.layers._native import torch_version
from maskrcnn_benchmark.modeling import compilation
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.compilation import compile_for_evaluation, compile_parts
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from tests import fiber_tools
from tests.golden_tools import REPOSITORY, golden_config, without_randomness

# Older compilers do not look into named tuples, nor into lists that grow in a tuple.
whole_graphs = pytest.mark.skipif(
    torch_version() < (2, 10), reason="an older PyTorch breaks graphs at them"
)

BERT = str(REPOSITORY / "configs" / "raccoon" / "bert_small")
TINY = {
    "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE": BERT,
    "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE": BERT,
    "MODEL.LANGUAGE_BACKBONE.LANG_DIM": 128,
    "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING": True,
    "MODEL.SWINT.EMBED_DIM": 8,
    "MODEL.SWINT.DEPTHS": (1, 2, 1, 1),  # shifted windows in one stage
    "MODEL.SWINT.NUM_HEADS": (1, 1, 2, 2),
    "MODEL.SWINT.OUT_CHANNELS": (8, 16, 32, 64),
    "MODEL.BACKBONE.OUT_CHANNELS": 16,
    "MODEL.DYHEAD.CHANNELS": 16,
    "MODEL.DYHEAD.NUM_CONVS": 1,
    "MODEL.GROUP_NORM.NUM_GROUPS": 4,
    "MODEL.DYHEAD.FUSE_CONFIG.JOINT_EMB_SIZE": 16,
    "MODEL.ATSS.INFERENCE_TH": 0.0,
}
CAPTION = "a raccoon. a red dustbin"
POSITIVE_MAP = {1: [2, 3, 4], 2: [7, 8, 9]}


@pytest.fixture(autouse=True)
def forget_compiled_code():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def tiny_model() -> nn.Module:
    torch.manual_seed(0)
    return build_detection_model(golden_config("glip_Swin_T_O365_GoldG", TINY)).eval()


def images() -> ImageList:
    torch.manual_seed(1)
    return ImageList(torch.randn(2, 3, 64, 96), [(64, 96), (60, 80)])


@torch.no_grad()
def detections(model: nn.Module) -> list[BoxList]:
    return model(images(), captions=[CAPTION] * 2, positive_map=POSITIVE_MAP)


def losses(model: nn.Module) -> dict[str, Tensor]:
    target = BoxList(torch.tensor([[4.0, 4.0, 40.0, 50.0], [20.0, 10.0, 75.0, 55.0]]), (96, 64))
    target.add_field("labels", torch.tensor([1, 2]))
    positive_map = torch.zeros(4, 256)
    positive_map[::2, 2:5] = positive_map[1::2, 7:10] = 1
    return model(images(), [target] * 2, [CAPTION] * 2, positive_map)


def assert_same(found: list[BoxList], expected: list[BoxList]) -> None:
    assert all(len(boxes) for boxes in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.bbox, b.bbox, atol=1e-3, rtol=0)
        torch.testing.assert_close(a.get_field("scores"), b.get_field("scores"))


@whole_graphs
@pytest.mark.slow
def test_a_compiled_detector_has_no_graph_break_finds_the_same_and_keeps_its_names():
    model = tiny_model()
    names, expected = list(model.state_dict()), detections(model)

    compile_parts(model, backend="aot_eager", fullgraph=True)

    assert_same(detections(model), expected)
    assert list(model.state_dict()) == names


@whole_graphs
@pytest.mark.slow
def test_a_compiled_head_trains_without_a_graph_break_and_with_the_same_gradients():
    model = without_randomness(tiny_model().train())
    sum(losses(model).values()).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    compile_parts(model, ("head",), backend="aot_eager", fullgraph=True)
    model.zero_grad()
    sum(losses(model).values()).backward()

    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


def test_a_resnet_has_no_graph_break():
    config = default_config.clone()
    config.MODEL.BACKBONE.CONV_BODY = "R-50-FPN-RETINANET"
    config.MODEL.BACKBONE.OUT_CHANNELS = 16
    config.MODEL.RESNETS.update(STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=16, WIDTH_PER_GROUP=4)
    backbone = build_backbone(config).eval()
    pixels = images().tensors
    with torch.no_grad():
        expected = backbone(pixels)
        backbone.compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(backbone(pixels), expected)


@whole_graphs
@pytest.mark.slow
def test_a_detector_fused_in_the_backbone_has_no_graph_break():
    model = fiber_tools.build_tiny_model()
    captions = ["a small red square", "the blue circle"]

    @torch.no_grad()
    def detect() -> list[BoxList]:
        return model(images(), captions=captions, positive_map={1: [2, 3]})

    expected = detect()
    compile_parts(model, backend="eager", fullgraph=True)
    for a, b in zip(detect(), expected, strict=True):
        torch.testing.assert_close(a.bbox, b.bbox)


@pytest.mark.parametrize(
    ("mode", "of_encoders"), [("default", "default"), ("reduce-overhead", "default")]
)
def test_cuda_graphs_are_for_the_head_alone(monkeypatch, mode, of_encoders):
    modes = {}

    def note(model: nn.Module, parts: tuple[str, ...], mode: str) -> None:
        modes.update(dict.fromkeys(parts, mode))

    monkeypatch.setattr(compilation, "compile_parts", note)
    compile_for_evaluation(nn.Module(), mode)

    assert modes == {"backbone": of_encoders, "language_backbone": of_encoders, "head": mode}


def test_unknown_parts_and_modes_are_refused():
    model = nn.Module()
    with pytest.raises(ValueError, match="unknown part 'tail'"):
        compile_parts(model, ("tail",))
    with pytest.raises(ValueError, match=r"TEST\.COMPILE is 'fast', not one of"):
        compile_for_evaluation(model, "fast")
    compile_for_evaluation(model, "")
