"""Each dataset gets the evaluator it needs, fed with what the dataset knows."""

import json

import pytest
from PIL import Image

from maskrcnn_benchmark.config import cfg
from maskrcnn_benchmark.data.datasets import (
    COCODataset,
    CopiedDataset,
    FlickrDataset,
    LvisDetection,
    ODTSVDataset,
    RefExpDataset,
)
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.evaluation import (
    CocoEvaluator,
    EvaluationError,
    FlickrEvaluator,
    LvisEvaluator,
    ProposalEvaluator,
    RefExpEvaluator,
    VocEvaluator,
    build_evaluator,
    evaluate,
)
from maskrcnn_benchmark.evaluation.flickr_entities import sentences_of_annotations
from maskrcnn_benchmark.evaluation.ground_truth import AnnotationError
from tests.evaluation.box_sets import annotations, prediction

BOX = [10.0, 20.0, 40.0, 50.0]
CORNERS = [10.0, 20.0, 49.0, 69.0]


@pytest.fixture
def ann_file(tmp_path):
    """Two images with a box each; ids of classes start at 3."""
    data = annotations(
        {8: [(3, BOX)], 5: [(7, BOX)]}, neg_category_ids=[9], not_exhaustive_category_ids=[]
    )
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(data))
    return path


def write_grounding_file(path, **fields):
    """One caption on one image, in MDETR's form."""
    image = {"id": 30, "width": "200", "height": "160", "file_name": "a.jpg", "caption": "a dog"}
    box = {"id": 1, "image_id": 30, "category_id": 1, "bbox": BOX, "area": 2000, "iscrowd": 0}
    content = {
        "images": [image | fields],
        "annotations": [box | {"tokens_positive": [[2, 5]]}],
        "categories": [{"id": 1, "name": "object"}],
    }
    path.write_text(json.dumps(content))
    return path


def test_coco_labels_are_positions_of_the_classes(tmp_path, ann_file):
    dataset = COCODataset(tmp_path, ann_file, None)
    predictions = {8: prediction((1, 0.9, CORNERS)), 5: prediction((2, 0.9, CORNERS))}

    result = evaluate(cfg, dataset, predictions, tmp_path / "out")

    assert result["value"] == pytest.approx(1.0)
    assert {row["category_id"] for row in json.loads((tmp_path / "out/bbox.json").read_text())} == {
        3,
        7,
    }


def test_annotations_are_renumbered_where_the_config_says_so(tmp_path, ann_file):
    dataset = COCODataset(tmp_path, ann_file, None)
    config = cfg.clone()
    assert not build_evaluator(config, dataset).renumber_annotations

    config.merge_from_list(["TEST.RENUMBER_ANNOTATIONS", True])

    assert build_evaluator(config, dataset).renumber_annotations


def test_a_repeated_dataset_is_evaluated_as_itself(tmp_path, ann_file):
    dataset = CopiedDataset(COCODataset(tmp_path, ann_file, None), copies=2)

    assert isinstance(build_evaluator(cfg, dataset), CocoEvaluator)


def test_proposals_of_a_coco_set(tmp_path, ann_file):
    dataset = COCODataset(tmp_path, ann_file, None)

    result = evaluate(cfg, dataset, {8: prediction((1, 0.9, CORNERS))}, box_only=True)

    assert isinstance(build_evaluator(cfg, dataset, box_only=True), ProposalEvaluator)
    assert result["value"] == 0.5


@pytest.mark.parametrize(("normal", "kind"), [(False, "lvis-fixed"), (True, "lvis")])
def test_lvis_labels_are_category_ids_and_the_config_chooses_the_protocol(
    tmp_path, ann_file, normal, kind
):
    settings = cfg.clone()
    settings.merge_from_list(["DATASETS.LVIS_USE_NORMAL_AP", normal])
    evaluator = build_evaluator(settings, LvisDetection(tmp_path, ann_file, None))
    corners = [10.0, 20.0, 50.0, 70.0]
    evaluator.update({8: prediction((3, 0.9, corners)), 5: prediction((7, 0.9, corners))})

    result = evaluator.summarize()

    assert isinstance(evaluator, LvisEvaluator)
    assert (result["kind"], result["value"]) == (kind, pytest.approx(1.0))


def test_a_subset_is_scored_on_what_was_predicted(tmp_path, ann_file):
    settings = cfg.clone()
    settings.merge_from_list(["TEST.SUBSET", 1])
    dataset = COCODataset(tmp_path, ann_file, None)

    found = {8: prediction((1, 0.9, CORNERS))}
    assert evaluate(settings, dataset, found)["value"] == pytest.approx(1.0)
    assert evaluate(cfg, dataset, found)["value"] == pytest.approx(0.5)


def test_voc_boxes_come_from_its_xml(tmp_path):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("2007_000001\n")
    Image.new("RGB", (200, 160)).save(tmp_path / "JPEGImages/2007_000001.jpg")
    (tmp_path / "Annotations/2007_000001.xml").write_text(
        "<annotation><size><width>200</width><height>160</height></size><object><name>dog</name>"
        "<difficult>0</difficult><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>50</xmax>"
        "<ymax>70</ymax></bndbox></object></annotation>"
    )
    dataset = PascalVOCDataset(tmp_path, "val", None, use_difficult=True)

    evaluator = build_evaluator(cfg, dataset)
    evaluator.update({0: prediction((12, 0.9, CORNERS))})

    assert isinstance(evaluator, VocEvaluator)
    assert evaluator.summarize()["per_category"] == {"dog": 1.0}


def test_tsv_boxes_are_clipped_and_labels_are_those_of_the_label_map(tmp_path):
    def write(name, *columns):
        (tmp_path / name).write_text("\t".join(["77", *columns]) + "\n")

    dog = {"class": "dog", "rect": [150, 20, 900, 69]}
    write("images.tsv", "")
    write("labels.tsv", json.dumps([dog]))
    write("sizes.tsv", json.dumps([{"height": 160, "width": 200}]))
    (tmp_path / "labelmap.json").write_text(json.dumps({"cat": 1, "dog": 2}))
    (tmp_path / "data.yaml").write_text(
        "img: images.tsv\nlabel: labels.tsv\nhw: sizes.tsv\nlabelmap: labelmap.json\n"
    )
    dataset = ODTSVDataset("set", tmp_path / "data.yaml", None)

    result = evaluate(cfg, dataset, {77: prediction((2, 0.9, [150.0, 20.0, 199.0, 69.0]))})

    assert result["kind"] == "coco"
    assert result["per_category"] == {"dog": pytest.approx(1.0)}


@pytest.mark.parametrize(("gt_type", "recall"), [("separate", 1.0), ("merged", 0.0)])
def test_flickr_takes_its_folder_split_and_protocol_from_the_config(tmp_path, gt_type, recall):
    for folder in ("Annotations", "Sentences"):
        (tmp_path / "entities" / folder).mkdir(parents=True)
    (tmp_path / "entities/val.txt").write_text("77\n")
    (tmp_path / "entities/Sentences/77.txt").write_text("[/EN#4/animals a dog]\n")
    objects = "".join(
        f"<object><name>4</name><bndbox><xmin>{x}</xmin><ymin>20</ymin><xmax>{x + 39}</xmax>"
        "<ymax>69</ymax></bndbox></object>"
        for x in (10, 120)
    )
    (tmp_path / "entities/Annotations/77.xml").write_text(f"<annotation>{objects}</annotation>")
    path = write_grounding_file(
        tmp_path / "flickr.json",
        original_img_id=77,
        sentence_id=0,
        tokens_positive_eval=[[[2, 5]]],
    )
    settings = cfg.clone()
    settings.merge_from_list(
        ["DATASETS.FLICKR_ENTITIES_DIR", str(tmp_path / "entities"), "DATASETS.FLICKR_GT_TYPE", gt_type]
    )  # fmt: skip
    dataset = FlickrDataset(tmp_path, path, None, targets=None, name="flickr30k_val")

    evaluator = build_evaluator(settings, dataset)
    evaluator.update({30: prediction((1, 0.9, CORNERS))})

    assert isinstance(evaluator, FlickrEvaluator)
    assert evaluator.summarize()["metrics"]["Recall@1_animals"] == recall


def test_an_unknown_kind_of_phrase_boxes_is_a_mistaken_setting(tmp_path):
    path = write_grounding_file(
        tmp_path / "own.json",
        original_img_id=30,
        sentence_id=0,
        tokens_positive_eval=[[[2, 5]]],
    )
    settings = cfg.clone()
    settings.DATASETS.FLICKR_GT_TYPE = "both"
    dataset = FlickrDataset(tmp_path, path, None, targets=None, name="flickr30k_val")

    with pytest.raises(ConfigError, match="FLICKR_GT_TYPE must be 'separate' or 'merged'"):
        build_evaluator(settings, dataset)


@pytest.mark.parametrize(("gt_type", "recall"), [("separate", 1.0), ("merged", 0.0)])
def test_sets_in_the_form_of_flickr_can_be_scored_by_their_own_boxes(tmp_path, gt_type, recall):
    path = write_grounding_file(
        tmp_path / "own.json",
        original_img_id=30,
        sentence_id=0,
        tokens_positive_eval=[[[2, 5]]],
    )
    content = json.loads(path.read_text())
    second = {**content["annotations"][0], "id": 2, "bbox": [120.0, 20.0, 40.0, 50.0]}
    path.write_text(json.dumps(content | {"annotations": [*content["annotations"], second]}))
    settings = cfg.clone()
    settings.merge_from_list(
        ["DATASETS.FLICKR_ENTITIES_DIR", "", "DATASETS.FLICKR_GT_TYPE", gt_type]
    )
    dataset = FlickrDataset(tmp_path, path, None, targets=None, name="grounding_seen")

    evaluator = build_evaluator(settings, dataset)
    evaluator.update({30: prediction((1, 0.9, CORNERS))})

    assert evaluator.summarize()["metrics"]["Recall@1_all"] == recall


def test_a_box_that_two_phrases_share_is_a_box_of_both(tmp_path):
    path = write_grounding_file(
        tmp_path / "own.json",
        original_img_id=30,
        sentence_id=0,
        tokens_positive_eval=[[[2, 5]], [[0, 1]]],
    )
    content = json.loads(path.read_text())
    content["annotations"][0]["tokens_positive"] = [[0, 1], [2, 5]]
    path.write_text(json.dumps(content))

    (phrases,) = sentences_of_annotations(path).values()

    assert [phrase.boxes.tolist() for phrase in phrases] == [[[10, 20, 50, 70]]] * 2


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("annotations", {"bbox": None}, "annotation 1 needs an image_id, a bbox .*bbox is None"),
        ("annotations", {"bbox": ["a", 1, 2, 3]}, "annotation 1 needs an image_id, a bbox"),
        ("annotations", {"image_id": []}, "annotation 1 needs an image_id"),
        ("annotations", {"tokens_positive": [3]}, "annotation 1 needs .* spans in tokens_positive"),
        ("images", {"caption": None}, "image 30 needs an id, a caption"),
        ("images", {"original_img_id": None}, "image 30 needs .*original_img_id"),
        ("images", {"tokens_positive_eval": [[]]}, "image 30 needs .*tokens_positive_eval"),
        ("images", {"tokens_positive_eval": 5}, "image 30 needs .*tokens_positive_eval"),
    ],
)
def test_a_malformed_entry_of_a_file_that_is_its_own_ground_truth_is_named(
    tmp_path, key, change, message
):
    path = write_grounding_file(
        tmp_path / "own.json", original_img_id=30, sentence_id=0, tokens_positive_eval=[[[2, 5]]]
    )
    content = json.loads(path.read_text())
    content[key][0] |= change
    path.write_text(json.dumps(content))

    with pytest.raises(AnnotationError, match=rf"own\.json: {message}"):
        sentences_of_annotations(path)


@pytest.mark.parametrize("content", [[], {"images": []}, {"images": {}, "annotations": []}])
def test_a_file_of_another_kind_is_no_ground_truth_of_phrases(tmp_path, content):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))

    with pytest.raises(AnnotationError, match=r"own\.json has no list"):
        sentences_of_annotations(path)


def test_a_phrase_without_box_is_refused_where_the_file_is_its_own_ground_truth(tmp_path):
    path = write_grounding_file(
        tmp_path / "own.json",
        original_img_id=30,
        sentence_id=0,
        tokens_positive_eval=[[[0, 1]]],
    )
    settings = cfg.clone()
    settings.merge_from_list(["DATASETS.FLICKR_ENTITIES_DIR", ""])
    dataset = FlickrDataset(tmp_path, path, None, targets=None, name="grounding_seen")

    with pytest.raises(AnnotationError, match="no box of entry 30"):
        build_evaluator(settings, dataset)


def test_referring_expressions_are_keyed_by_their_entries(tmp_path):
    path = write_grounding_file(tmp_path / "refcoco.json", dataset_name="refcoco+")
    dataset = RefExpDataset(tmp_path, path, None, targets=None, name="refcoco+_val")

    evaluator = build_evaluator(cfg, dataset)
    evaluator.update({30: prediction((1, 0.9, CORNERS))})

    assert isinstance(evaluator, RefExpEvaluator)
    assert evaluator.summarize()["metrics"]["refcoco+: precision@1"] == 1.0


def test_a_dataset_without_evaluation_is_named():
    class Captions:
        name = "captions_train"

    with pytest.raises(EvaluationError, match="captions_train of class Captions; it exists for"):
        build_evaluator(cfg, Captions())
