"""JSON lines as a source of captions with boxes and of labelled boxes."""

import json
import pickle

import pytest

from maskrcnn_benchmark.data.datasets.caption_dataset import CaptionDataset, CaptionOptions
from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen
from maskrcnn_benchmark.data.datasets.detection_records import DetectionRecords
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.image_files import BrokenRecordError
from maskrcnn_benchmark.data.transforms import Compose, ToTensor
from tests.data.containers import DETECTION, GROUNDING, write_json_lines

PLAIN = Compose([ToTensor()])
LABELS = {"dog": 1, "cat": 2, "__background__": 0}


def captions(path, tokenizer, **options):
    return CaptionDataset(
        "lines",
        JsonLinesSource(path, path.parent / "images"),
        PLAIN,
        targets=GroundingTargetBuilder(tokenizer, 256, "lines"),
        options=CaptionOptions(**options),
    )


def words(target):
    caption = target.get_field("caption")
    return [[caption[b:e] for b, e in spans] for spans in target.get_field("tokens_positive")]


class TestGrounding:
    def test_regions_become_boxes_with_words(self, tmp_path, bert_tokenizer):
        path = write_json_lines(tmp_path, [{"grounding": GROUNDING}])

        image, target, _ = captions(path, bert_tokenizer)[0]

        assert image.shape == (3, 20, 30)
        assert target.bbox.tolist() == [[0, 0, 9, 9], [10, 0, 20, 9], [12, 0, 20, 8]]
        assert words(target) == [["dog"], ["cat"], ["cat"]]

    def test_the_filters_of_caption_data_hold(self, tmp_path, bert_tokenizer):
        path = write_json_lines(tmp_path, [{"grounding": GROUNDING}])

        _, target, _ = captions(path, bert_tokenizer, screen=BoxScreen(0.5, -1.0))[0]

        assert words(target) == [["dog"], ["cat"]]

    def test_the_format_version_of_other_sets_does_not_matter(self, tmp_path, bert_tokenizer):
        path = write_json_lines(tmp_path, [{"grounding": GROUNDING}])

        assert len(captions(path, bert_tokenizer, version="v2")[0][1]) == 3

    def test_a_phrase_without_spans_is_looked_for_in_the_caption(self, tmp_path, bert_tokenizer):
        content = {
            "caption": "A Dog sees a dog",
            "regions": [{"bbox": [0, 0, 9, 9], "phrase": "a dog"}],
        }
        path = write_json_lines(tmp_path, [{"grounding": content}])

        assert words(captions(path, bert_tokenizer)[0][1]) == [["A Dog"]]

    @pytest.mark.parametrize(
        ("region", "message"),
        [
            ({"bbox": [0, 0, 9], "phrase": "a dog"}, "bbox must be four finite numbers"),
            ({"bbox": [0, 0, 9, float("nan")], "phrase": "a dog"}, "bbox must be four finite"),
            ({"bbox": [0, 0, 9, 9], "phrase": "a horse"}, "'a horse' does not occur"),
            ({"bbox": [0, 0, 9, 9], "tokens_positive": [[0, 99]]}, r"span \[0, 99\]"),
            ({"bbox": [0, 0, 9, 9], "phrase": "dog", "score": [1, 1]}, "1 boxes and 2 scores"),
            ("a dog", "a list of objects"),
        ],
    )
    def test_malformed_regions_are_named(self, tmp_path, bert_tokenizer, region, message):
        content = {"caption": "a dog", "regions": [region]}
        path = write_json_lines(tmp_path, [{"grounding": content}])

        with pytest.raises(BrokenRecordError, match=message) as error:
            captions(path, bert_tokenizer)[0]
        assert "data.jsonl: row 1" in str(error.value)


class TestDetection:
    def test_instances_become_labelled_boxes(self, tmp_path):
        path = write_json_lines(tmp_path, [{"detection": DETECTION}])
        source = JsonLinesSource(path, tmp_path / "images", LABELS)

        _, target, _ = DetectionRecords("lines", source, LABELS, PLAIN)[0]

        assert target.bbox.tolist() == [[1, 2, 10, 12], [5, 5, 24, 18]]
        assert target.get_field("labels").tolist() == [1, 2]

    def test_a_label_outside_the_map_is_named(self, tmp_path):
        content = {"instances": [{"bbox": [1, 2, 11, 13], "label": 7}]}
        path = write_json_lines(tmp_path, [{"detection": content}])
        source = JsonLinesSource(path, tmp_path / "images", LABELS)

        with pytest.raises(BrokenRecordError, match="row 1: label 7 is not in the label map"):
            source.record(0)


class TestLines:
    def test_a_bare_caption_is_a_record_without_boxes(self, tmp_path, bert_tokenizer):
        path = write_json_lines(tmp_path, [{"caption": "a dog"}])

        _, target, _ = captions(path, bert_tokenizer, without_boxes=True)[0]

        assert target.get_field("caption") == "a dog"

    def test_sizes_come_from_the_lines_and_are_kept(self, tmp_path):
        path = write_json_lines(tmp_path, [{"caption": "a"}, {"caption": "b", "height": 99}])

        sizes = JsonLinesSource(path, tmp_path / "images").sizes()

        assert sizes.tolist() == [[20, 30], [99, 30]]
        assert path.with_suffix(".sizes.npy").is_file()

    def test_lines_without_size_are_counted_and_stand_as_squares(self, tmp_path, caplog):
        path = write_json_lines(tmp_path, [{"caption": "a"}, "{broken", '{"filename": "x.jpg"}'])

        sizes = JsonLinesSource(path, tmp_path / "images").sizes()

        assert sizes.tolist() == [[20, 30], [1, 1], [1, 1]]
        assert "2 of 3 rows" in caplog.text
        assert "row 2 is not JSON" in caplog.text

    def test_a_file_without_any_size_is_refused(self, tmp_path):
        path = write_json_lines(tmp_path, ['{"filename": "x.jpg", "caption": "a"}'])

        with pytest.raises(ValueError, match=r"No row of .* gives a size"):
            JsonLinesSource(path, tmp_path / "images").sizes()

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{broken", "row 1 is not JSON"),
            ("[1]", "row 1 is no JSON object"),
            ('{"filename": "p0.jpg"}', "neither 'grounding' nor 'detection' nor 'caption'"),
        ],
    )
    def test_broken_lines_are_named(self, tmp_path, line, message):
        path = write_json_lines(tmp_path, [line])

        with pytest.raises(BrokenRecordError, match=message):
            JsonLinesSource(path, tmp_path / "images").record(0)

    def test_a_missing_picture_is_named_with_its_line(self, tmp_path):
        path = write_json_lines(tmp_path, [{"caption": "a", "filename": "gone.jpg"}])

        with pytest.raises(FileNotFoundError, match=r"gone\.jpg of .*row 1"):
            JsonLinesSource(path, tmp_path / "images").image_data(0)

    def test_a_picture_that_is_none_is_named_and_skipped_on_request(
        self, tmp_path, bert_tokenizer, caplog
    ):
        path = write_json_lines(tmp_path, [{"grounding": GROUNDING}] * 2)
        (tmp_path / "images" / "p0.jpg").write_text("a web page")
        dataset = captions(path, bert_tokenizer)
        with pytest.raises(OSError, match=r"row 1 cannot be decoded.*p0\.jpg"):
            dataset[0]

        dataset.skip_broken = True

        assert dataset[0][2] == 1
        assert "p0.jpg" in caplog.text

    def test_a_source_can_be_sent_to_another_process(self, tmp_path):
        path = write_json_lines(tmp_path, [{"caption": "a"}, {"caption": "b"}])
        source = JsonLinesSource(path, tmp_path / "images")
        source.record(0)

        assert pickle.loads(pickle.dumps(source)).record(1)["caption"] == "b"

    def test_fields_of_caption_records_are_read_as_they_stand(self, tmp_path, bert_tokenizer):
        line = {
            "caption": "a dog",
            "version": "v2",
            "bboxes": [[[0, 0, 9, 9], [1, 1, 9, 9]]],
            "scores": [[0.9, 0.4]],
            "tokens_positive": [[[2, 5]]],
        }
        path = write_json_lines(tmp_path, [line])

        _, target, _ = captions(path, bert_tokenizer)[0]

        assert target.bbox.tolist() == [[0, 0, 9, 9], [1, 1, 9, 9]]
        assert json.loads(path.read_text())["version"] == "v2"
