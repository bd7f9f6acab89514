"""Precision and recall of a teacher's boxes against true ones."""

import json

import pytest

from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen
from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.shapes import SplitPlan, write_split
from maskrcnn_benchmark.data.shapes.label_quality import label_quality
from tools import judge_pseudo_labels as tool

EVERYTHING = BoxScreen(0.0, -1.0)
CAPTION = "two scarlet rings and a star"
RINGS, STAR = [4, 17], [22, 28]  # a phrase finder leaves "two" out


def truth(*entries):
    """Annotations (span, x, y, width, height) of one picture."""
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "caption": CAPTION}],
        "annotations": [
            {"image_id": 7, "bbox": list(box), "tokens_positive": [span]} for span, *box in entries
        ],
    }


TRUTH = truth(([0, 17], 10, 10, 20, 20), ([0, 17], 60, 10, 20, 20), (STAR, 10, 60, 20, 20))


@pytest.fixture
def labelled(tmp_path):
    """Source of labels (span, score, x1, y1, x2, y2) of the picture, edges as corners."""

    def make(*entries, name="a.jpg", caption=CAPTION):
        regions = [
            {"bbox": list(box), "tokens_positive": [span], "score": score}
            for span, score, *box in entries
        ]
        line = {"filename": name, "height": 100, "width": 100}
        path = tmp_path / "pseudo.jsonl"
        path.write_text(json.dumps(line | {"grounding": {"caption": caption, "regions": regions}}))
        return JsonLinesSource(path, tmp_path)

    return make


def judge(truth, source, screen=EVERYTHING, about=lambda phrase: True):
    [[quality]] = label_quality(truth, source, [screen], [about])
    return quality


def counts(quality):
    return quality.labels, quality.right, quality.boxes, quality.found


def test_a_label_is_right_on_an_object_of_its_phrase_alone(labelled):
    source = labelled(
        (RINGS, 0.9, 10, 10, 30, 30),  # right
        (RINGS, 0.9, 10, 60, 30, 80),  # the star
        (STAR, 0.9, 40, 60, 60, 80),  # nothing there
    )
    quality = judge(TRUTH, source)
    assert counts(quality) == (3, 1, 3, 1)
    assert quality.precision == quality.recall == pytest.approx(1 / 3)


@pytest.mark.parametrize(("right_edge", "right"), [(30, 1), (20, 1), (19.8, 0)])
def test_half_of_the_union_must_be_shared(labelled, right_edge, right):
    source = labelled((STAR, 0.9, 10, 60, right_edge, 80))
    assert judge(TRUTH, source).right == right


def test_labels_that_are_not_believed_do_not_count(labelled):
    source = labelled((RINGS, 0.4, 10, 10, 30, 30), (STAR, 0.9, 10, 60, 30, 80))
    assert counts(judge(TRUTH, source, BoxScreen(0.5, -1.0))) == (1, 1, 3, 1)


def test_phrases_can_be_counted_by_their_words(labelled):
    source = labelled((RINGS, 0.9, 10, 10, 30, 30), (STAR, 0.9, 40, 60, 60, 80))
    quality = judge(TRUTH, source, about=lambda phrase: "scarlet" in phrase)
    assert counts(quality) == (1, 1, 2, 1)


def test_several_rules_and_several_kinds_of_phrases_are_counted_at_once(labelled):
    source = labelled((RINGS, 0.4, 10, 10, 30, 30), (STAR, 0.9, 10, 60, 30, 80))
    judged = label_quality(
        TRUTH,
        source,
        [BoxScreen(0.0, -1.0), BoxScreen(0.5, -1.0)],
        [lambda phrase: "star" in phrase, lambda phrase: "rings" in phrase],
    )
    assert [[counts(quality) for quality in row] for row in judged] == [
        [(1, 1, 1, 1), (1, 1, 2, 1)],
        [(1, 1, 1, 1), (0, 0, 2, 0)],
    ]


def test_a_picture_without_labels_is_not_found(labelled):
    missing = TRUTH | {"images": [*TRUTH["images"], {"id": 8, "file_name": "b", "caption": "x y"}]}
    missing["annotations"] = [
        *TRUTH["annotations"],
        {"image_id": 8, "bbox": [0, 0, 9, 9], "tokens_positive": [[0, 1]]},
    ]
    source = labelled((STAR, 0.9, 10, 60, 30, 80))
    assert counts(judge(missing, source)) == (1, 1, 4, 1)


@pytest.mark.parametrize("wrong", [{"name": "c.jpg"}, {"caption": "three rings, and some stars"}])
def test_labels_of_other_captions_are_refused(labelled, wrong):
    source = labelled((RINGS, 0.9, 10, 10, 30, 30), **wrong)
    with pytest.raises(ValueError, match="the annotations know no"):
        judge(TRUTH, source)


def test_the_tool_finds_true_boxes_of_a_world_right(tmp_path, capsys):
    plan = SplitPlan("web", 4, held_out=False, format="grounding", say={"red": "scarlet"})
    path = write_split(plan, tmp_path, 1)
    content = json.loads(path.read_text())
    lines = []
    for image in content["images"]:
        regions = []
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                x, y, width, height = annotation["bbox"]
                box = [x, y, x + width, y + height]
                spans = annotation["tokens_positive"]
                regions.append({"bbox": box, "tokens_positive": spans, "score": 0.7})
        line = {"filename": image["file_name"], "height": 192, "width": 192}
        lines.append(line | {"grounding": {"caption": image["caption"], "regions": regions}})
    labels = tmp_path / "pseudo.jsonl"
    labels.write_text("\n".join(json.dumps(line) for line in lines))

    options = ["--conf", "0.5", "0.8", "--words", "scarlet"]
    assert tool.main(["--truth", str(path), "--labels", str(labels), *options]) == 0

    boxes = len(content["annotations"])
    scarlet = sum("scarlet" in a["kind"] for a in content["annotations"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows[0] == f"| 0.5 | -1 | all phrases | {boxes} | 100.0 | 100.0 |"
    assert rows[1].startswith("| 0.5 | -1 | with scarlet | ")
    assert int(rows[1].split("|")[4]) <= scarlet
    assert rows[1].endswith(" | 100.0 | 100.0 |")
    assert rows[2] == "| 0.8 | -1 | all phrases | 0 | 0.0 | 0.0 |"


def test_the_tool_names_a_file_that_is_not_there(tmp_path, capsys):
    arguments = ["--truth", str(tmp_path / "no.json"), "--labels", str(tmp_path / "no.jsonl")]
    assert tool.main(arguments) == 1
    assert "no.json" in capsys.readouterr().err
