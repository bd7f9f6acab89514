"""Pseudo labels: what a teacher finds becomes data that the datasets read."""

import json

import pytest
import torch

from maskrcnn_benchmark.config import cfg as defaults
from maskrcnn_benchmark.data.conversion import open_set
from maskrcnn_benchmark.data.datasets.caption_dataset import CaptionDataset, CaptionOptions
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.transforms import Compose, ToTensor
from maskrcnn_benchmark.engine.pseudo_label_parts import LabelParts, join_parts, label_parts
from maskrcnn_benchmark.engine.pseudo_label_pictures import LabelPictures
from maskrcnn_benchmark.engine.pseudo_labels import LabelRules, PseudoLabeller, count_labels
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.data.containers import picture_bytes, write_json_lines, write_tar
from tests.data.test_tsv import encoded_picture, write_rows

CAPTION = "a red star and a blue ring"
RULES = LabelRules(confidence=0.5, nms_overlap=-1.0, min_boxes=1)


class Teacher:
    """Finds for phrase k of every caption a box at (10 k, 4) and a weak one beside it.

    Boxes are in pixels of the resized picture, which is twice as large as the stored one.
    """

    device = torch.device("cpu")

    def __init__(self, tokenizer, scores=(0.9, 0.3)):
        self.tokenizer = tokenizer
        self.scores = scores
        self.captions = []

    def encode_images(self, images):
        return [images.tensors]

    def encode_text(self, captions):
        self.captions += captions
        return captions

    def detect(self, images, features, text, positive_map):
        boxes, scores, labels = [], [], []
        for label in positive_map:
            for number, score in enumerate(self.scores):
                left = 20.0 * label + number
                boxes.append([left, 8.0, left + 16, 30.0])
                scores.append(score)
                labels.append(label)
        height, width = images.image_sizes[0]
        found = BoxList(torch.tensor(boxes), (width, height), mode="xyxy")
        found.add_field("scores", torch.tensor(scores))
        found.add_field("labels", torch.tensor(labels))
        return [found]


@pytest.fixture
def config():
    cfg = defaults.clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 40, 200
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


@pytest.fixture
def teacher(bert_vocab_dir):
    from transformers import AutoTokenizer

    return Teacher(AutoTokenizer.from_pretrained(bert_vocab_dir))


def pairs(folder, captions):
    """JSON lines of captions with pictures of 60 x 20; a mapping is a line as it stands."""
    lines = [{"caption": c} if isinstance(c, str) else c for c in captions]
    return write_json_lines(folder, lines, size=(60, 20))


def opened_pairs(folder, captions):
    return open_set(str(pairs(folder, captions)), [folder / "images"])


def labeller(config, teacher, source, rules=RULES, batch_size=2):
    return PseudoLabeller(config, teacher, source, rules, batch_size)


class TestLabels:
    def test_phrases_get_the_boxes_of_the_teacher_in_stored_pixels(self, tmp_path, config, teacher):
        opened = opened_pairs(tmp_path, [CAPTION])

        (label,) = labeller(config, teacher, opened.source).label([0])

        assert label.record == {
            "version": "v2",
            "img_w": 60,
            "img_h": 20,
            "caption": CAPTION,
            "bboxes": [[[10.0, 4.0, 18.0, 15.0]], [[20.0, 4.0, 28.0, 15.0]]],
            "scores": [[0.9], [0.9]],
            "tokens_positive": [[[0, 10]], [[15, 26]]],
        }
        assert (label.num_phrases, label.num_boxes) == (2, 2)
        assert teacher.captions == [CAPTION]

    def test_a_low_confidence_keeps_more_boxes_best_first(self, tmp_path, config, teacher):
        opened = opened_pairs(tmp_path, [CAPTION])
        rules = LabelRules(0.1, -1.0, 1)

        (label,) = labeller(config, teacher, opened.source, rules).label([0])

        assert label.record["scores"] == [[0.9, 0.3], [0.9, 0.3]]

    def test_overlapping_boxes_go_where_that_is_asked_for(self, tmp_path, config, teacher):
        opened = opened_pairs(tmp_path, [CAPTION])
        rules = LabelRules(0.1, 0.5, 1)

        (label,) = labeller(config, teacher, opened.source, rules).label([0])

        assert label.record["scores"] == [[0.9], [0.9]]

    def test_pairs_with_too_few_boxes_are_left_out(self, tmp_path, config, teacher):
        opened = opened_pairs(tmp_path, [CAPTION, "a star"])
        rules = LabelRules(0.5, -1.0, 2)

        labels = list(labeller(config, teacher, opened.source, rules).label([0, 1]))

        assert [label.outcome for label in labels] == ["labelled", "too few boxes"]

    def test_what_cannot_be_labelled_is_named_and_counted(self, tmp_path, config, teacher):
        captions = ["and of the", "dog " * 300, {"url": "x"}, CAPTION, "a dog"]
        opened = opened_pairs(tmp_path, captions)
        (tmp_path / "images/p4.jpg").write_text("a web page")

        labels = list(labeller(config, teacher, opened.source).label(range(5)))

        outcomes = {label.index: label.outcome for label in labels}
        assert outcomes == {
            0: "no noun phrase",
            1: "caption too long",
            2: "broken record",
            3: "labelled",
            4: "broken picture",
        }
        assert all("row" in label.message for label in labels if label.index != 3)
        assert count_labels(labels)["broken picture"] == 1
        assert count_labels(labels)["boxes"] == 2

    def test_a_missing_picture_stops_the_run(self, tmp_path, config, teacher):
        opened = opened_pairs(tmp_path, [CAPTION])
        (tmp_path / "images/p0.jpg").unlink()

        with pytest.raises(FileNotFoundError, match=r"p0\.jpg"):
            list(labeller(config, teacher, opened.source).label([0]))

    @pytest.mark.parametrize("backend", ["pil", "torchvision"])
    def test_workers_and_decoders_do_not_matter(self, tmp_path, config, teacher, backend):
        opened = opened_pairs(tmp_path, [CAPTION, "a dog", "two cats"])
        expected = list(labeller(config, teacher, opened.source).label(range(3)))
        config.DATALOADER.NUM_WORKERS = 2
        config.INPUT.IMAGE_BACKEND = backend

        assert list(labeller(config, teacher, opened.source).label(range(3))) == expected

    def test_an_unknown_precision_is_refused(self, tmp_path, config, teacher):
        config.TEST.PRECISION = "int8"

        with pytest.raises(ValueError, match=r"TEST\.PRECISION"):
            labeller(config, teacher, opened_pairs(tmp_path, [CAPTION]).source)


class TestParts:
    def test_an_interrupted_run_goes_on_with_the_missing_parts(self, tmp_path, config, teacher):
        captions = [f"a dog and {n} cats" for n in range(7)]
        opened = opened_pairs(tmp_path / "pairs", captions)
        whole = LabelParts(tmp_path / "whole", 7, 2, {"a": 1})
        label_parts(labeller(config, teacher, opened.source), whole, whole.missing())
        parts = LabelParts(tmp_path / "parts", 7, 2, {"a": 1})
        seen = []

        finished = label_parts(
            labeller(config, teacher, opened.source, batch_size=1),
            parts,
            parts.missing(),
            on_label=seen.append,
            should_stop=lambda: len(seen) >= 3,
        )

        assert not finished
        assert parts.missing() == [1, 2, 3]
        again = LabelParts(tmp_path / "parts", 7, 2, {"a": 1})
        assert label_parts(labeller(config, teacher, opened.source), again, again.missing())
        assert list(again.read()) == list(whole.read())
        assert again.counts() == whole.counts()
        assert again.counts()["labelled"] == 7

    def test_shares_of_processes_together_are_the_whole(self, tmp_path, config, teacher):
        opened = opened_pairs(tmp_path / "pairs", [f"{n} dogs" for n in range(5)])
        parts = LabelParts(tmp_path / "parts", 5, 1, {})

        for share in (0, 1):
            own = [part for part in parts.missing() if part % 2 == share]
            label_parts(labeller(config, teacher, opened.source), parts, own)

        assert [index for index, _ in parts.read()] == [0, 1, 2, 3, 4]

    def test_parts_of_another_run_are_refused(self, tmp_path):
        LabelParts(tmp_path, 5, 2, {"confidence": 0.5})

        with pytest.raises(ValueError, match=r"another run \(confidence: 0.5 / 0.7\)"):
            LabelParts(tmp_path, 5, 2, {"confidence": 0.7})

    @pytest.mark.parametrize("content", [b'{"index": 0', b'{"index": 0, "record": {}}\n', b""])
    def test_a_damaged_part_is_named(self, tmp_path, content):
        parts = LabelParts(tmp_path, 1, 1, {})
        parts.path(0).write_bytes(content)

        with pytest.raises(ValueError, match=r"part-000000\.jsonl is .*delete it and run again"):
            list(parts.read())


class TestSets:
    """Labels joined to sets of every container, read back by the dataset that trains on them."""

    @pytest.fixture
    def joined(self, tmp_path, config, teacher):
        def join(opened, target, **options):
            parts = LabelParts(tmp_path / "out/parts", len(opened.source), 2, {})
            label_parts(labeller(config, teacher, opened.source), parts, parts.missing())
            return join_parts(opened, parts, target, tmp_path / "out", "pseudo", **options)

        return join

    def trained_on(self, opened, teacher, **options):
        return CaptionDataset(
            "pseudo",
            opened.source,
            Compose([ToTensor()]),
            targets=GroundingTargetBuilder(teacher.tokenizer, 256, "pseudo"),
            options=CaptionOptions(**options),
        )

    def words(self, dataset, index):
        _, target, _ = dataset[index]
        caption = target.get_field("caption")
        spans = target.get_field("tokens_positive")
        return [caption[b:e] for ((b, e),) in spans], target.bbox.tolist()

    @pytest.mark.parametrize(
        ("target", "file"),
        [("tsv", "pseudo.yaml"), ("shards", "pseudo-000000.tar"), ("json-lines", "pseudo.jsonl")],
    )
    def test_json_lines_become_every_container(self, tmp_path, joined, teacher, target, file):
        opened = opened_pairs(tmp_path / "pairs", [CAPTION, "of the", "a dog"])

        result = joined(opened, target, image_folder=tmp_path / "pairs/images")

        labelled = open_set(str(tmp_path / "out" / file), [tmp_path / "pairs/images"])
        dataset = self.trained_on(labelled, teacher)
        assert len(dataset) == 2
        assert self.words(dataset, 0) == (
            ["a red star", "a blue ring"],
            [[10, 4, 18, 15], [20, 4, 28, 15]],
        )
        assert self.words(dataset, 1)[0] == ["a dog"]
        assert result.written[0] == tmp_path / "out" / file
        assert result.entry

    def test_tsv_pairs_keep_their_images_and_get_labels_beside(self, tmp_path, joined, teacher):
        folder = tmp_path / "pairs"
        folder.mkdir()
        captions = [{"caption": CAPTION}, {"caption": "of the"}, {"caption": "a dog"}]
        names = [b"a", b"b", b"c"]
        write_rows(folder / "images.tsv", [[n, encoded_picture(60, 20)] for n in names])
        labels = [json.dumps(caption).encode() for caption in captions]
        write_rows(folder / "web.label.tsv", [list(row) for row in zip(names, labels)])
        (folder / "web.yaml").write_text("img: images.tsv\nlabel: web.label.tsv\n")

        result = joined(open_set(str(folder / "web.yaml")), "tsv")

        labelled = open_set(str(result.written[0]))
        assert labelled.source.images.path.resolve() == (folder / "images.tsv").resolve()
        assert not list((tmp_path / "out").glob("*images*"))
        assert labelled.source.sizes().tolist() == [[20, 60], [20, 60]]
        dataset = self.trained_on(labelled, teacher)
        assert [self.words(dataset, i)[0] for i in range(2)] == [
            ["a red star", "a blue ring"],
            ["a dog"],
        ]

    def test_shards_of_pictures_with_texts_become_shards(self, tmp_path, joined, teacher):
        members = [
            *(("1.jpg", picture_bytes(60, 20)), ("1.txt", "of the")),
            *(("2.jpg", picture_bytes(60, 20)), ("2.txt", CAPTION)),
        ]
        tar = write_tar(tmp_path / "web.tar", members)

        joined(open_set(str(tar)), "shards")

        labelled = open_set(str(tmp_path / "out/pseudo-*.tar"))
        assert len(labelled.source) == 1
        assert labelled.source.key(0) == "2"
        assert len(self.trained_on(labelled, teacher)[0][1]) == 2

    def test_pictures_inside_shards_cannot_be_named_by_json_lines(self, tmp_path, joined):
        tar = write_tar(tmp_path / "w.tar", [("2.jpg", picture_bytes(60, 20)), ("2.txt", "a dog")])

        with pytest.raises(ValueError, match="are no files; choose tsv or shards"):
            joined(open_set(str(tar)), "json-lines")


def test_sample_pictures_show_the_labels(tmp_path, config, teacher):
    opened = opened_pairs(tmp_path, [CAPTION, "of the", "a dog", "a cat"])
    pictures = LabelPictures(opened.source, tmp_path / "shown", most=2)

    for label in labeller(config, teacher, opened.source).label(range(4)):
        pictures.offer(label)

    assert [path.name for path in pictures.written] == ["00000000.png", "00000002.png"]
    assert all(path.stat().st_size > 1000 for path in pictures.written)
