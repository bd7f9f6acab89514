"""Sets turned from one container into another and back, and what the check finds in them."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from maskrcnn_benchmark.data.conversion import check_set, convert_set, open_set
from maskrcnn_benchmark.data.image_files import BrokenSampleError
from maskrcnn_benchmark.data.writers import DatasetWriteError, OutputFile
from maskrcnn_benchmark.errors import DataError
from tests.data.containers import GROUNDING, picture_bytes, write_json_lines, write_shards
from tests.data.test_tsv import CAT, DOG, write_detection_set

SUFFIX = {"tsv": "set.yaml", "shards": "set-*.tar", "json-lines": "set.jsonl", "coco": "set.json"}


def write_coco(folder: Path, captions: bool = False) -> Path:
    """Three pictures, sparse ids, sparse categories, fractions, one crowd; or two captions of one
    picture and one of another.
    """
    (folder / "images" / "sub").mkdir(parents=True)
    names = ["a.jpg", "a.jpg", "sub/b.jpg"] if captions else ["a.jpg", "sub/b.jpg", "c.png"]
    for name in set(names):
        kind = "PNG" if name.endswith("png") else "JPEG"
        (folder / "images" / name).write_bytes(picture_bytes(30, 20, kind=kind))
    images = [
        {"id": number, "file_name": name, "height": 20, "width": 30}
        for number, name in zip((7, 12, 40), names)
    ]
    boxes = [(7, 1, [1.5, 2, 10.25, 12]), (7, 5, [0, 0, 30, 20]), (12, 1, [3, 3, 4, 4])]
    annotations = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
        | {"area": round(box[2] * box[3], 4)}
        for number, (image, category, box) in enumerate(boxes, start=1)
    ]
    if captions:
        for image, text in zip(images, ("a dog and a cat", "two dogs", "nothing")):
            image |= {"caption": text, "dataset_name": "flickr", "sentence_id": 0}
        for annotation, spans in zip(annotations, ([[2, 5]], [[12, 15]], [[0, 3], [4, 8]])):
            annotation |= {"tokens_positive": spans, "category_id": 1}
    else:
        annotations[1]["iscrowd"] = 1
    categories = [{"id": 1, "name": "dog", "supercategory": "pet"}, {"id": 5, "name": "cat"}]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": categories[:1] if captions else categories,
    }
    (folder / "set.json").write_text(json.dumps(content))
    return folder / "set.json"


def convert(path, target, folder, images=(), **options):
    opened = open_set(str(path), images)
    result = convert_set(opened, target, folder, "set", **options)
    return str(folder / SUFFIX[target]), result


@pytest.mark.parametrize("captions", [False, True])
@pytest.mark.parametrize("target", ["tsv", "shards"])
def test_coco_comes_back_unchanged(tmp_path, target, captions):
    path = write_coco(tmp_path / "coco", captions)

    there, result = convert(path, target, tmp_path / "there", [tmp_path / "coco/images"])
    back, _ = convert(there, "coco", tmp_path / "back")

    assert (result.samples, result.left_out) == (3, [])
    original, returned = json.loads(path.read_text()), json.loads(Path(back).read_text())
    assert returned["images"] == original["images"]
    assert returned["categories"] == original["categories"]
    assert returned["annotations"] == original["annotations"]
    for image in original["images"]:
        name = image["file_name"]
        copied = (tmp_path / "back/set" / name).read_bytes()
        assert copied == (tmp_path / "coco/images" / name).read_bytes()


def test_json_lines_keep_boxes_classes_and_ids_but_no_crowds(tmp_path):
    path = write_coco(tmp_path / "coco")

    lines, _ = convert(path, "json-lines", tmp_path / "lines", [tmp_path / "coco/images"])
    opened = open_set(lines, [tmp_path / "lines/set"])
    convert_set(opened, "coco", tmp_path / "back", "set")

    first = json.loads(Path(lines).read_text().splitlines()[0])
    assert first["detection"]["instances"] == [
        {"bbox": [1.5, 2, 11.75, 14.0], "category": "dog", "label": 0}
    ]
    original = json.loads(path.read_text())
    returned = json.loads((tmp_path / "back/set.json").read_text())
    kept = [a["bbox"] for a in original["annotations"] if not a["iscrowd"]]
    assert [a["bbox"] for a in returned["annotations"]] == kept
    assert [image["id"] for image in returned["images"]] == [7, 12, 40]


def test_captions_of_one_picture_share_it_in_tsv(tmp_path):
    path = write_coco(tmp_path / "coco", captions=True)

    there, _ = convert(path, "tsv", tmp_path / "there", [tmp_path / "coco/images"])

    source = open_set(there).source
    assert len(source) == 3
    assert len(source.images) == 2
    assert [source.record(i)["caption"] for i in range(3)] == [
        "a dog and a cat",
        "two dogs",
        "nothing",
    ]


def test_captions_of_one_picture_stay_apart_in_shards(tmp_path):
    path = write_json_lines(tmp_path, [{"grounding": GROUNDING}, {"grounding": GROUNDING}])
    path.write_text(path.read_text().replace("p1.jpg", "p0.jpg"))
    shards, _ = convert(path, "shards", tmp_path / "there", [tmp_path / "images"])
    for index in (tmp_path / "there").glob("*.idx"):
        index.unlink()

    assert len(open_set(shards).source) == 2


def test_regions_survive_json_lines_to_tsv_and_back(tmp_path):
    path = write_json_lines(tmp_path, [{"grounding": GROUNDING}])

    there, _ = convert(path, "tsv", tmp_path / "there", [tmp_path / "images"])
    back, _ = convert(there, "json-lines", tmp_path / "back")

    regions = json.loads(Path(back).read_text())["grounding"]["regions"]
    assert [(r["bbox"], r["phrase"], r["score"]) for r in regions] == [
        ([0, 0, 10, 10], "dog", 0.9),
        ([10, 0, 21, 10], "cat", 0.8),
        ([12, 0, 21, 9], "cat", 0.3),
    ]


def test_boxes_of_another_size_are_scaled_to_the_picture(tmp_path):
    record = {
        "caption": "a dog",
        "bboxes": [[10, 10, 20, 20]],
        "tokens_positive": [[[2, 5]]],
        "img_w": 60,
        "img_h": 40,
    }
    (shard,) = write_shards(tmp_path / "web", [record])

    there, _ = convert(shard, "json-lines", tmp_path / "there")

    assert json.loads(Path(there).read_text())["grounding"]["regions"][0]["bbox"] == [5, 5, 11, 11]


def test_a_folder_of_pictures_with_captions_becomes_a_set(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.jpg").write_bytes(picture_bytes())
    (folder / "a.txt").write_text("a dog\n")
    (folder / "c.txt").write_text("a cat\n")

    there, result = convert(folder, "shards", tmp_path / "there")

    source = open_set(there).source
    assert [source.record(i)["caption"] for i in range(2)] == ["a dog", "a cat"]
    assert source.sizes().tolist() == [[20, 30]] * 2
    assert len(result.left_out) == 1
    assert "b.jpg has no caption" in result.left_out[0]


def test_a_folder_without_captions_becomes_pictures_without_objects(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture_bytes())

    there, _ = convert(tmp_path, "tsv", tmp_path / "there")

    assert open_set(there).source.record(0)["objects"] == []


class TestBadInput:
    def test_broken_samples_are_left_out_and_counted(self, tmp_path, caplog):
        path = write_coco(tmp_path / "coco")
        (tmp_path / "coco/images/a.jpg").unlink()
        (tmp_path / "coco/images/c.png").write_text("a web page")

        _, result = convert(path, "tsv", tmp_path / "there", [tmp_path / "coco/images"])

        assert result.samples == 1
        assert len(result.left_out) == 2
        assert "a.jpg" in caplog.text
        assert "image 40 is no picture" in caplog.text

    def test_strict_stops_at_the_first_and_leaves_nothing(self, tmp_path):
        path = write_coco(tmp_path / "coco")
        (tmp_path / "coco/images/c.png").write_text("a web page")

        with pytest.raises(BrokenSampleError, match="image 40"):
            convert(path, "tsv", tmp_path / "there", [tmp_path / "coco/images"], strict=True)
        assert list((tmp_path / "there").iterdir()) == []

    @pytest.mark.parametrize("target", ["tsv", "shards", "json-lines"])
    def test_a_full_disk_is_named_and_nothing_unfinished_stays(self, tmp_path, monkeypatch, target):
        path = write_coco(tmp_path / "coco")
        write = OutputFile.write

        def full(self, data):
            if self.position > 100:
                with self._named_errors():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(self, data)

        monkeypatch.setattr(OutputFile, "write", full)

        with pytest.raises(DatasetWriteError, match=r"could not write .*No space left.*MiB free"):
            convert(path, target, tmp_path / "there", [tmp_path / "coco/images"])
        left = [p.name for p in (tmp_path / "there").rglob("*") if p.is_file()]
        assert all(name.endswith((".jpg", ".png")) for name in left)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("set.json", "{", "not valid JSON"),
            ("set.json", "[]", "not a COCO-style file"),
            ("set.yaml", "img: [", "not valid YAML"),
            ("set.txt", "", "is no set"),
        ],
    )
    def test_what_is_no_set_is_named(self, tmp_path, name, content, message):
        (tmp_path / name).write_text(content)

        with pytest.raises(DataError, match=message):
            open_set(str(tmp_path / name))

    def test_a_broken_label_map_is_named(self, tmp_path):
        path = write_json_lines(tmp_path, [{"detection": {"instances": []}}])
        path.with_suffix(".labelmap.json").write_text("{")

        with pytest.raises(DataError, match=r"data\.labelmap\.json is not valid JSON"):
            open_set(str(path))

    def test_an_unknown_container_lists_the_known_ones(self, tmp_path):
        with pytest.raises(ValueError, match="'zip'; there are tsv"):
            convert_set(open_set(str(write_coco(tmp_path))), "zip", tmp_path, "x")


class TestCheck:
    def report(self, path, images=(), **options):
        return check_set(open_set(str(path), images), **options)

    @pytest.mark.parametrize("captions", [False, True])
    @pytest.mark.parametrize("target", ["tsv", "shards", "coco"])
    def test_a_sound_set_has_no_problem(self, tmp_path, target, captions):
        path = write_coco(tmp_path / "coco", captions)
        there, _ = convert(path, target, tmp_path / "there", [tmp_path / "coco/images"])

        report = self.report(there, [tmp_path / "there/set"], decode=True)

        assert report.problems == {}
        assert report.statistics["boxes"] == 3
        assert report.statistics["pictures that can be read"] == 3
        assert report.lines()[-1] == "no problem found"

    def test_statistics_say_what_the_set_holds(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG], [DOG, {**DOG, "class": "cow"}]])

        statistics = self.report(path).statistics

        assert statistics["boxes by class"] == {"dog": 2, "cow": 1}
        assert statistics["classes without a box"] == ["cat"]
        assert statistics["boxes per sample"] == {"min": 1, "median": 1.5, "mean": 1.5, "max": 2}

    def test_bad_boxes_of_every_kind_are_counted(self, tmp_path):
        rects = [[0, 0, 5], [4, 4, 4, 9], [50, 50, 60, 60], [5, 5, 90, 90], [1, 1, 9, "x"]]
        objects = [{"class": "dog", "rect": rect} for rect in rects]
        path = write_detection_set(tmp_path, [objects, [{"class": "dragon", "rect": [1, 1, 9, 9]}]])

        report = self.report(path)

        assert dict(report.problems) == {
            "box is not four numbers": 2,
            "box of at most one pixel": 1,
            "box outside its picture": 1,
            "box reaches out of its picture": 1,
            "unknown class": 1,
        }
        assert "row 2: 'dragon'" in report.examples["unknown class"][0]

    def test_missing_and_broken_pictures_are_told_apart(self, tmp_path):
        path = write_coco(tmp_path)
        (tmp_path / "images/a.jpg").unlink()
        (tmp_path / "images/c.png").write_text("a web page")

        report = self.report(path, [tmp_path / "images"])

        assert dict(report.problems) == {"missing image": 1, "broken image": 1}

    def test_decoding_finds_pictures_that_are_cut_short(self, tmp_path):
        path = write_coco(tmp_path)
        picture = tmp_path / "images/a.jpg"
        picture.write_bytes(picture.read_bytes()[:-200])

        assert not self.report(path, [tmp_path / "images"]).problems
        assert self.report(path, [tmp_path / "images"], decode=True).problems["broken image"] == 1

    def test_broken_index_lines_are_found(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG], [CAT], [DOG]])
        self.report(path)
        (tmp_path / "train.label.lineidx.npy").unlink()
        index = tmp_path / "train.label.lineidx"
        lines = index.read_text().splitlines()
        index.write_text("\n".join([lines[0], str(int(lines[1]) + 3), lines[2]]) + "\n")

        report = self.report(path)

        assert report.problems["index"] == 1
        assert "1 of 3 entries are wrong (first: line 2)" in report.examples["index"][0]

    def test_a_wrong_index_of_a_shard_is_found(self, tmp_path):
        (shard,) = write_shards(tmp_path, [{"objects": []}] * 2)
        self.report(shard)
        index = shard.with_name(f"{shard.name}.idx")
        rows = np.fromfile(index, dtype="<i8").reshape(-1, 8)
        rows[1, 2] += 1
        index.write_bytes(rows.tobytes())

        assert "1 of 2 entries are wrong" in self.report(shard).examples["index"][0]

    def test_captions_with_spans_out_of_range_are_named(self, tmp_path):
        content = {"caption": "a dog", "regions": [{"bbox": [0, 0, 9, 9], "phrase": "a dog"}]}
        bad = {"caption": "dog", "regions": [{"bbox": [0, 0, 9, 9], "tokens_positive": [[0, 9]]}]}
        path = write_json_lines(tmp_path, [{"grounding": content}, {"grounding": bad}, "{"])

        report = self.report(path, [tmp_path / "images"])

        assert dict(report.problems) == {"span outside its caption": 1, "record": 1}
        assert report.statistics["phrases with most boxes"] == {"a dog": 1}

    def test_the_name_of_a_file_does_not_decide_what_is_wrong(self, tmp_path):
        path = write_json_lines(tmp_path, [{"caption": "a dog", "version": "v9"}])
        path = path.rename(tmp_path / "spans.jsonl")

        assert dict(self.report(path, [tmp_path / "images"]).problems) == {"record": 1}

    def test_doubled_ids_and_lost_annotations_are_named(self, tmp_path):
        path = write_coco(tmp_path)
        content = json.loads(path.read_text())
        content["images"][1]["id"] = 7
        path.write_text(json.dumps(content))

        report = self.report(path, [tmp_path / "images"])

        assert sorted(report.examples["file"]) == [
            "1 annotations name an image that the file lacks (first: 3)",
            "image id 7 occurs 2 times",
        ]

    def test_a_picture_of_another_shape_than_its_record_is_named(self, tmp_path):
        record = {"caption": "a dog", "img_h": 30, "img_w": 20}
        (shard,) = write_shards(tmp_path, [record])

        assert self.report(shard).problems == {"size": 1}
