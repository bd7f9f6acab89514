"""TSV files: rows by number, indices, and detection data in them."""

import base64
import io
import json
import logging
import os
import pickle

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from maskrcnn_benchmark.data.datasets import CocoDetectionTSV, ODTSVDataset
from maskrcnn_benchmark.data.datasets.detection_captions import SampledClassesCaptioner
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.datasets.tsv_file import TSVFile
from maskrcnn_benchmark.data.image_files import BrokenRecordError, UnreadableImageError
from maskrcnn_benchmark.data.sample_key import SampleKey
from maskrcnn_benchmark.data.transforms import Compose, ToTensor
from maskrcnn_benchmark.grounding.od_to_grounding import NegativeSampling

PLAIN = Compose([ToTensor()])


def write_rows(path, rows):
    path.write_bytes(b"".join(b"\t".join(columns) + b"\n" for columns in rows))
    return path


def encoded_picture(width=30, height=20):
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue())


@pytest.fixture
def rows(tmp_path):
    """A file of three rows of different length, with a multi-byte character."""
    return write_rows(
        tmp_path / "train.label.tsv", [[b"a", b"1"], ["é".encode(), b"[22, 2]"], [b"c", b'"x"']]
    )


class TestRows:
    def test_rows_are_read_by_number_in_any_order(self, rows):
        file = TSVFile(rows)

        assert len(file) == 3
        assert [file.key(i) for i in (2, 0, 1)] == ["c", "a", "é"]
        assert [file.json(i) for i in (2, 0, 1)] == ["x", 1, [22, 2]]

    def test_a_missing_index_is_built_and_kept_as_text_and_binary(self, rows):
        TSVFile(rows)

        assert rows.with_suffix(".lineidx").read_text() == "0\n4\n15\n"
        assert np.load(rows.with_suffix(".lineidx.npy")).tolist() == [0, 4, 15]

    def test_a_given_index_is_used_and_memory_mapped(self, rows):
        rows.with_suffix(".lineidx").write_text("0\n4\n15\n")

        assert isinstance(TSVFile(rows).offsets, np.memmap)

    def test_a_changed_file_gets_a_new_index(self, rows):
        TSVFile(rows)
        rows.with_suffix(".lineidx").unlink()
        write_rows(rows, [[b"a", b"123456"], [b"b", b"2"]])
        stale = rows.with_suffix(".lineidx.npy")
        np.save(stale, [0, 4, 15])
        os.utime(stale, ns=(0, 0))

        assert [TSVFile(rows).key(i) for i in (0, 1)] == ["a", "b"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0\n4\n99\n", "does not belong to"),
            ("0\n15\n4\n", "do not rise"),
            ("0\n4\nx\n", "one byte offset per line"),
        ],
    )
    def test_an_index_of_another_file_is_refused(self, rows, text, message):
        rows.with_suffix(".lineidx").write_text(text)

        with pytest.raises(ValueError, match=message):
            TSVFile(rows)

    def test_an_index_line_into_the_middle_of_a_row_is_named(self, rows):
        rows.with_suffix(".lineidx").write_text("0\n5\n15\n")

        with pytest.raises(BrokenRecordError, match="line 2 of its index"):
            TSVFile(rows).columns(1)

    def test_a_row_without_columns_or_json_is_named(self, tmp_path):
        file = TSVFile(write_rows(tmp_path / "x.tsv", [[b"a"], [b"b", b"{"], [b"c", b"not base"]]))

        with pytest.raises(BrokenRecordError, match="row 1 has one column"):
            file.columns(0)
        with pytest.raises(BrokenRecordError, match="row 2 is not JSON"):
            file.json(1)
        with pytest.raises(UnreadableImageError, match="row 3"):
            file.image(2)

    def test_a_file_can_be_sent_to_another_process(self, rows):
        file = TSVFile(rows)
        file.columns(0)

        assert pickle.loads(pickle.dumps(file)).key(2) == "c"

    def test_an_index_can_stay_in_memory_where_the_folder_is_read_only(self, rows, make_read_only):
        make_read_only()

        assert TSVFile(rows).key(2) == "c"
        assert not rows.with_suffix(".lineidx").exists()


def write_detection_set(folder, records, *, linelist=None, keys=None, sizes=None):
    """Images, labels, sizes and label map of dog (1), cat (2) and cow (3), tied by data.yaml."""
    keys = keys or [str(100 + i) for i in range(len(records))]
    names = [key.encode() for key in keys]
    sizes = sizes or [(30, 20)] * len(records)
    write_rows(
        folder / "images.tsv", [[name, encoded_picture(*size)] for name, size in zip(names, sizes)]
    )
    write_rows(
        folder / "train.label.tsv",
        [[name, json.dumps(record).encode()] for name, record in zip(names, records)],
    )
    hw = [json.dumps([{"height": h, "width": w}]).encode() for w, h in sizes]
    write_rows(folder / "train.hw.tsv", [list(row) for row in zip(names, hw)])
    (folder / "labelmap.json").write_text(json.dumps({"dog": 1, "cat": 2, "cow": 3}))
    content = {
        "img": "images.tsv",
        "label": "train.label.tsv",
        "hw": "train.hw.tsv",
        "labelmap": "labelmap.json",
    }
    if linelist is not None:
        (folder / "list.tsv").write_text("".join(f"{row}\n" for row in linelist))
        content["linelist"] = "list.tsv"
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


DOG = {"class": "dog", "rect": [1, 2, 10, 12]}
CAT = {"class": "cat", "rect": [5, 5, 90, 90], "conf": 0.5}


def grounding(path, tokenizer, **options):
    def sampled(names):
        return SampledClassesCaptioner(
            names,
            tokenizer,
            sampling=NegativeSampling(1, (0.0, 0.0, 1.0)),
            separation_tokens=". ",
            max_tokens=256,
        )

    return CocoDetectionTSV(
        "set",
        path,
        PLAIN,
        make_captioner=sampled,
        targets=GroundingTargetBuilder(tokenizer, 256, "set"),
        **options,
    )


class TestDetection:
    def test_objects_are_corners_and_labels_of_the_map(self, tmp_path):
        dataset = ODTSVDataset("set", write_detection_set(tmp_path, [[DOG, CAT]]), PLAIN)

        image, target, index = dataset[0]

        assert image.shape == (3, 20, 30)
        assert target.bbox.tolist() == [[1, 2, 10, 12], [5, 5, 29, 19]]
        assert target.get_field("labels").tolist() == [1, 2]
        assert index == 0
        assert dataset.image_id(0) == 100
        assert dataset.categories() == {1: "dog", 2: "cat", 3: "cow"}

    def test_objects_may_be_wrapped(self, tmp_path):
        path = write_detection_set(tmp_path, [{"objects": [DOG]}])

        assert len(ODTSVDataset("set", path, PLAIN)[0][1]) == 1

    def test_a_list_of_rows_chooses_and_repeats_samples(self, tmp_path):
        path = write_detection_set(
            tmp_path, [[DOG], [CAT], []], linelist=[1, 1, 0], sizes=[(30, 20), (20, 30), (9, 9)]
        )

        dataset = ODTSVDataset("set", path, PLAIN)

        assert [dataset[i][1].get_field("labels").tolist() for i in range(3)] == [[2], [2], [1]]
        assert dataset.sizes().tolist() == [[30, 20], [30, 20], [20, 30]]

    def test_sizes_are_parsed_once_and_kept(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG]])
        ODTSVDataset("set", path, PLAIN).sizes()

        assert np.load(tmp_path / "train.hw.sizes.npy").tolist() == [[20, 30]]
        assert ODTSVDataset("set", path, PLAIN).sizes().tolist() == [[20, 30]]

    def test_keys_that_are_no_numbers_give_the_row_as_id(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG], [CAT]], keys=["a", "b"])

        assert ODTSVDataset("set", path, PLAIN).id_to_img_map == {0: 0, 1: 1}

    def test_captions_name_the_present_and_sampled_absent_classes(self, tmp_path, bert_tokenizer):
        dataset = grounding(write_detection_set(tmp_path, [[DOG, CAT]]), bert_tokenizer)
        captions = set()

        for seed in range(12):
            _, target, _ = dataset[SampleKey(0, seed)]
            caption = target.get_field("caption")
            captions.add(caption)
            assert [caption[b:e] for ((b, e),) in target.get_field("tokens_positive")] == [
                "dog",
                "cat",
            ]
            od_labels = target.get_field("positive_map_for_od_labels")
            positive = target.get_field("positive_map")
            assert od_labels[positive[0] > 0].unique().tolist() == [1]
            assert od_labels[positive[1] > 0].unique().tolist() == [2]
            assert target.get_field("original_od_label").tolist() == [1, 2]
        assert any("cow" in caption for caption in captions)
        assert len(captions) > 3

    def test_a_picture_without_objects_is_a_sample_without_boxes(self, tmp_path, bert_tokenizer):
        _, target, _ = grounding(write_detection_set(tmp_path, [[]]), bert_tokenizer)[0]

        assert len(target) == 0
        assert target.get_field("positive_map").shape == (0, 256)

    @pytest.mark.parametrize(
        ("item", "message"),
        [
            ({"class": "dragon", "rect": [0, 0, 5, 5]}, "row 1: class 'dragon'"),
            ({"class": "dog", "rect": [0, 0, 5]}, "row 1: rect must be four"),
            ({"class": "dog"}, "row 1: rect must be four"),
            ("dog", "row 1: rect must be four"),
        ],
    )
    def test_malformed_objects_are_named_and_skipped_on_request(
        self, tmp_path, caplog, item, message
    ):
        path = write_detection_set(tmp_path, [[item], [DOG]])

        with pytest.raises(BrokenRecordError, match=message):
            ODTSVDataset("set", path, PLAIN)[0]
        with caplog.at_level(logging.WARNING):
            assert ODTSVDataset("set", path, PLAIN, skip_broken=True)[0][2] == 1
        assert message in caplog.text

    def test_rows_of_different_keys_are_reported_once(self, tmp_path, caplog):
        path = write_detection_set(tmp_path, [[DOG], [CAT]])
        write_rows(
            tmp_path / "train.label.tsv",
            [[b"x", json.dumps([DOG]).encode()], [b"y", json.dumps([CAT]).encode()]],
        )
        dataset = ODTSVDataset("set", path, PLAIN)

        with caplog.at_level(logging.WARNING):
            dataset[0], dataset[1]

        assert caplog.text.count("Rows must correspond") == 1

    def test_workers_read_the_same_rows(self, tmp_path, bert_tokenizer):
        path = write_detection_set(tmp_path, [[DOG], [CAT], [DOG, CAT]])
        dataset = grounding(path, bert_tokenizer)
        keys = [[SampleKey(i, i)] for i in range(3)]
        here = [dataset[key][1].get_field("caption") for (key,) in keys]

        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=keys, num_workers=2, collate_fn=lambda samples: samples[0]
        )

        assert [target.get_field("caption") for _, target, _ in loader] == here


class TestSource:
    def test_a_missing_file_is_named_with_its_key(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG]])
        (tmp_path / "labelmap.json").unlink()

        with pytest.raises(FileNotFoundError, match=r"labelmap is labelmap.json"):
            ODTSVDataset("set", path, PLAIN)

    def test_files_of_different_length_are_refused(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG], [CAT]])
        write_rows(tmp_path / "train.label.tsv", [[b"100", b"[]"]])

        with pytest.raises(ValueError, match=r"has 1 rows, the images .* have 2"):
            ODTSVDataset("set", path, PLAIN)

    def test_a_list_that_names_rows_outside_is_refused(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG]], linelist=[0, 1])

        with pytest.raises(ValueError, match="'linelist' names rows outside 0 to 0"):
            ODTSVDataset("set", path, PLAIN)

    def test_sizes_may_be_two_numbers(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG]])
        write_rows(tmp_path / "train.hw.tsv", [[b"100", b"20 30"]])

        assert ODTSVDataset("set", path, PLAIN).sizes().tolist() == [[20, 30]]

    def test_sizes_are_needed_for_grouping_only(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG]])
        path.write_text("img: images.tsv\nlabel: train.label.tsv\nlabelmap: labelmap.json\n")
        dataset = ODTSVDataset("set", path, PLAIN)

        assert len(dataset) == 1
        with pytest.raises(ValueError, match="ASPECT_RATIO_GROUPING False"):
            dataset.sizes()

    def test_label_maps_may_be_lines_or_wrapped(self, tmp_path):
        path = write_detection_set(tmp_path, [[DOG]])
        wrapped = {"label_to_idx": {"dog": 1, "cat": 2, "cow": 3}}
        (tmp_path / "labelmap.json").write_text(json.dumps(wrapped))
        first = ODTSVDataset("set", path, PLAIN).label_map
        (tmp_path / "labelmap.tsv").write_text("dog\ncat\ncow\n")
        path.write_text(path.read_text().replace("labelmap.json", "labelmap.tsv"))

        assert ODTSVDataset("set", path, PLAIN).label_map == first
        assert list(first.items())[-1] == ("__background__", 0)
