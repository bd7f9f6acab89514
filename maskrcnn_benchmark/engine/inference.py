"""Run a model over a test set and score what it finds."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.data.worker_errors import PlainErrorLoader
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.evaluation import (
    PredictionStore,
    build_evaluator,
    check_expected_results,
    file_identity,
    fingerprint,
)
from maskrcnn_benchmark.grounding import Query
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm

from .class_sentences import check_class_sentences, encode_class_sentences
from .detectors import (
    CaptionDetector,
    ClassDetector,
    Detector,
    EncodedQuery,
    queries_of_dataset,
)
from .multi_scale import build_multi_scale_detector
from .stop_request import EvaluationInterrupted
from .unreadable import CollateReadable, ReadableOrNot, UnreadableImages, require_pictures

logger = logging.getLogger(__name__)

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROGRESS_LINES = 20

# Settings that predictions do not depend on.
_IRRELEVANT = ("SOLVER", "OUTPUT_DIR", "local_rank", "num_gpus", "AUGMENT")


def inference_dtype(cfg: Any) -> torch.dtype | None:
    """What TEST.PRECISION lets autocast compute in; None for float32.

    Raises:
        ConfigError: it is unknown.
    """
    if cfg.TEST.PRECISION not in _PRECISIONS:
        raise ConfigError(
            f"TEST.PRECISION is {cfg.TEST.PRECISION!r}, not one of {list(_PRECISIONS)}"
        )
    return _PRECISIONS[cfg.TEST.PRECISION]


def inference(
    cfg: Any,
    model: GeneralizedVLRCNN,
    data_loader: DataLoader,
    dataset_name: str,
    *,
    output_folder: str | Path | None = None,
    box_only: bool = False,
    weights_identity: Any = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Evaluate a model on one test set; called by all processes together.

    With an output folder, predictions go to disk as they are made, and those that an interrupted
    run with the same weights and settings left there are used again.

    Args:
        cfg: settings of the task: TEST, DATASETS, DATALOADER.SIZE_DIVISIBILITY.
        model: not wrapped; left in evaluation mode.
        data_loader: every process has its own share of the set, without repetition.
        dataset_name: for messages.
        output_folder: where result files go; None writes none.
        box_only: score boxes without their classes.
        weights_identity: what tells these weights from others (see
            :func:`maskrcnn_benchmark.evaluation.fingerprint`); None looks at the weights themselves.
        should_stop: asked after every batch.
    Returns:
        on every process what the evaluator's ``summarize`` gives, and ``expected``: whether the
        numbers agree with TEST.EXPECTED_RESULTS.
    Raises:
        EvaluationInterrupted: on all processes, if one was told to stop.
        ConfigError: TEST.EVAL_TASK or TEST.PRECISION is unknown, or the set cannot be asked for that
            task.
        DataError: pictures are missing or broken, and DATASETS.SKIP_BROKEN_IMAGES is off.
    """
    inference_dtype(cfg)  # a mistaken one is refused before annotations are read
    dataset = data_loader.dataset
    require_task(cfg, dataset)
    evaluator = build_evaluator(cfg, dataset, output_folder, box_only=box_only)
    model.eval()
    logger.info("evaluating on %s (%d images)", dataset_name, len(dataset))
    if output_folder is None:
        predictions: dict[int, BoxList] = {}
        done: frozenset[int] = frozenset()
        store = None
    else:
        store = PredictionStore(
            output_folder, _run_fingerprint(cfg, model, dataset, weights_identity), comm.get_rank()
        )
        predictions, done = {}, store.finished
    # Processes must have read each other's files before one of them writes on.
    comm.synchronize()
    try:
        shares = _share_of_batches(cfg, data_loader)
        own_ids = [dataset.image_id(index) for batch in shares for index in batch]
        loader = _loader_without(data_loader, shares, done)
        unreadable = UnreadableImages(dataset_name, cfg.DATASETS.SKIP_BROKEN_IMAGES)
        if not unreadable.allowed:
            require_pictures(dataset, dataset_name, [i for b in loader.batch_sampler for i in b])
        for image_id, boxes in _detect(cfg, model, loader, dataset, unreadable, should_stop):
            if store is None:
                predictions[image_id] = boxes
            else:
                store.add(image_id, boxes)
        if comm.any_process(should_stop()):
            raise EvaluationInterrupted
        evaluator.update(predictions if store is None else store.items(own_ids))
        # Not kept: the next run looks whether they can be read now.
        evaluator.update(unreadable.nothing_found())
    finally:
        if store is not None:
            store.close()
    evaluator.synchronize_between_processes()
    result = evaluator.summarize()
    if output_folder is not None:
        comm.synchronize()
        if comm.is_main_process():
            PredictionStore.remove(output_folder)
    result["expected"] = check_expected_results(
        result, cfg.TEST.EXPECTED_RESULTS, cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL
    )
    return result


def _share_of_batches(cfg: Any, loader: DataLoader) -> list[list[int]]:
    """Sample numbers of this process's batches, the first TEST.SUBSET of them."""
    batches = [list(batch) for batch in loader.batch_sampler]
    return batches[: cfg.TEST.SUBSET] if cfg.TEST.SUBSET > 0 else batches


def _loader_without(
    loader: DataLoader, batches: Sequence[Sequence[int]], done: frozenset[int]
) -> DataLoader:
    """A loader of the samples that are not done, so that these are not even decoded."""
    image_id = loader.dataset.image_id
    remaining = [[index for index in batch if image_id(index) not in done] for batch in batches]
    return PlainErrorLoader(
        ReadableOrNot(loader.dataset),
        batch_sampler=[batch for batch in remaining if batch],
        num_workers=loader.num_workers,
        collate_fn=CollateReadable(loader.collate_fn),
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )


def _detect(
    cfg: Any,
    model: GeneralizedVLRCNN,
    loader: DataLoader,
    dataset: Any,
    unreadable: UnreadableImages,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[int, BoxList]]:
    """Image id and detections of every sample that the loader has, until told to stop."""
    if not len(loader):
        return
    dtype = inference_dtype(cfg)
    with (
        torch.no_grad(),
        torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None),
    ):
        detector = build_detector(cfg, model, dataset)
        progress = _Progress(len(loader))
        for batch, not_read in loader:
            for index, problem in not_read:
                unreadable.note(dataset.image_id(index), problem)
            if batch is not None:
                yield from _named(dataset, batch, detector(batch))
            progress.advance(len(not_read) + (0 if batch is None else len(batch.targets)))
            if should_stop():
                return


def _named(
    dataset: Any, batch: Batch, detections: Sequence[BoxList]
) -> Iterator[tuple[int, BoxList]]:
    for index, boxes in zip(batch.ids, detections):
        yield dataset.image_id(index), boxes


def require_task(cfg: Any, dataset: Any) -> None:
    """Refuse a TEST.EVAL_TASK that is unknown, or that the set has no words for."""
    task = cfg.TEST.EVAL_TASK
    if task not in ("", "detection", "grounding"):
        raise ConfigError(f"TEST.EVAL_TASK is {task!r}; it must be 'detection' or 'grounding'")
    source = getattr(dataset, "dataset", dataset)
    found = f"TEST.EVAL_TASK is {task!r}, but {source.name} ({type(source).__name__})"
    if task == "grounding" and not source.has_captions:
        raise ConfigError(f"{found} has no captions; set it to 'detection'")
    if task != "grounding" and not hasattr(source, "categories"):
        cure = "; set it to 'grounding'" if source.has_captions else ""
        raise ConfigError(f"{found} has no classes to look for{cure}")


def build_detector(cfg: Any, model: GeneralizedVLRCNN, dataset: Any) -> Detector:
    """What TEST.EVAL_TASK asks for: the classes of the set, or the caption of each image.

    An empty task means detection: this model always needs words.
    """
    require_task(cfg, dataset)
    check_class_sentences(cfg)
    # A task file may ask for several sizes though the model's configuration does not: then merging
    # does what the post-processor would.
    model.rpn.post_processor.suppress = not cfg.TEST.USE_MULTISCALE
    size_divisible = cfg.DATALOADER.SIZE_DIVISIBILITY
    if cfg.TEST.EVAL_TASK == "grounding":
        detector = CaptionDetector(model, size_divisible, dataset.pictures())
    else:
        detector = ClassDetector(
            model,
            _class_queries(cfg, model, dataset),
            size_divisible,
            pairs_at_once=cfg.TEST.CHUNKS_PER_FORWARD,
        )
    return build_multi_scale_detector(cfg, detector) if cfg.TEST.USE_MULTISCALE else detector


def _class_queries(
    cfg: Any, model: GeneralizedVLRCNN, dataset: Any
) -> Sequence[Query | EncodedQuery]:
    """What asks for the classes of a set: a sentence for each, or captions of many."""
    if cfg.GLIPKNOW.PARALLEL_LANGUAGE_INPUT:
        return [encode_class_sentences(cfg, model, dataset)]
    queries = queries_of_dataset(cfg, dataset, model.tokenizer)
    logger.info("%d caption(s) of class names, the first: %r", len(queries), queries[0].caption)
    return queries


def _run_fingerprint(
    cfg: Any, model: GeneralizedVLRCNN, dataset: Any, weights_identity: Any
) -> str:
    settings = {key: value for key, value in cfg.items() if key not in _IRRELEVANT}
    annotations = getattr(dataset, "ann_file", None)
    knowledge = cfg.GLIPKNOW.KNOWLEDGE_FILE
    return fingerprint(
        repr(settings),
        file_identity(annotations) if annotations else dataset.name,
        file_identity(knowledge) if knowledge else "",
        dict(model.state_dict()) if weights_identity is None else weights_identity,
    )


class _Progress:
    """Log lines with the time left, as many for a short run as for a long one."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self.every = max(1, num_batches // PROGRESS_LINES)
        self.batches = self.images = 0
        self.start = time.perf_counter()

    def advance(self, num_images: int) -> None:
        self.batches += 1
        self.images += num_images
        if self.batches % self.every and self.batches != self.num_batches:
            return
        elapsed = time.perf_counter() - self.start
        left = elapsed / self.batches * (self.num_batches - self.batches)
        logger.info(
            "eta: %s  batch %d/%d  %.3f s / image",
            timedelta(seconds=int(left)),
            self.batches,
            self.num_batches,
            elapsed / self.images,
        )
