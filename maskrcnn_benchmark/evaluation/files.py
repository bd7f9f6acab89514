"""The files that an evaluation leaves behind, each written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.evaluation.detections import Detections
from maskrcnn_benchmark.utils.checkpoint_files import write_atomically

DETECTIONS_PER_WRITE = 50_000


def write_text(path: Path, text: str) -> None:
    """Write text, UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON; what is not finite becomes null, which strict readers need."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def write_results(path: Path, detections: Detections) -> None:
    """Write a COCO result list, one detection per entry, without building it in memory first.

    Args:
        detections: boxes x, y, width, height; labels are category ids.
    """

    def write(file: Any) -> None:
        file.write(b"[")
        separator = b""
        image_ids = detections.row_image_ids
        for start in range(0, len(detections), DETECTIONS_PER_WRITE):
            part = slice(start, start + DETECTIONS_PER_WRITE)
            rows = [
                {"image_id": image_id, "category_id": label, "bbox": box, "score": score}
                for image_id, label, box, score in zip(
                    image_ids[part].tolist(),
                    detections.labels[part].tolist(),
                    detections.boxes[part].tolist(),
                    detections.scores[part].tolist(),
                )
            ]
            file.write(separator + json.dumps(rows)[1:-1].encode())
            separator = b", "
        file.write(b"]\n")

    write_atomically(path, write)


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Save tensors, numbers and strings so that ``torch.load(weights_only=True)`` reads them."""
    write_atomically(path, lambda file: torch.save(dict(content), file))


def write_predictions(path: Path, detections: Detections, box_form: str) -> None:
    """Save ``{"box_form": ..., "predictions": {image id: {"boxes", "scores", "labels"}}}``."""
    boxes, scores, labels = (
        torch.from_numpy(array)
        for array in (detections.boxes, detections.scores, detections.labels)
    )
    predictions = {}
    start = 0
    for image_id, count in zip(detections.image_ids.tolist(), detections.counts.tolist()):
        rows = slice(start, start + count)
        start += count
        # Views of three tensors, so the file holds every number once.
        predictions[image_id] = {
            "boxes": boxes[rows],
            "scores": scores[rows],
            "labels": labels[rows],
        }
    write_tensors(path, {"box_form": box_form, "predictions": predictions})


def write_metric_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines under the heading that readers expect of ``bbox.csv`` for LVIS and Flickr30k, and
    of ``Recall_results.csv``.
    """
    write_text(path, "metric, avg \n" + "".join(f"{line}\n" for line in lines))


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, float) and content not in (float("inf"), float("-inf")):
        return content if content == content else None
    return None if isinstance(content, float) else content
