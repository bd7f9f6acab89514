"""Sentences with boxes: recorded samples, Flickr30k Entities, mixtures, LVIS and VOC."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.data.collate import BatchCollator
from maskrcnn_benchmark.data.datasets import (
    FlickrDataset,
    LvisDetection,
    MixedDataset,
    PascalVOCDataset,
    RefExpDataset,
)
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.image_files import BrokenSampleError
from maskrcnn_benchmark.data.transforms import Compose, Normalize, Resize, ToTensor
from maskrcnn_benchmark.grounding import label_to_tokens_from_positive_map

PLAIN = Compose([ToTensor()])


def write_sentences(folder: Path, images: list[dict], annotations: list[dict]) -> Path:
    path = folder / "sentences.json"
    defaults = {"category_id": 1, "iscrowd": 0}
    boxes = [{"id": i, "area": 1.0, **defaults, **a} for i, a in enumerate(annotations)]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": []}))
    return path


@pytest.fixture
def targets(bert_tokenizer):
    return GroundingTargetBuilder(bert_tokenizer, 256, "test")


@pytest.fixture(scope="module")
def recorded_refexp(golden_dir):
    with np.load(golden_dir / "fiber/refexp_data_path.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=["train", "test"])
def split(request):
    return request.param


@pytest.fixture(scope="module")
def refexp_dataset(recorded_refexp, split, tmp_path_factory, shared_dir):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        shared_dir / "data/tokenizers/roberta-base"
    )
    folder = tmp_path_factory.mktemp("refexp")
    meta = json.loads(str(recorded_refexp["meta/json"]))
    for i in range(3):
        Image.fromarray(recorded_refexp[f"image{i}_rgb_uint8"]).save(folder / f"im{i}.png")
    path = folder / "annotations.json"
    path.write_text(json.dumps(meta["dataset"]))
    settings = meta["settings"][split]
    mean, std = [103.530, 116.280, 123.675], [57.375, 57.120, 58.395]
    transforms = Compose(
        [
            Resize(settings["min_size"], settings["max_size"]),
            ToTensor(),
            Normalize(mean, std, "bgr255"),
        ]
    )
    return RefExpDataset(
        folder,
        path,
        transforms,
        targets=GroundingTargetBuilder(tokenizer, 256, "refexp"),
        is_train=False,
    )


class TestRecordedReferringExpressions:
    """Three samples of the original FIBER data path, from picture to batch."""

    def test_samples(self, recorded_refexp, split, refexp_dataset):
        items = json.loads(str(recorded_refexp["meta/json"]))["results"][split]["items"]
        for i, item in enumerate(items):
            image, target, index = refexp_dataset[i]
            key = f"{split}/tensor{i}"
            assert image.shape == tuple(recorded_refexp[f"{key}_shape"])
            sampled = image.reshape(-1)[:: int(recorded_refexp[f"{key}_stride"])]
            torch.testing.assert_close(
                sampled, torch.from_numpy(recorded_refexp[f"{key}_sample"]), rtol=0, atol=1e-5
            )
            torch.testing.assert_close(
                target.bbox, torch.from_numpy(recorded_refexp[f"{split}/boxes{i}_xyxy"])
            )
            assert index == item["index"]
            assert list(target.size) == item["size_wh"]
            assert sorted(target.fields()) == item["fields"]
            assert target.get_field("labels").tolist() == item["labels"]
            assert target.get_field("boxes").tolist() == item["boxes_field_xyxy"]
            assert target.get_field("orig_size").tolist() == item["orig_size_hw"]
            assert target.get_field("image_id").tolist() == item["image_id"]
            assert target.get_field("dataset_name") == item["dataset_name"]
            tokens = label_to_tokens_from_positive_map(target.get_field("positive_map"))
            assert {str(k): v for k, v in tokens.items()} == item["label_to_token_eval"]

    def test_batch(self, recorded_refexp, split, refexp_dataset):
        batch = BatchCollator(32)([refexp_dataset[i] for i in range(3)])

        assert batch.images.tensors.shape == tuple(recorded_refexp[f"{split}/batch_shape"])
        expected = torch.from_numpy(recorded_refexp[f"{split}/batch_positive_map"])
        assert torch.equal(batch.positive_map, expected)
        assert batch.positive_map_eval is None
        assert batch.greenlight_map.shape == (3, 256)


class TestSentences:
    @pytest.fixture
    def folder(self, tmp_path):
        Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
        return tmp_path

    def test_only_usable_boxes_stay_and_spans_stay_with_them(self, folder, targets):
        path = write_sentences(
            folder,
            [{"id": 1, "file_name": "a.png", "caption": "a dog and a cat"}],
            [
                {"image_id": 1, "bbox": [1, 1, 5, 5], "tokens_positive": [[0, 1]], "iscrowd": 1},
                {"image_id": 1, "bbox": [0, 0, 60, 10], "tokens_positive": [[2, 5]]},
                {"image_id": 1, "bbox": [3, 3, 1, 5], "tokens_positive": [[12, 15]]},
            ],
        )

        _, target, _ = FlickrDataset(folder, path, PLAIN, targets=targets)[0]

        assert target.bbox.tolist() == [[0, 0, 49, 9]]
        assert target.get_field("tokens_positive") == [[[2, 5]]]
        assert target.get_field("original_od_label").tolist() == [-10]
        assert target.get_field("greenlight_map").sum() == 5

    def test_phrases_to_evaluate_are_asked_for_in_evaluation_only(self, folder, targets):
        image = {
            "id": 1,
            "file_name": "a.png",
            "caption": "a dog and a cat",
            "tokens_positive_eval": [[[0, 5]], [[10, 15]]],
            "sentence_id": 4,
            "original_img_id": 77,
        }
        path = write_sentences(
            folder, [image], [{"image_id": 1, "bbox": [0, 0, 9, 9], "tokens_positive": [[0, 5]]}]
        )

        _, asked, _ = FlickrDataset(folder, path, PLAIN, targets=targets)[0]
        _, trained, _ = FlickrDataset(folder, path, PLAIN, targets=targets, is_train=True)[0]

        tokens = label_to_tokens_from_positive_map(asked.get_field("positive_map_eval"))
        assert tokens == {1: [1, 2], 2: [4, 5]}
        assert asked.get_field("nb_eval") == 2
        assert asked.get_field("sentence_id") == 4
        assert asked.get_field("original_img_id") == 77
        assert not trained.has_field("positive_map_eval")

    @pytest.mark.parametrize("place", ["tokens_positive", "tokens_positive_eval"])
    def test_characters_outside_of_their_sentence_are_named(self, folder, targets, place):
        image = {"id": 7, "file_name": "a.png", "caption": "a dog"}
        box = {"image_id": 7, "bbox": [0, 0, 9, 9], "tokens_positive": [[2, 5]]}
        if place == "tokens_positive":
            box[place] = [[2, 6]]
        else:
            image[place] = [[[2, 5]], [[2, 6]]]
        path = write_sentences(folder, [image], [box])
        with pytest.raises(BrokenSampleError, match=r"sentences\.json: image 7: span \[2, 6\]"):
            FlickrDataset(folder, path, PLAIN, targets=targets)[0]

    def test_a_sentence_that_is_too_long_is_reported_once(self, folder, bert_tokenizer, caplog):
        caption = "dog " * 300
        path = write_sentences(
            folder,
            [{"id": i, "file_name": "a.png", "caption": caption + str(i)} for i in (1, 2)],
            [
                {"image_id": i, "bbox": [0, 0, 9, 9], "tokens_positive": [[0, 3], [1100, 1103]]}
                for i in (1, 2)
            ],
        )
        targets = GroundingTargetBuilder(bert_tokenizer, 256, "long tales")
        dataset = FlickrDataset(folder, path, PLAIN, targets=targets)

        with caplog.at_level(logging.WARNING):
            rows = [dataset[i][1].get_field("positive_map") for i in (0, 1)]

        assert all(row.nonzero()[:, 1].tolist() == [1] for row in rows)
        assert targets.truncated == 2
        assert caplog.text.count("long tales") == 1

    def test_a_mixture_finds_its_pictures_by_their_source(self, folder, targets):
        (folder / "vg").mkdir()
        Image.new("RGB", (20, 30)).save(folder / "vg" / "a.png")
        images = [
            {"id": 1, "file_name": "a.png", "caption": "x dog", "data_source": "coco"},
            {"id": 2, "file_name": "a.png", "caption": "x dog", "data_source": "vg"},
        ]
        path = write_sentences(
            folder,
            images,
            [{"image_id": i, "bbox": [0, 0, 9, 9], "tokens_positive": [[2, 5]]} for i in (1, 2)],
        )

        dataset = MixedDataset(folder, folder / "vg", path, PLAIN, targets=targets, is_train=True)

        assert [dataset[i][0].shape[1:] for i in (0, 1)] == [(40, 50), (30, 20)]


class TestFlickrSample:
    @pytest.fixture
    def dataset(self, shared_dir, targets):
        root = shared_dir / "data/flickr30k_entities"
        annotations = root / "mdetr_annotations/final_flickr_separateGT_train.json"
        return FlickrDataset(root / "images", annotations, PLAIN, targets=targets, is_train=True)

    def test_every_box_points_to_words(self, dataset, shared_dir):
        photos = {path.name for path in (shared_dir / "data/flickr30k_entities/images").iterdir()}
        rows = dataset.annotation_file
        with_photo = [
            i for i, row in enumerate(dataset.rows) if rows.entry(row)["file_name"] in photos
        ]
        assert len(with_photo) == 29  # one of the 30 sentences has no box
        for i in with_photo[::5]:
            image, target, _ = dataset[i]
            assert image.shape[1:] == tuple(target.get_field("orig_size").tolist())
            assert len(target) == len(target.get_field("positive_map")) > 0
            assert (target.get_field("positive_map").sum(dim=1) > 0.99).all()

    def test_sizes_written_as_text_can_be_grouped(self, dataset):
        assert dataset.sizes().min() > 0


class TestLvisSample:
    def test_labels_are_the_ids_of_the_file(self, shared_dir, tmp_path):
        data = shared_dir / "data"
        photos = tmp_path / "val2017"
        photos.mkdir()
        (photos / "000000196141.jpg").symlink_to(data / "coco/images/000000196141.jpg")

        dataset = LvisDetection(tmp_path, data / "lvis/lvis_196141.json", PLAIN)
        image, target, _ = dataset[0]

        assert len(dataset) == 1
        assert target["image_id"].tolist() == [196141]
        assert image.shape[1:] == tuple(target["orig_size"].tolist())
        assert len(target["labels"]) == len(target["boxes"]) == 13
        assert set(target["labels"].tolist()) <= set(dataset.categories())

    def test_the_whole_file_lists_all_categories(self, shared_dir):
        dataset = LvisDetection("", shared_dir / "data/lvis/lvis_val_100.json", PLAIN)

        assert len(dataset) == 100
        assert list(dataset.categories()) == list(range(1, 1231))


VOC_XML = """<annotation><size><width>50</width><height>40</height></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


class TestPascalVOC:
    @pytest.fixture
    def folder(self, tmp_path):
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (50, 40)).save(tmp_path / "JPEGImages/000001.jpg")
        (tmp_path / "Annotations/000001.xml").write_text(VOC_XML)
        (tmp_path / "ImageSets/Main/train.txt").write_text("000001\n")
        return tmp_path

    def test_coordinates_count_from_zero_and_difficult_objects_are_not_trained_on(self, folder):
        _, trained, _ = PascalVOCDataset(folder, "train", PLAIN, use_difficult=False)[0]
        _, tested, _ = PascalVOCDataset(folder, "train", PLAIN, use_difficult=True)[0]

        assert trained.bbox.tolist() == [[0, 1, 19, 29]]
        assert trained.get_field("labels").tolist() == [12]
        assert tested.get_field("difficult").tolist() == [False, True]

    def test_a_missing_list_of_ids_is_named(self, folder):
        with pytest.raises(FileNotFoundError, match=r"val\.txt"):
            PascalVOCDataset(folder, "val", PLAIN, use_difficult=True)

    def test_an_unknown_class_is_named(self, folder):
        path = folder / "Annotations/000001.xml"
        path.write_text(VOC_XML.replace("dog", "dragon"))

        with pytest.raises(ValueError, match="'dragon'"):
            PascalVOCDataset(folder, "train", PLAIN, use_difficult=True)[0]
