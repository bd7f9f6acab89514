"""Few-shot selection: recorded choices and the rule."""

import json

import numpy as np

from maskrcnn_benchmark.data.datasets.annotation_file import AnnotationFile
from maskrcnn_benchmark.data.datasets.few_shot import select_few_shot


def test_choices_equal_the_recorded_ones_for_every_seed(golden_dir, tmp_path):
    recorded = json.loads((golden_dir / "glip/units/few_shot.json").read_text())
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(recorded["annotations"]))
    file = AnnotationFile(path)

    for case in recorded["selections"]:
        rows = file.valid_rows()
        if case["few_shot"]:
            rows = select_few_shot(
                rows, file.category_ids_of, case["few_shot"], case["shuffle_seed"]
            )
        chosen = file.image_ids[np.array(rows)].tolist()
        # The original's grounding class ignored the seed; ours follows its detection class.
        assert chosen == case["detection_dataset"]
        if case["shuffle_seed"] == 0:
            assert chosen == case["grounding_dataset"]


def test_an_image_stays_while_one_of_its_classes_is_wanted():
    categories = [{1, 2}, {1}, {2, 3}, {3}]

    assert select_few_shot(range(4), categories.__getitem__, shots=1) == [0, 2]


def test_sparse_and_zero_ids_are_counted_like_any_other():
    categories = [{0}, {90}, {0}]

    assert select_few_shot(range(3), categories.__getitem__, shots=1) == [0, 1]
