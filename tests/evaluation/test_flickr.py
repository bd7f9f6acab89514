"""Flickr30k Entities: parsing, recall with and without merged boxes, what is refused."""

import json

import numpy as np
import pytest

from maskrcnn_benchmark.evaluation.base import EvaluationError
from maskrcnn_benchmark.evaluation.flickr import (
    CaptionItem,
    FlickrEvaluator,
    phrase_recall,
    read_predictions,
)
from maskrcnn_benchmark.evaluation.flickr_entities import (
    load_entities,
    parse_sentence,
    split_of,
)
from maskrcnn_benchmark.evaluation.ground_truth import AnnotationError
from tests.evaluation.box_sets import prediction

SIZE = (200, 160)


@pytest.fixture(scope="session")
def recorded(golden_dir):
    """A hand-made set with predictions, and what the original evaluator says of them."""
    return json.loads((golden_dir / "glip" / "units" / "flickr_recall.json").read_text())


@pytest.fixture
def entities(recorded, tmp_path):
    """That set as a folder of the release."""
    for name in ("Annotations", "Sentences"):
        (tmp_path / name).mkdir()
    (tmp_path / "test.txt").write_text("\n".join(recorded["split"]) + "\n")
    for image_id in recorded["split"]:
        xml = recorded["annotation_xml"][image_id]
        (tmp_path / "Annotations" / f"{image_id}.xml").write_text(xml)
        lines = "\n".join(recorded["sentences"][image_id])
        (tmp_path / "Sentences" / f"{image_id}.txt").write_text(lines + "\n")
    return tmp_path


def caption_items(predictions, num_phrases=None):
    """One caption entry per prediction, numbered from 10."""
    return {
        number: CaptionItem(entry["image_id"], entry["sentence_id"], SIZE, num_phrases)
        for number, entry in enumerate(predictions, start=10)
    }


def as_box_list(entry):
    """Ranked lists of boxes as one box list with phrase numbers as labels."""
    return prediction(
        *(
            (number, 0.9 - 0.01 * rank, box)
            for number, boxes in enumerate(entry["boxes"], start=1)
            for rank, box in enumerate(boxes[:-1])
        ),
        size=SIZE,
    )


@pytest.mark.parametrize("run", [0, 1])
def test_recall_of_the_hand_made_set_equals_the_original(recorded, entities, run):
    run = recorded["runs"][run]
    sentences = load_entities(entities, "test", merge_boxes=run["merge_boxes"])

    scores = phrase_recall(sentences, read_predictions(run["predictions"]))

    assert scores.metrics == pytest.approx(run["scores"], abs=1e-15)


@pytest.mark.parametrize("run", [0, 1])
def test_box_lists_of_a_model_give_the_same_recall(recorded, entities, run, tmp_path):
    run = recorded["runs"][run]
    evaluator = FlickrEvaluator.from_folder(
        entities,
        "test",
        caption_items(run["predictions"]),
        merge_boxes=run["merge_boxes"],
        output_folder=tmp_path / "out",
    )
    evaluator.update(
        {number: as_box_list(entry) for number, entry in enumerate(run["predictions"], start=10)}
    )

    result = evaluator.summarize()

    assert result["metrics"] == pytest.approx(run["scores"], abs=1e-15)
    assert (result["primary"], result["value"]) == ("Recall@1_all", run["scores"]["Recall@1_all"])
    lines = (tmp_path / "out" / "bbox.csv").read_text().splitlines()
    assert lines[0] == "metric, avg "
    assert lines[1] == f"Recall@1_all, {run['scores']['Recall@1_all']} "
    written = json.loads((tmp_path / "out" / "flickr_results.json").read_text())
    assert phrase_recall(evaluator.sentences, read_predictions(written)).metrics == pytest.approx(
        run["scores"], abs=1e-15
    )


@pytest.mark.parametrize("stem", ["test_seed0", "val_seed1"])
@pytest.mark.parametrize("merge_boxes", [False, True])
def test_recorded_numbers_on_real_annotations_are_reproduced(shared_dir, stem, merge_boxes):
    folder = shared_dir / "data" / "flickr30k_entities"
    expected = json.loads((folder / f"expected_{stem}.json").read_text())
    predictions = read_predictions(json.loads((folder / f"predictions_{stem}.json").read_text()))

    sentences = load_entities(folder, stem.split("_")[0], merge_boxes=merge_boxes)
    metrics = phrase_recall(sentences, predictions).metrics

    assert len(sentences) == expected["counts"]["sentences"]
    protocol = expected["merged_boxes" if merge_boxes else "any_box"]
    for ours, theirs in (
        ("Recall@1", "R@1"),
        ("Recall@5", "R@5"),
        ("Recall@10", "R@10"),
        ("Upper_bound", "upper_bound"),
    ):
        for group, value in protocol[theirs].items():
            assert metrics[f"{ours}_{group}"] == value


def test_one_of_two_boxes_is_a_hit_unless_they_are_merged(entities):
    # "two dogs": boxes 70..120 and 130..180, both 20..90.
    one_dog = [[[70.0, 20.0, 120.0, 90.0]]]

    def recall(merge_boxes):
        sentences = load_entities(entities, "test", merge_boxes=merge_boxes)
        phrases = {(101, 0): [sentences[101, 0][1]]}
        return phrase_recall(phrases, {(101, 0): one_dog}).metrics["Recall@1_animals"]

    assert recall(merge_boxes=False) == 1.0
    assert recall(merge_boxes=True) == 0.0


def test_phrases_keep_words_types_and_place():
    phrases = parse_sentence("See [/EN#7/people/bodyparts Her  left hand] near [/EN#8/other it] .")

    assert [(p.text, p.entity, p.types) for p in phrases] == [
        ("Her  left hand", 7, ("people", "bodyparts")),
        ("it", 8, ("other",)),
    ]
    assert [p.first_word for p in phrases] == [1, 5]


def test_blank_lines_do_not_count_as_sentences(entities):
    path = entities / "Sentences" / "101.txt"
    path.write_text("\n\n" + path.read_text().replace("\n", "\n\n"))

    sentences = load_entities(entities, "test", merge_boxes=False)

    assert [key for key in sentences if key[0] == 101] == [(101, 0), (101, 1)]


def test_missing_sentences_are_listed(recorded, entities):
    sentences = load_entities(entities, "test", merge_boxes=False)
    predictions = read_predictions(recorded["runs"][0]["predictions"][1:])

    with pytest.raises(EvaluationError, match=r"1 of 3 sentences .*\(101, 0\)"):
        phrase_recall(sentences, predictions)
    assert phrase_recall(sentences, predictions, only_predicted=True).metrics["Recall@1_all"] >= 0


def test_unexpected_and_repeated_sentences_are_reported_and_left_out(recorded, entities, caplog):
    run = recorded["runs"][0]
    sentences = load_entities(entities, "test", merge_boxes=run["merge_boxes"])
    extra = {"image_id": 102, "sentence_id": 1, "boxes": []}
    worse = run["predictions"][0] | {"boxes": [[[0, 0, 1, 1]]] * 2}

    predictions = read_predictions([*run["predictions"], extra, worse])

    assert phrase_recall(sentences, predictions).metrics == pytest.approx(run["scores"])
    assert "1 predictions repeat a sentence" in caplog.text
    assert "1 predicted sentences have no phrase with a box" in caplog.text


def test_a_wrong_number_of_phrases_is_refused(entities):
    sentences = load_entities(entities, "test", merge_boxes=False)
    short = {key: [[]] * len(phrases) for key, phrases in sentences.items()} | {(101, 0): [[]]}

    with pytest.raises(EvaluationError, match=r"sentence 0 of image 101 has 2 phrases .* has 1"):
        phrase_recall(sentences, short)
    with pytest.raises(EvaluationError, match="asked for 7 phrases"):
        FlickrEvaluator(sentences, {1: CaptionItem(101, 0, SIZE, num_phrases=7)})
    evaluator = FlickrEvaluator(sentences, {1: CaptionItem(101, 0, SIZE)})
    with pytest.raises(EvaluationError, match="for phrase 3; the caption has 2 phrases"):
        evaluator.update({1: prediction((3, 0.5, [0.0, 0, 1, 1]), size=SIZE)})


def test_a_caption_without_any_box_predicted_counts_as_missed(entities):
    sentences = load_entities(entities, "test", merge_boxes=False)
    items = {n: CaptionItem(*key, SIZE) for n, key in enumerate(sentences)}
    evaluator = FlickrEvaluator(sentences, items)
    evaluator.update({number: prediction(size=SIZE) for number in items})

    assert evaluator.summarize()["metrics"]["Upper_bound_all"] == 0.0


def test_missing_and_broken_files_are_named(entities):
    with pytest.raises(FileNotFoundError, match=r"val\.txt does not exist"):
        load_entities(entities, "val", merge_boxes=False)
    (entities / "Annotations" / "102.xml").write_text("<annotation><object>")
    with pytest.raises(AnnotationError, match=r"102\.xml is not a Flickr30k Entities annotation"):
        load_entities(entities, "test", merge_boxes=False)
    (entities / "Sentences" / "101.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"101\.txt .*DATASETS.FLICKR_ENTITIES_DIR"):
        load_entities(entities, "test", merge_boxes=False)


def test_the_split_is_found_by_the_predicted_images(entities):
    (entities / "val.txt").write_text("555\n")

    assert split_of(entities, {101}) == "test"
    with pytest.raises(AnnotationError, match="lie in val and test"):
        split_of(entities, {101, 555})
    with pytest.raises(AnnotationError, match="lie in none of the splits val, test"):
        split_of(entities, {9})


def test_a_result_entry_without_boxes_is_named():
    with pytest.raises(EvaluationError, match="entry 1 needs image_id, sentence_id and boxes"):
        read_predictions(
            [{"image_id": 1, "sentence_id": 0, "boxes": []}, {"image_id": 1, "sentence_id": 1}]
        )


def test_boxes_of_an_entity_that_several_objects_share(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Sentences").mkdir()
    (tmp_path / "val.txt").write_text("1\n")
    (tmp_path / "Sentences" / "1.txt").write_text("[/EN#4/people They] and [/EN#5/people others]\n")
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    (tmp_path / "Annotations" / "1.xml").write_text(
        f"<annotation><object><name>4</name><name>5</name>{box}</object></annotation>"
    )

    [[first, second]] = load_entities(tmp_path, "val", merge_boxes=False).values()

    np.testing.assert_array_equal(first.boxes, [[1, 2, 3, 4]])
    np.testing.assert_array_equal(second.boxes, [[1, 2, 3, 4]])
