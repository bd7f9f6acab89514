"""Captions with boxes that a teacher found: filters, packing, spans that stay with their boxes."""

import json
import logging

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.data.datasets import CaptionTSV
from maskrcnn_benchmark.data.datasets.caption_dataset import CaptionOptions
from maskrcnn_benchmark.data.datasets.caption_packing import CaptionPacking
from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen, read_record
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.data.sample_key import SampleKey
from maskrcnn_benchmark.data.transforms import Compose, ToTensor
from maskrcnn_benchmark.grounding import RandomSource
from tests.data.test_tsv import encoded_picture, write_rows

PLAIN = Compose([ToTensor()])
SIZE = {"img_w": 30, "img_h": 20}
V1 = {
    **SIZE,
    "caption": "a dog and a cat",
    "bboxes": [[0, 0, 9, 9], [40, 40, 50, 50], [10, 0, 20, 9]],
    "scores": [0.9, 0.8, 0.3],
    "tokens_positive": [[[2, 5]], [[8, 9]], [[12, 15]]],
}
V2 = {
    **SIZE,
    "caption": "a dog and a cat",
    "bboxes": [[[0, 0, 9, 9], [1, 0, 9, 9]], [[10, 0, 20, 9]]],
    "scores": [[0.9, 0.6], [0.7]],
    "tokens_positive": [[[2, 5]], [[10, 11], [12, 15]]],
}


def write_captions(folder, records, **files):
    names = [str(i).encode() for i in range(len(records))]
    write_rows(folder / "images.tsv", [[name, encoded_picture(30, 20)] for name in names])
    labels = [json.dumps(record).encode() for record in records]
    write_rows(folder / "captions.tsv", [list(row) for row in zip(names, labels)])
    content = {"img": "images.tsv", "label": "captions.tsv", **files}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def captions(path, tokenizer, skip_broken=False, **options):
    targets = GroundingTargetBuilder(tokenizer, 256, "captions")
    return CaptionTSV(
        path, PLAIN, targets=targets, options=CaptionOptions(**options), skip_broken=skip_broken
    )


def words(target):
    caption = target.get_field("caption")
    return [[caption[b:e] for b, e in spans] for spans in target.get_field("tokens_positive")]


class TestRecords:
    def test_a_box_outside_the_picture_takes_its_spans_with_it(self, tmp_path, bert_tokenizer):
        _, target, index = captions(write_captions(tmp_path, [V1]), bert_tokenizer)[0]

        assert target.bbox.tolist() == [[0, 0, 9, 9], [10, 0, 20, 9]]
        assert words(target) == [["dog"], ["cat"]]
        assert target.get_field("labels").tolist() == [1, 1]
        assert index == 0

    def test_every_box_of_an_entity_has_all_its_spans(self, tmp_path, bert_tokenizer):
        path = write_captions(tmp_path, [V2])

        _, target, _ = captions(path, bert_tokenizer, version="v2")[0]

        assert words(target) == [["dog"], ["dog"], ["a", "cat"]]

    def test_boxes_are_scaled_to_the_picture_that_is_stored(self, tmp_path, bert_tokenizer):
        record = {**V1, "img_w": 60, "img_h": 40}

        _, target, _ = captions(write_captions(tmp_path, [record]), bert_tokenizer)[0]

        assert target.bbox[0].tolist() == [0, 0, 4.5, 4.5]
        assert words(target) == [["dog"], ["cat"]]

    def test_boxes_below_the_confidence_go(self, tmp_path, bert_tokenizer):
        path = write_captions(tmp_path, [V1])

        _, target, _ = captions(path, bert_tokenizer, screen=BoxScreen(0.5, -1.0))[0]

        assert words(target) == [["dog"]]

    def test_of_boxes_that_overlap_the_best_stays(self):
        record = read_record(V2, "v2", "here")

        kept = BoxScreen(0.0, 0.5)(record)

        assert kept.scores.tolist() == pytest.approx([0.9, 0.7])
        assert kept.spans == [[[2, 5]], [[10, 11], [12, 15]]]

    def test_a_record_with_too_few_boxes_gives_way_to_another(self, tmp_path, bert_tokenizer):
        empty = {**SIZE, "caption": "nothing here", "bboxes": [], "tokens_positive": []}
        dataset = captions(write_captions(tmp_path, [empty, V1]), bert_tokenizer)

        first = dataset[SampleKey(0, 5)]
        again = dataset[SampleKey(0, 5)]

        assert first[2] == again[2] == 1

    def test_a_set_without_usable_records_is_an_error_and_no_endless_search(
        self, tmp_path, bert_tokenizer
    ):
        dataset = captions(
            write_captions(tmp_path, [V1]), bert_tokenizer, screen=BoxScreen(0.99, -1.0)
        )

        with pytest.raises(ValueError, match="CAPTION_CONF"):
            dataset[0]

    def test_captions_can_be_read_without_boxes(self, tmp_path, bert_tokenizer):
        path = write_captions(tmp_path, [{**SIZE, "caption": "a dog"}])

        _, target, _ = captions(path, bert_tokenizer, without_boxes=True)[0]

        assert len(target) == 0
        assert target.get_field("caption") == "a dog"

    def test_labels_may_name_their_picture(self, tmp_path, bert_tokenizer):
        (tmp_path / "ids.json").write_text(json.dumps({"photo": 1}))
        records = [{**V1, "img_id": "photo"}, {**V1, "img_id": "gone"}]
        path = write_captions(tmp_path, records, imageid2idx="ids.json")
        dataset = captions(path, bert_tokenizer)

        assert len(dataset[0][1]) == 2
        assert dataset.sizes().tolist() == [[20, 30], [20, 30]]
        with pytest.raises(BrokenRecordError, match="'gone'"):
            dataset[1]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"caption": None}, "no caption"),
            ({"tokens_positive": [[[2, 5]]]}, "do not correspond"),
            ({"tokens_positive": [[[2, 99]]] * 3}, r"span \[2, 99\] does not lie"),
            ({"bboxes": [[0, 0, 9]] * 3}, "malformed"),
            ({"bboxes": "none"}, "must be a list"),
            ({"img_w": "wide"}, "malformed"),
            ({"scores": [0.5]}, "do not correspond"),
        ],
    )
    def test_malformed_records_are_named_and_skipped_on_request(
        self, tmp_path, bert_tokenizer, caplog, change, message
    ):
        path = write_captions(tmp_path, [{**V1, **change}, V1])

        with pytest.raises(BrokenRecordError, match=message) as error:
            captions(path, bert_tokenizer)[0]
        assert "row 1" in str(error.value)
        with caplog.at_level(logging.WARNING):
            assert captions(path, bert_tokenizer, skip_broken=True)[0][2] == 1
        assert "row 1" in caplog.text


class TestPacking:
    def test_spans_move_with_the_caption_and_only_it_is_masked(self, tmp_path, bert_tokenizer):
        records = [V1, *({**V1, "caption": f"some other text {i}"} for i in range(5))]
        dataset = captions(
            write_captions(tmp_path, records),
            bert_tokenizer,
            packing=CaptionPacking(most=3, max_tokens=256),
            mask_own_caption_only=True,
        )
        starts = set()

        for seed in range(10):
            _, target, _ = dataset[SampleKey(0, seed)]
            starts.add(target.get_field("caption").index("a dog and a cat"))
            assert words(target) == [["dog"], ["cat"]]
            assert target.get_field("greenlight_map").sum() == 5
        assert len(starts) > 1

    def test_a_foreign_caption_has_no_boxes(self, tmp_path, bert_tokenizer):
        records = [V1, {**V1, "caption": "a completely different thing"}]
        dataset = captions(
            write_captions(tmp_path, records), bert_tokenizer, probability_foreign=1.0
        )

        targets = [dataset[SampleKey(0, seed)][1] for seed in range(4)]

        assert all(len(target) == 0 for target in targets)

    def test_captions_are_sentences_side_by_side(self):
        packed = CaptionPacking(most=1).pack("a dog", ["It rains."], len, RandomSource(0))

        assert packed.caption in ("a dog. It rains. ", "It rains. a dog. ")
        assert packed.caption[packed.start :].startswith("a dog")

    def test_chances_decide_how_many_are_packed(self):
        packing = CaptionPacking(most=4, probability_none=0.5, probability_most=0.5)

        numbers = [packing.draw_number(RandomSource(seed)) for seed in range(400)]

        assert set(numbers) == {0, 1, 2, 3, 4}
        assert 0.45 < numbers.count(0) / 400 < 0.7
        assert {CaptionPacking(most=4).draw_number(RandomSource(s)) for s in range(9)} == {4}

    @settings(deadline=None, max_examples=40)
    @given(
        foreign=st.lists(st.integers(1, 30).map(lambda n: " ".join(["cat"] * n)), max_size=12),
        own=st.integers(1, 40),
        limit=st.integers(50, 90),
        seed=st.integers(0, 99),
    )
    def test_the_own_caption_is_never_cut_off(self, bert_tokenizer, foreign, own, limit, seed):
        def count(text):
            return len(bert_tokenizer(text)["input_ids"])

        caption = " ".join(["dog"] * own)
        packed = CaptionPacking(most=12, max_tokens=limit).pack(
            caption, foreign, count, RandomSource(seed)
        )

        assert packed.caption[packed.start :].startswith(caption)
        assert count(packed.caption) <= limit
