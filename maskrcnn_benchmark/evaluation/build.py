"""Which evaluator a dataset needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_benchmark.config.file_search import try_to_find
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.evaluation.base import DatasetEvaluator, EvaluationError
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.flickr import CaptionItem, FlickrEvaluator
from maskrcnn_benchmark.evaluation.flickr_entities import sentences_of_annotations
from maskrcnn_benchmark.evaluation.ground_truth import GroundTruth, read_ground_truth
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.proposals import ProposalEvaluator
from maskrcnn_benchmark.evaluation.refexp import RefExpEvaluator, load_expressions
from maskrcnn_benchmark.evaluation.voc import VocEvaluator
from maskrcnn_benchmark.structures.bounding_box import BoxList


def evaluate(
    cfg: Any,
    dataset: Any,
    predictions: Mapping[int, BoxList],
    output_folder: str | Path | None = None,
    *,
    box_only: bool = False,
) -> dict[str, Any]:
    """Score this process's predictions together with those of the other processes.

    Args:
        predictions: image id to boxes, see :meth:`DatasetEvaluator.update`.
        cfg, dataset, output_folder, box_only: see :func:`build_evaluator`.
    Returns:
        on every process what :meth:`DatasetEvaluator.summarize` gives.
    """
    evaluator = build_evaluator(cfg, dataset, output_folder, box_only=box_only)
    evaluator.update(predictions)
    evaluator.synchronize_between_processes()
    return evaluator.summarize()


def build_evaluator(
    cfg: Any, dataset: Any, output_folder: str | Path | None = None, *, box_only: bool = False
) -> DatasetEvaluator:
    """The evaluator for a test set, chosen by the class of the dataset.

    Args:
        cfg: reads DATASETS.LVIS_USE_NORMAL_AP, FLICKR_GT_TYPE, FLICKR_ENTITIES_DIR, TEST.SUBSET,
            RENUMBER_ANNOTATIONS.
        dataset: a dataset of this project, or a repeated one.
        output_folder: where files go; None writes none.
        box_only: proposals instead of detections.
    Raises:
        EvaluationError: there is none for this class.
    """
    dataset = getattr(dataset, "dataset", dataset)
    makers = _PROPOSALS if box_only else _MAKERS
    for ancestor in type(dataset).__mro__:
        if ancestor.__name__ in makers:
            shared = {"output_folder": output_folder, "only_predicted": cfg.TEST.SUBSET > 0}
            return makers[ancestor.__name__](cfg, dataset, shared)
    raise EvaluationError(
        f"there is no evaluation for dataset {getattr(dataset, 'name', '')} of class "
        f"{type(dataset).__name__}; it exists for {', '.join(sorted(makers))}"
    )


def _coco(cfg: Any, dataset: Any, shared: dict[str, Any]) -> CocoEvaluator:
    return CocoEvaluator(
        dataset.ann_file,
        image_sizes=_image_sizes(dataset),
        label_to_category=dataset.category_table.label_to_json,
        renumber_annotations=cfg.TEST.RENUMBER_ANNOTATIONS,
        **shared,
    )


def _proposals(cfg: Any, dataset: Any, shared: dict[str, Any]) -> ProposalEvaluator:
    return ProposalEvaluator(dataset.ann_file, image_sizes=_image_sizes(dataset), **shared)


def _lvis(cfg: Any, dataset: Any, shared: dict[str, Any]) -> LvisEvaluator:
    return LvisEvaluator(
        dataset.ann_file,
        fixed=not cfg.DATASETS.LVIS_USE_NORMAL_AP,
        image_sizes=_image_sizes(dataset),
        **shared,
    )


def _voc(cfg: Any, dataset: Any, shared: dict[str, Any]) -> VocEvaluator:
    return VocEvaluator(
        lambda: ground_truth_from_boxes(dataset, lambda index, _: dataset.get_groundtruth(index)),
        image_sizes=_image_sizes(dataset),
        **shared,
    )


def _records(cfg: Any, dataset: Any, shared: dict[str, Any]) -> CocoEvaluator:
    def boxes_of(index: int, size: tuple[int, int]) -> BoxList:
        return dataset.read_boxes(index, size).clip_to_image(remove_empty=True)

    return CocoEvaluator(
        lambda: ground_truth_from_boxes(dataset, boxes_of),
        image_sizes=_image_sizes(dataset),
        **shared,
    )


def _flickr(cfg: Any, dataset: Any, shared: dict[str, Any]) -> FlickrEvaluator:
    if cfg.DATASETS.FLICKR_GT_TYPE not in ("separate", "merged"):
        raise ConfigError(
            f"DATASETS.FLICKR_GT_TYPE must be 'separate' or 'merged', not "
            f"{cfg.DATASETS.FLICKR_GT_TYPE!r}"
        )
    if not cfg.DATASETS.FLICKR_ENTITIES_DIR:
        merged = cfg.DATASETS.FLICKR_GT_TYPE == "merged"
        sentences = sentences_of_annotations(dataset.ann_file, merge_boxes=merged)
        return FlickrEvaluator(sentences, _caption_items(dataset), **shared)
    return FlickrEvaluator.from_folder(
        try_to_find(cfg.DATASETS.FLICKR_ENTITIES_DIR),
        "test" if "test" in dataset.name else "val",
        _caption_items(dataset),
        merge_boxes=cfg.DATASETS.FLICKR_GT_TYPE == "merged",
        **shared,
    )


def _refexp(cfg: Any, dataset: Any, shared: dict[str, Any]) -> RefExpEvaluator:
    return RefExpEvaluator(load_expressions(dataset.ann_file), **shared)


_MAKERS: dict[str, Callable[[Any, Any, dict[str, Any]], DatasetEvaluator]] = {
    "COCODataset": _coco,
    "CocoGrounding": _coco,
    "LvisDetection": _lvis,
    "PascalVOCDataset": _voc,
    "DetectionRecords": _records,
    "FlickrDataset": _flickr,
    "RefExpDataset": _refexp,
}
_PROPOSALS: dict[str, Callable[[Any, Any, dict[str, Any]], DatasetEvaluator]] = {
    "COCODataset": _proposals,
    "CocoGrounding": _proposals,
    "LvisDetection": _proposals,
}


def _image_sizes(dataset: Any) -> dict[int, tuple[int, int]]:
    return {
        dataset.image_id(index): (width, height)
        for index, (height, width) in enumerate(np.asarray(dataset.sizes()).tolist())
    }


def _caption_items(dataset: Any) -> dict[int, CaptionItem]:
    sizes = _image_sizes(dataset)
    items = {}
    for image_id, row in zip(dataset.ids, dataset.rows):
        entry = dataset.annotation_file.entry(row)
        phrases = entry.get("tokens_positive_eval")
        items[image_id] = CaptionItem(
            original_img_id=int(entry["original_img_id"]),
            sentence_id=int(entry["sentence_id"]),
            size=sizes[image_id],
            num_phrases=None if phrases is None else len(phrases),
        )
    return items


def ground_truth_from_boxes(
    dataset: Any, boxes_of: Callable[[int, tuple[int, int]], BoxList]
) -> GroundTruth:
    """Annotations of a dataset that has no file in COCO form.

    Args:
        boxes_of: sample number and (width, height) to its boxes with field ``labels`` and, for
            VOC, ``difficult``.
    """
    sizes = [(width, height) for height, width in np.asarray(dataset.sizes()).tolist()]
    annotations: list[dict[str, Any]] = []
    for index, size in enumerate(sizes):
        objects = boxes_of(index, size)
        difficult = (
            objects.get_field("difficult").tolist() if objects.has_field("difficult") else ()
        )
        for number, (box, label) in enumerate(
            zip(objects.convert("xywh").bbox.tolist(), objects.get_field("labels").tolist())
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": dataset.image_id(index),
                    "category_id": label,
                    "bbox": box,
                    "difficult": int(bool(difficult and difficult[number])),
                }
            )
    images = [
        {"id": dataset.image_id(index), "width": width, "height": height}
        for index, (width, height) in enumerate(sizes)
    ]
    categories = [{"id": label, "name": name} for label, name in dataset.categories().items()]
    return read_ground_truth(
        {"images": images, "annotations": annotations, "categories": categories}, dataset.name
    )
