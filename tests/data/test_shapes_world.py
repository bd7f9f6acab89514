"""The shapes world: what is promised of its scenes, pictures and annotations."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.shapes import (
    COLOURS,
    SHAPES,
    SplitPlan,
    all_kinds,
    read_with_one_attribute,
    write_split,
)
from maskrcnn_benchmark.data.shapes.attributes import PLURALS, SIZES
from maskrcnn_benchmark.data.shapes.captions import caption_of_scene, relational_scene
from maskrcnn_benchmark.data.shapes.render import draw_scene
from maskrcnn_benchmark.data.shapes.scene import PlacedObject, random_scene, stands
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.language_backbone import build_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_shape_and_every_colour_has_two_held_out_partners():
    held_out = {(kind.shape, kind.colour) for kind in all_kinds(held_out=True)}
    for shape in SHAPES:
        assert sum(pair[0] == shape for pair in held_out) == 2
    for colour in COLOURS:
        assert sum(pair[1] == colour for pair in held_out) == 2


def test_training_and_unseen_kinds_share_no_combination_and_no_name():
    seen, unseen = all_kinds(held_out=False), all_kinds(held_out=True)
    assert not {k.name for k in seen} & {k.name for k in unseen}
    assert len(seen) == 144
    assert len(unseen) == 48


@pytest.mark.parametrize("seed", range(20))
def test_boxes_are_tight_and_objects_do_not_overlap(seed):
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, all_kinds(held_out=False), 6)
    picture, boxes = draw_scene(rng, scene)
    covered = np.zeros((picture.height, picture.width), dtype=int)
    for item, (x, y, width, height) in zip(scene, boxes, strict=True):
        assert item.left <= x
        assert x + width <= item.left + item.side
        assert 0.5 * item.side < max(width, height) <= item.side
        covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1


@pytest.mark.parametrize("seed", range(60))
def test_phrases_cover_the_text_that_names_their_objects(seed):
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, all_kinds(held_out=False), 6)
    caption = caption_of_scene(rng, scene)
    for (begin, end), members in caption.phrases:
        words = caption.text[begin:end].split()
        for member in members:
            kind = scene[member].kind
            assert words[-1].startswith(kind.shape)
            assert set(words).isdisjoint(set(COLOURS) - {kind.colour})
    named = [m for _, members in caption.phrases for m in members]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("seed", range(60))
def test_a_relation_has_one_answer_and_a_twin_that_only_the_relation_excludes(seed):
    rng = np.random.default_rng(seed)
    found = None
    while found is None:  # a draw may find no room
        found = relational_scene(rng, all_kinds(held_out=False), 3)
    (_, [target]), (_, [anchor]) = found.caption.phrases
    assert target == found.target
    relation = next(r for r in ("left of", "right of", "above", "below") if r in found.caption.text)
    twins = [
        item
        for item in found.scene
        if item.kind == found.scene[target].kind and item.size == found.scene[target].size
    ]
    assert len(twins) >= 2
    assert [item for item in twins if stands(item, relation, found.scene[anchor])] == [
        found.scene[target]
    ]


def test_a_split_is_the_same_whatever_the_number_of_workers(tmp_path):
    plan = SplitPlan("train", 9, held_out=False, format="grounding", seed=3)
    alone = write_split(plan, tmp_path / "a", num_workers=1)
    together = write_split(plan, tmp_path / "b", num_workers=2)
    assert alone.read_bytes() == together.read_bytes()
    for picture in (tmp_path / "a" / "train").iterdir():
        assert picture.read_bytes() == (tmp_path / "b" / "train" / picture.name).read_bytes()


def test_detection_annotations_are_valid_coco(tmp_path):
    path = write_split(SplitPlan("seen", 4, held_out=False, format="detection"), tmp_path, 1)
    content = json.loads(path.read_text())
    ids = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    assert {a["image_id"] for a in content["annotations"]} <= ids
    assert {a["category_id"] for a in content["annotations"]} <= categories
    for image in content["images"]:
        with Image.open(tmp_path / "seen" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])


def test_an_expression_means_exactly_one_object(tmp_path):
    path = write_split(SplitPlan("refs", 4, held_out=True, format="expression"), tmp_path, 1)
    content = json.loads(path.read_text())
    assert [a["image_id"] for a in content["annotations"]] == [i["id"] for i in content["images"]]
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        assert annotation["tokens_positive"] == [[0, len(image["caption"])]]
        assert image["caption"].startswith("the ")


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"format 'video' of split 'x'"):
        SplitPlan("x", 4, held_out=False, format="video")


def test_a_reader_of_one_attribute_names_every_class_that_agrees():
    categories = [
        {"id": 1, "attributes": {"shape": "star", "colour": "red"}},
        {"id": 2, "attributes": {"shape": "star", "colour": "blue"}},
        {"id": 3, "attributes": {"shape": "ring", "colour": "red"}},
    ]
    ground_truth = {
        "categories": categories,
        "annotations": [{"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]}],
    }
    results = read_with_one_attribute(ground_truth, "shape")
    assert [r["category_id"] for r in results] == [1, 2]


def test_touching_is_measured_between_squares():
    kind = all_kinds(held_out=False)[0]
    first = PlacedObject(kind, "small", 10, 10, 20, 0.0)
    right = PlacedObject(kind, "small", 60, 10, 20, 0.0)
    assert stands(first, "left of", right)
    assert stands(right, "right of", first)
    assert not stands(first, "above", right)


VARIANTS = ("A", "B", "C")


def configuration(variant, *overrides):
    config = cfg.clone()
    config.merge_from_file(REPOSITORY / f"configs/shapes/glip_{variant}.yaml")
    encoder = str(REPOSITORY / "configs/shapes/text_encoder")
    config.merge_from_list(
        [
            "MODEL.LANGUAGE_BACKBONE.MODEL_TYPE",
            encoder,
            "MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE",
            encoder,
            *overrides,
        ]
    )
    return config


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_models_of_the_world_have_five_to_twelve_million_parameters(variant):
    model = build_detection_model(configuration(variant))
    size = sum(p.numel() for p in model.parameters())
    assert (3e6 if variant == "A" else 5e6) < size < 12e6


def test_the_variants_differ_in_fusion_and_in_their_training_sets_alone():
    def flat(node, prefix=""):
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, dict):
                yield from flat(value, f"{name}.")
            else:
                yield name, value

    a, b, c = (dict(flat(configuration(variant))) for variant in VARIANTS)
    fusion = "MODEL.DYHEAD.FUSE_CONFIG."
    assert all(key.startswith(fusion) for key in a if a[key] != b[key])
    assert [key for key in b if b[key] != c[key]] == ["DATASETS.TRAIN"]


def test_every_word_of_the_world_is_one_token():
    tokenizer = build_tokenizer(configuration("C"))
    kinds = all_kinds(held_out=True) + all_kinds(held_out=False)
    words = {word for kind in kinds for word in kind.name.split()}
    words |= set(PLURALS.values()) | set(SIZES)
    words |= {"a", "an", "and", "two", "three", "four", "left", "right", "of", "above", "below"}
    for word in sorted(words):
        assert len(tokenizer.tokenize(word)) == 1, word
        assert tokenizer.unk_token not in tokenizer.tokenize(word)


def test_a_written_world_is_served_as_captions_with_tied_words(tmp_path, monkeypatch):
    folder = tmp_path / "shapes"
    write_split(SplitPlan("detection_train", 8, False, "detection"), folder, 1)
    write_split(SplitPlan("grounding_train", 8, False, "grounding"), folder, 1)
    monkeypatch.setenv("DATASET", str(tmp_path))
    config = configuration("C", "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 2)
    tokenizer = build_tokenizer(config)

    loader = make_data_loader(config, is_train=True, tokenizer=tokenizer)
    batch = next(iter(loader))

    assert batch.images.tensors.shape == (8, 3, 192, 192)
    assert len(batch.positive_map) == sum(len(target) for target in batch.targets)
    assert (batch.positive_map.sum(1) > 0).all()
