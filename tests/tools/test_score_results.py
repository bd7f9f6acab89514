"""tools/score_results.py on the shared prediction files as they are, and on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import score_results as tool

TOOL = Path(__file__).resolve().parents[2] / "tools" / "score_results.py"


@pytest.fixture
def score(tmp_path):
    """Run the tool, return the numbers it writes."""

    def run(task, gt, results, *options):
        output = tmp_path / "numbers.json"
        code = tool.main(
            ["--task", task, "--gt", str(gt), "--results", str(results), "--json", str(output)]
            + [str(option) for option in options]
        )
        assert code == 0
        return json.loads(output.read_text())

    return run


def test_coco_results(score, shared_dir, capsys):
    folder = shared_dir / "data" / "coco"
    expected = json.loads((folder / "expected_seed1.json").read_text())

    numbers = score("coco", folder / "instances_val2014_100.json", folder / "results_seed1.json")

    assert numbers["coco"]["metrics"] == pytest.approx(expected["stats"], abs=1e-14)
    assert numbers["coco"]["per_category"] == pytest.approx(expected["AP_per_class"], abs=1e-14)
    printed = capsys.readouterr().out
    assert f"maxDets=100 ] = {expected['stats']['AP']:.3f}" in printed
    assert "numbers.json" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("task", "options", "key"),
    [
        ("lvis", (), "lvis_api_bbox_max_dets_300"),
        ("lvis-fixed", (), "mdetr_fixed_ap_topk_10000"),
        ("lvis-fixed", ("--per-category", 3), "mdetr_fixed_ap_topk_3"),
    ],
)
def test_lvis_results(score, shared_dir, task, options, key):
    folder = shared_dir / "data" / "lvis"
    expected = json.loads((folder / "expected_seed1.json").read_text())[key]

    numbers = score(task, folder / "lvis_val_100.json", folder / "results_seed1.json", *options)

    assert numbers[task]["metrics"] == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("stem", ["test_seed0", "val_seed1"])
def test_flickr_results_find_their_split(score, shared_dir, stem):
    folder = shared_dir / "data" / "flickr30k_entities"
    expected = json.loads((folder / f"expected_{stem}.json").read_text())

    numbers = score("flickr", folder, folder / f"predictions_{stem}.json")

    for name, protocol in (("flickr separate", "any_box"), ("flickr merged", "merged_boxes")):
        for rank in (1, 5, 10):
            ours = numbers[name]["metrics"][f"Recall@{rank}_all"]
            assert ours == expected[protocol][f"R@{rank}"]["all"]


def test_refexp_results(score, shared_dir):
    folder = shared_dir / "data" / "refcoco"
    expected = json.loads((folder / "expected_seed1.json").read_text())

    numbers = score("refexp", folder / "templated_val.json", folder / "predictions_seed1.json")

    metrics = numbers["refexp"]["metrics"]
    assert metrics["precision@1"] == expected["plain_iou"]["P@1"]
    assert metrics["precision@10 (GIoU)"] == expected["mdetr_generalised_iou"]["P@10"]


def test_voc_and_renumbered_coco_results(score, shared_dir):
    folder = shared_dir / "data" / "odinw" / "PascalVOC" / "valid"
    files = folder / "annotations_without_background.json", folder / "detections.json"
    expected = json.loads((folder / "detections_expected.json").read_text())["stats"]

    assert 0 < score("voc", *files)["voc"]["metrics"]["mAP"] < 1
    assert score("coco", *files)["coco"]["value"] == pytest.approx(expected["AP"], abs=1e-14)
    renumbered = score("coco", *files, "--renumber-annotations")["coco"]["value"]
    assert renumbered > expected["AP"]


def test_the_files_of_the_evaluation_are_written_when_asked(score, shared_dir, tmp_path):
    folder = shared_dir / "data" / "odinw" / "Raccoon" / "Raccoon.v2-raw.coco" / "test"

    score(
        "coco",
        folder / "annotations_without_background.json",
        folder / "results_seed1.json",
        "--output-folder",
        tmp_path / "out",
    )

    assert {"bbox.csv", "bbox.json", "metrics.json"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }


GT = {
    "images": [{"id": 1, "width": 10, "height": 10}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4]}],
    "categories": [{"id": 3, "name": "cat"}],
}
ROW = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("task", "gt", "results", "message"),
    [
        ("coco", None, [ROW], "gt.json does not exist"),
        ("coco", GT, None, "result file"),
        ("coco", GT, [ROW | {"image_id": 9}], "predictions name 1 images that"),
        ("coco", GT, [ROW | {"category_id": 9}], "are these results of another set?"),
        (
            "coco",
            GT | {"categories": [{"id": 3, "name": "cat"}, {"id": 3, "name": "cow"}]},
            [ROW],
            "category id 3 occurs 2 times (name: cat, cow)",
        ),
        ("lvis", GT, [ROW], "is it an LVIS file?"),
        ("refexp", GT, [ROW], "needs lists 'boxes' and 'scores'"),
        ("flickr", GT, [], "is not a folder"),
    ],
)
def test_bad_input_is_an_error_line_and_exit_status_1(tmp_path, capsys, task, gt, results, message):
    paths = tmp_path / "gt.json", tmp_path / "results.json"
    for path, content in zip(paths, (gt, results)):
        if content is not None:
            path.write_text(json.dumps(content))

    code = tool.main(["--task", task, "--gt", str(paths[0]), "--results", str(paths[1])])

    assert code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_the_tool_runs_as_a_command_from_anywhere(tmp_path):
    (tmp_path / "gt.json").write_text(json.dumps(GT))
    (tmp_path / "results.json").write_text(json.dumps([ROW]))

    done = subprocess.run(
        [sys.executable, TOOL, "--task", "coco", "--gt", "gt.json", "--results", "results.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "area=   all | maxDets=100 ] = 1.000" in done.stdout
