"""The same numbers with one, two and three processes, whatever share of the images each has."""

import json

import pytest

from maskrcnn_benchmark.evaluation.base import EvaluationError
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.flickr import CaptionItem, FlickrEvaluator
from maskrcnn_benchmark.evaluation.flickr_entities import GroundedPhrase, parse_sentence
from maskrcnn_benchmark.evaluation.ground_truth import read_ground_truth
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.refexp import Expression, RefExpEvaluator
from maskrcnn_benchmark.evaluation.voc import VocEvaluator
from maskrcnn_benchmark.utils import comm
from tests.evaluation.box_sets import HEIGHT, WIDTH, prediction, random_set
from tests.process_tools import run_world

SEED, NUM_IMAGES = 4, 14


def evaluators(data, output_folder=None):
    """One evaluator of every kind for one made-up set; keys name their folders."""
    truth = read_ground_truth(data)
    boxes = {
        row["image_id"]: truth.boxes[n] for n, row in reversed(list(enumerate(data["annotations"])))
    }
    size = (WIDTH, HEIGHT)
    [phrase] = parse_sentence("[/EN#1/animals it]")
    corners = {key: [x, y, x + w, y + h] for key, (x, y, w, h) in boxes.items()}
    sentences = {
        (key, 0): [GroundedPhrase(phrase, truth.boxes[:1] * 0 + box)] * 9
        for key, box in corners.items()
    }
    folder = (lambda name: None) if output_folder is None else output_folder.joinpath
    return {
        "coco": CocoEvaluator(truth, output_folder=folder("coco")),
        "lvis": LvisEvaluator(truth, per_category=25, output_folder=folder("lvis")),
        "lvis300": LvisEvaluator(truth, fixed=False, per_image=5, output_folder=folder("lvis300")),
        "voc": VocEvaluator(truth, output_folder=folder("voc")),
        "refexp": RefExpEvaluator(
            {key: Expression("refcoco", truth.boxes[0] * 0 + box, size) for key, box in corners.items()},
            output_folder=folder("refexp"),
        ),
        "flickr": FlickrEvaluator(
            sentences,
            {key: CaptionItem(key, 0, size) for key in boxes},
            output_folder=folder("flickr"),
            only_predicted=True,
        ),
    }  # fmt: skip


def evaluate_share(output_folder):
    """What every evaluator says when each process has some images, one of them twice."""
    rank, world_size = comm.get_rank(), comm.get_world_size()
    data, predictions = random_set(SEED, NUM_IMAGES)
    image_ids = list(predictions)
    # Rank 0 has a single image, the others share the rest; all have the first of the last rank.
    share = image_ids[:1] if rank == 0 else image_ids[rank :: max(world_size - 1, 1)]
    if world_size == 1:
        share = image_ids
    elif rank == world_size - 1:
        share = [key for key in image_ids if key not in shares_before(image_ids, world_size)]
    repeated = [*share, image_ids[-1]]
    results = {}
    for name, evaluator in evaluators(data, output_folder).items():
        for image_id in reversed(repeated):
            evaluator.update({image_id: predictions[image_id]})
        evaluator.synchronize_between_processes()
        results[name] = evaluator.summarize()
    return results


def shares_before(image_ids, world_size):
    """Images that processes before the last one have."""
    taken = set(image_ids[:1])
    for rank in range(1, world_size - 1):
        taken |= set(image_ids[rank :: max(world_size - 1, 1)])
    return taken


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return evaluate_share(folder), folder


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_numbers_and_files_do_not_depend_on_the_number_of_processes(world_size, alone, tmp_path):
    expected, expected_folder = alone
    output = tmp_path / "output"

    per_process = run_world(world_size, evaluate_share, output, folder=tmp_path / "world")

    for results in per_process:
        for name, result in results.items():
            assert result["metrics"] == expected[name]["metrics"], name
            assert result["table"] == expected[name]["table"]
    for name in ("coco", "lvis", "voc"):
        ours = json.loads((output / name / "bbox.json").read_text())
        assert ours == json.loads((expected_folder / name / "bbox.json").read_text())


def test_the_made_up_set_is_neither_trivial_nor_hopeless(alone):
    for name, result in alone[0].items():
        assert 0.01 < result["value"] < 0.95, name


def predict_another_set():
    """Error text that each process sees when rank 0 finds a prediction it cannot score."""
    data, _ = random_set(SEED, 2)
    sizes = {5: (WIDTH, HEIGHT), 8: (WIDTH, HEIGHT), 99: (WIDTH, HEIGHT)}
    evaluator = CocoEvaluator(read_ground_truth(data, "gt.json"), image_sizes=sizes)
    if comm.get_rank() == 1:
        evaluator.update({99: prediction()})
    try:
        evaluator.summarize()
    except EvaluationError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_a_failure_on_rank_0_is_told_to_everybody_instead_of_leaving_them_waiting(tmp_path):
    main, other = run_world(2, predict_another_set, folder=tmp_path)

    assert "gt.json lacks (first: [99])" in main
    assert other.startswith("rank 0 could not score the predictions: ")
    assert "gt.json lacks (first: [99])" in other
