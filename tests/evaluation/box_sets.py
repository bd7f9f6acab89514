"""Small made-up detection sets, and predictions of them as the model would hand them over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from maskrcnn_benchmark.structures.bounding_box import BoxList

WIDTH, HEIGHT = 200, 160


def annotations(boxes: Mapping[int, list[tuple[int, list[float]]]], **image_extra: Any) -> dict:
    """An annotation file.

    Args:
        boxes: image id to (category id, [x, y, width, height]) of its objects.
        image_extra: further fields of every image.
    """
    rows = [
        {"image_id": image_id, "category_id": category, "bbox": box, "area": box[2] * box[3]}
        for image_id, objects in boxes.items()
        for category, box in objects
    ]
    return {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.jpg", "width": WIDTH, "height": HEIGHT}
            | image_extra
            for image_id in boxes
        ],
        "annotations": [{"id": number, "iscrowd": 0} | row for number, row in enumerate(rows, 1)],
        "categories": [
            {"id": category, "name": name, "frequency": frequency}
            for category, name, frequency in ((3, "cat", "f"), (7, "dog", "c"), (9, "emu", "r"))
        ],
    }


def prediction(
    *found: tuple[int, float, list[float]], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> BoxList:
    """Boxes as (label, score, [x1, y1, x2, y2]) in an image of the given width and height."""
    boxes = BoxList(torch.tensor([box for _, _, box in found]).reshape(-1, 4), size)
    boxes.add_field("scores", torch.tensor([score for _, score, _ in found]))
    boxes.add_field("labels", torch.tensor([label for label, _, _ in found], dtype=torch.int64))
    return boxes


def random_set(seed: int, num_images: int) -> tuple[dict, dict[int, BoxList]]:
    """Annotations in LVIS form and predictions of every image but the last, with equal scores."""
    random = np.random.default_rng(seed)

    def box() -> list[float]:
        side = random.uniform(8, 100, 2)
        corner = random.uniform(0, (WIDTH, HEIGHT) - side)
        return [*corner.round(1).tolist(), *side.round(1).tolist()]

    image_ids = (random.permutation(num_images) * 3 + 5).tolist()
    objects = {
        image_id: [(int(random.choice([3, 7, 9])), box()) for _ in range(4)]
        for image_id in image_ids
    }
    data = annotations(objects, neg_category_ids=[9], not_exhaustive_category_ids=[7])
    predictions = {}
    for image_id, things in list(objects.items())[:-1]:
        near = [
            (category, np.array([x, y, x + w, y + h]) + random.normal(0, 4, 4))
            for category, (x, y, w, h) in things
        ]
        anywhere = [
            (int(random.choice([3, 7, 9])), np.array([x, y, x + w, y + h]))
            for x, y, w, h in (box() for _ in range(5))
        ]
        predictions[image_id] = prediction(
            *(
                (label, float(random.integers(1, 9)) / 10, corners.tolist())
                for label, corners in near + anywhere
            )
        )
    return data, predictions
