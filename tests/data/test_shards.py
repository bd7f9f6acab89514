"""WebDataset shards: any sample by its number, indices, and what is wrong with a tar file."""

import logging
import os
import pickle
import tarfile

import numpy as np
import pytest

from maskrcnn_benchmark.data.datasets.caption_dataset import CaptionDataset, CaptionOptions
from maskrcnn_benchmark.data.datasets.detection_records import DetectionRecords
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.datasets.tar_index import index_path
from maskrcnn_benchmark.data.datasets.webdataset_shards import FilePool, ShardSource
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.data.transforms import Compose, ToTensor
from tests.data.containers import picture_bytes, write_shards, write_tar

PLAIN = Compose([ToTensor()])
CAPTION = {
    "caption": "a dog and a cat",
    "bboxes": [[0, 0, 9, 9]],
    "scores": [0.9],
    "tokens_positive": [[[2, 5]]],
}


def numbered(count):
    return [{**CAPTION, "caption": f"a dog {number}"} for number in range(count)]


class TestSamples:
    def test_samples_are_read_by_number_in_any_order(self, tmp_path):
        source = ShardSource(write_shards(tmp_path, numbered(5)))

        captions = [source.record(index)["caption"] for index in (4, 0, 3, 1)]

        assert len(source) == 5
        assert captions == ["a dog 4", "a dog 0", "a dog 3", "a dog 1"]
        assert [source.key(index) for index in (4, 0)] == ["000004", "000000"]
        assert source.image_data(3) == picture_bytes(seed=3)
        assert source.where(3).endswith("s-001.tar: sample 2")

    def test_captions_train_with_boxes_in_pixels_of_the_stored_picture(
        self, tmp_path, bert_tokenizer
    ):
        dataset = CaptionDataset(
            "shards",
            ShardSource(write_shards(tmp_path, [CAPTION])),
            PLAIN,
            targets=GroundingTargetBuilder(bert_tokenizer, 256, "shards"),
            options=CaptionOptions(),
        )

        image, target, _ = dataset[0]

        assert image.shape == (3, 20, 30)
        assert target.bbox.tolist() == [[0, 0, 9, 9]]

    def test_detection_records_train_too(self, tmp_path):
        record = {"objects": [{"class": "dog", "rect": [1, 2, 10, 12]}]}
        source = ShardSource(write_shards(tmp_path, [record]))

        _, target, _ = DetectionRecords("s", source, {"dog": 1, "__background__": 0}, PLAIN)[0]

        assert target.bbox.tolist() == [[1, 2, 10, 12]]

    def test_crowds_are_left_out(self, tmp_path):
        objects = [{"class": "dog", "rect": [1, 2, 10, 12], "iscrowd": 1}]
        source = ShardSource(write_shards(tmp_path, [{"objects": objects}]))

        dataset = DetectionRecords("s", source, {"dog": 1, "__background__": 0}, PLAIN)

        assert len(dataset[0][1]) == 0

    def test_a_text_member_is_the_caption_where_the_record_has_none(self, tmp_path):
        tar = write_tar(
            tmp_path / "web.tar",
            [
                *(("a/1.jpg", picture_bytes()), ("a/1.txt", "a dog\n")),
                *(("a/2.jpg", picture_bytes()), ("a/2.txt", "a cat"), ("a/2.json", {"url": "u"})),
                *(("a/3.jpg", picture_bytes()), ("a/3.txt", "no"), ("a/3.json", {"caption": "x"})),
            ],
        )
        source = ShardSource([tar])

        assert [source.record(i)["caption"] for i in range(3)] == ["a dog", "a cat", "x"]
        assert source.key(1) == "a/2"

    def test_long_member_names_do_not_disturb(self, tmp_path):
        key = "folder/" * 20 + "x" * 90
        tar = write_tar(
            tmp_path / "web.tar", [(f"{key}.jpg", picture_bytes()), (f"{key}.json", CAPTION)]
        )

        source = ShardSource([tar])

        assert source.record(0)["caption"] == CAPTION["caption"]
        assert source.image_data(0) == picture_bytes()

    def test_sizes_come_from_record_or_picture(self, tmp_path):
        tar = write_tar(
            tmp_path / "web.tar",
            [
                *(
                    ("1.jpg", picture_bytes(40, 10)),
                    ("1.json", {**CAPTION, "img_h": 5, "img_w": 6}),
                ),
                *(("2.png", picture_bytes(40, 10, kind="PNG")), ("2.txt", "a dog")),
                *(("3.jpg", b"no picture"), ("3.txt", "a dog")),
            ],
        )

        assert ShardSource([tar]).sizes().tolist() == [[5, 6], [10, 40], [1, 1]]

    def test_a_source_can_be_sent_to_another_process(self, tmp_path):
        source = ShardSource(write_shards(tmp_path, numbered(3)))
        source.record(0)

        assert pickle.loads(pickle.dumps(source)).record(2)["caption"] == "a dog 2"

    def test_only_a_few_files_stay_open(self, tmp_path):
        pool = FilePool(most=2)
        for number in range(5):
            (tmp_path / str(number)).write_bytes(b"abc")

        contents = [pool.read(tmp_path / str(number % 5), 1, 2) for number in range(10)]

        assert contents == [b"bc"] * 10
        assert len(pool._files) == 2


class TestIndex:
    def test_an_index_is_kept_and_used(self, tmp_path, monkeypatch):
        shards = write_shards(tmp_path, numbered(3))
        ShardSource(shards)
        assert index_path(shards[0]).stat().st_size == 3 * 64

        monkeypatch.setattr(tarfile, "open", None)

        assert ShardSource(shards).record(2)["caption"] == "a dog 2"

    def test_a_changed_shard_gets_a_new_index(self, tmp_path):
        shards = write_shards(tmp_path, numbered(2))
        ShardSource(shards)
        write_shards(tmp_path, [*numbered(1), {**CAPTION, "caption": "x" * 2000}])
        os.utime(index_path(shards[0]), ns=(0, 0))

        assert ShardSource(shards).record(1)["caption"] == "x" * 2000

    def test_an_index_of_another_file_of_that_size_is_named_when_read(self, tmp_path):
        (shard,) = write_shards(tmp_path, numbered(2))
        ShardSource([shard])
        rows = np.fromfile(index_path(shard), dtype="<i8").reshape(-1, 8)
        rows[2, 0] += 7
        index_path(shard).write_bytes(rows.tobytes())

        source = ShardSource([shard])

        assert source.image_data(0) == picture_bytes(seed=0)
        with pytest.raises(BrokenRecordError, match=r"s-000\.tar: sample 2: its index points"):
            source.image_data(1)

    def test_an_index_can_stay_in_memory_where_the_folder_is_read_only(
        self, tmp_path, make_read_only
    ):
        shards = write_shards(tmp_path, numbered(3))
        make_read_only()

        source = ShardSource(shards)

        assert source.record(2)["caption"] == "a dog 2"
        assert source.sizes().tolist() == [[20, 30]] * 3
        assert not index_path(shards[0]).exists()


class TestBadShards:
    def test_an_empty_shard_is_counted_and_skipped(self, tmp_path, caplog):
        shards = [*write_shards(tmp_path, numbered(2)), write_tar(tmp_path / "z.tar", [])]

        with caplog.at_level(logging.WARNING):
            source = ShardSource(shards)

        assert len(source) == 2
        assert "1 of 2 shards hold no sample" in caplog.text
        assert "z.tar" in caplog.text

    def test_a_set_without_samples_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match=r"No sample in 1 shards .*z\.tar"):
            ShardSource([write_tar(tmp_path / "z.tar", [])])

    def test_incomplete_samples_are_counted_and_left_out(self, tmp_path, caplog):
        tar = write_tar(
            tmp_path / "web.tar",
            [("1.json", CAPTION), ("2.jpg", picture_bytes()), ("2.json", CAPTION)],
        )

        with caplog.at_level(logging.WARNING):
            assert len(ShardSource([tar])) == 1
        assert "1 of 2 samples lack a picture" in caplog.text

    def test_a_missing_shard_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone\.tar"):
            ShardSource([tmp_path / "gone.tar"])

    def test_a_shard_that_is_cut_short_is_named(self, tmp_path):
        (shard,) = write_shards(tmp_path, numbered(2))
        os.truncate(shard, 1200)

        with pytest.raises(ValueError, match=r"s-000\.tar is cut short"):
            ShardSource([shard])

    def test_what_is_no_tar_file_is_named(self, tmp_path):
        shard = tmp_path / "s.tar"
        shard.write_bytes(b"<html>" * 300)

        with pytest.raises(ValueError, match=r"s\.tar is no plain tar file"):
            ShardSource([shard])

    def test_a_record_that_is_no_json_is_named(self, tmp_path):
        tar = write_tar(tmp_path / "web.tar", [("1.jpg", picture_bytes()), ("1.json", "{broken")])

        with pytest.raises(BrokenRecordError, match=r"web\.tar: sample 1 is not JSON"):
            ShardSource([tar]).record(0)
