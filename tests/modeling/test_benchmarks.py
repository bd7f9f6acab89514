"""What the benchmarks rest on: the plain way, counted operations, compared detections."""

import math

import pytest
import torch

from benchmarks.detector import caption_of_length, difference, make_selective, plain_way
from benchmarks.measuring import Comparison, measure_in_turn
from benchmarks.roofline import Counter
from benchmarks.run_all import table
from benchmarks.stages import (
    ELSEWHERE,
    FUSION,
    VISION_LAYERS,
    Traffic,
    measured_stages,
)
from maskrcnn_benchmark.engine.complexity import operation_counter
from maskrcnn_benchmark.layers import _native, modulated_deform_conv
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.fusion import BiAttentionFuse, folded_bi_attention
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.golden_tools import golden_config
from tests.modeling.test_compilation import TINY, images


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_detection_model(golden_config("glip_Swin_T_O365_GoldG", TINY)).eval()


def boxes(rows: list[list[float]], scores: list[float], labels: list[int]) -> BoxList:
    found = BoxList(torch.tensor(rows).view(-1, 4), (100, 100))
    found.add_field("scores", torch.tensor(scores))
    found.add_field("labels", torch.tensor(labels))
    return found


@torch.no_grad()
def test_the_plain_way_finds_the_same_and_is_left_behind(model):
    def implementations() -> set[str]:
        fusions = (m for m in model.modules() if isinstance(m, BiAttentionFuse))
        return {fusion.b_attn.attn.implementation for fusion in fusions}

    caption = "a raccoon. a red dustbin"
    make_selective(model, caption)
    arguments = {"captions": [caption] * 2, "positive_map": {1: [2, 3, 4], 2: [7, 8]}}
    ours = model(images(), **arguments)
    with plain_way(model):
        assert implementations() == {"plain"}
        assert model.encode_text([caption]).masks.shape[1] == 256
        assert not _native.usable(torch.zeros(1))
        plain = model(images(), **arguments)

    apart = difference(ours, plain)
    assert sum(map(len, plain)) > 0
    assert apart.unmatched == 0
    assert apart.scores < 1e-4
    assert apart.pixels < 1e-2
    assert implementations() == {"folded"}
    assert model.encode_text([caption]).masks.shape[1] < 256


@pytest.mark.parametrize("tokens", [15, 16])
def test_captions_have_the_length_asked_for(model, tokens):
    caption, positive_map = caption_of_length(model, tokens)
    ids = model.tokenizer(caption)["input_ids"]
    assert len(ids) == tokens
    words = model.tokenizer.convert_ids_to_tokens(
        [ids[places[0]] for places in positive_map.values()]
    )
    assert "." not in words


def test_differences_of_detections_are_those_of_the_nearest_of_the_same_label():
    expected = [
        boxes([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.9, 0.5], [1, 2, 1])
    ]
    found = [boxes([[50, 50, 60, 60.5], [0, 0, 10, 10]], [0.5002, 0.9], [1, 2])]

    apart = difference(found, expected)

    assert apart.unmatched == 1
    assert apart.scores == pytest.approx(2e-4, rel=1e-3)
    assert apart.pixels == pytest.approx(0.5)


def test_operations_of_our_operators_are_counted():
    visual, keys = torch.randn(2, 30, 8), torch.randn(2, 4, 5, 8)
    bias, mask = torch.zeros(2, 4, 5), torch.zeros(2, 5)
    source, weight = torch.randn(1, 4, 6, 7), torch.randn(3, 4, 3, 3)
    offset, scale = torch.zeros(1, 18, 6, 7), torch.ones(1, 9, 6, 7)
    with operation_counter() as counter:
        folded_bi_attention(visual, keys, bias, keys, mask)
    assert counter.get_total_flops() == 3 * 2 * 2 * 30 * (4 * 5) * 8
    with operation_counter() as counter:
        modulated_deform_conv(source, offset, scale, weight, None, 1, 1)
    assert counter.get_total_flops() == 2 * (6 * 7) * 3 * 4 * 9


@torch.no_grad()
def test_stages_add_up_to_the_whole(model):
    traffic = Traffic()
    with operation_counter() as counter, traffic:
        meters = {"operations": counter.get_total_flops, "bytes": lambda: traffic.bytes}
        with measured_stages(model, meters) as stages:
            model(images(), captions=["a dog"] * 2, positive_map={1: [2]})
    operations = {name: sums["operations"] for name, sums in stages.items()}
    assert sum(operations.values()) == counter.get_total_flops()
    assert min(operations[FUSION], operations[VISION_LAYERS]) > 0
    assert operations[ELSEWHERE] < 0.2 * counter.get_total_flops()
    assert all(sums["bytes"] > 0 for sums in stages.values())


@torch.no_grad()
def test_counting_without_computing_counts_the_same(model):
    caption, positive_map = caption_of_length(model, 16)
    pixels = images().tensors[:1]
    with operation_counter() as counter:
        model(pixels, captions=[caption], positive_map=positive_map)

    counted = Counter(model).count(tuple(pixels.shape[-2:]), 16)

    in_stages = sum(sums["operations"] for sums in counted.values())
    assert in_stages == pytest.approx(counter.get_total_flops(), rel=0.01)
    whole = Counter(model).operations((64, 96), 16, chunks=3)
    assert whole < 3 * in_stages


def test_peak_memory_is_what_a_call_holds_beyond_the_start():
    cost = measure_in_turn({"it": lambda: torch.ones(8 << 20)}, rounds=1)["it"]
    assert math.isnan(cost.megabytes) or 30 < cost.megabytes < 60


def test_the_table_has_a_line_per_comparison():
    lines = table([Comparison("nms", "torchvision", 30.0, 10.0, "ms")]).splitlines()
    assert lines[-1] == "| nms | torchvision | 30.00 ms | 10.00 ms | 3.0x |"
    assert len(lines) == 3
