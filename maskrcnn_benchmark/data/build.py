"""Loaders as the configuration asks for them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config.dataset_sources import DatasetSource, dataset_sources
from maskrcnn_benchmark.data.collate import BatchCollator, RawImageCollator
from maskrcnn_benchmark.data.dataset_factory import DatasetFactory, has_captions
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, CopiedDataset
from maskrcnn_benchmark.data.datasets.replay import ReplayDataset, replay_length
from maskrcnn_benchmark.data.samplers import (
    EvaluationBatchSampler,
    TrainingBatchSampler,
    aspect_groups,
)
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.data.worker_errors import PlainErrorLoader
from maskrcnn_benchmark.errors import ConfigError, DataError
from maskrcnn_benchmark.utils import comm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


def make_data_loader(
    cfg: CfgNode,
    is_train: bool = True,
    is_distributed: bool = False,
    start_iter: int = 0,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> DataLoader | list[DataLoader]:
    """Loader of DATASETS.TRAIN, or one loader for each of DATASETS.TEST.

    In training, SOLVER.MAX_ITER (where SOLVER.MAX_EPOCH is set) and SOLVER.DATASET_LENGTH are
    written into `cfg`, so build this loader before optimiser and schedule. It yields
    SOLVER.ACCUMULATION_STEPS batches per iteration, each of SOLVER.IMS_PER_BATCH / (processes *
    accumulation steps) images, and its length is that of the whole run also when it starts in the
    middle.

    Args:
        cfg: the configuration, possibly frozen.
        is_distributed: share the data out over the processes of the current group.
        start_iter: iteration to begin with; the batches are those of a run that was never
            interrupted.
        tokenizer: the model's fast tokenizer; needed by every dataset with captions.
    Raises:
        ConfigError: settings that contradict each other or the data, or training sets without
            captions.
        FileNotFoundError: files of a dataset are missing.
    """
    world_size = comm.get_world_size() if is_distributed else 1
    rank = comm.get_rank() if is_distributed else 0
    raw_images = not is_train and cfg.TEST.USE_MULTISCALE
    _check_unsupported(cfg)
    transforms = None if raw_images else build_transforms(cfg, is_train)
    factory = DatasetFactory(cfg, transforms, tokenizer, is_train=is_train)
    sources = dataset_sources(cfg, is_train)
    if is_train:
        _require_captions(sources, "DATASETS.TRAIN")
    datasets = [_build_dataset(factory, source) for source in sources]
    if not datasets:
        raise ConfigError(f"DATASETS.{'TRAIN' if is_train else 'TEST'} names no dataset")
    if is_train and cfg.DATASETS.REPLAY:
        datasets += _replayed(cfg, sum(map(len, datasets)), transforms, tokenizer)
    if is_train:
        return _training_loader(cfg, datasets, rank, world_size, start_iter)
    return [_test_loader(cfg, dataset, rank, world_size) for dataset in datasets]


def write_schedule_length(cfg: CfgNode, num_samples: int) -> None:
    """Set SOLVER.MAX_ITER from SOLVER.MAX_EPOCH (if that is set) and SOLVER.DATASET_LENGTH."""
    if cfg.SOLVER.MAX_EPOCH <= 0:
        return
    max_iter = cfg.SOLVER.MAX_EPOCH * num_samples // cfg.SOLVER.IMS_PER_BATCH
    if max_iter == 0:
        raise ConfigError(
            f"{cfg.SOLVER.MAX_EPOCH} epoch(s) of {num_samples} samples are less than one batch of "
            f"{cfg.SOLVER.IMS_PER_BATCH}: lower SOLVER.IMS_PER_BATCH or raise SOLVER.MAX_EPOCH"
        )
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = max_iter
    cfg.SOLVER.DATASET_LENGTH = num_samples
    if frozen:
        cfg.freeze()


def _check_unsupported(cfg: CfgNode) -> None:
    if cfg.DATASETS.CLASS_CONCAT:
        raise ConfigError(
            "DATASETS.CLASS_CONCAT is not supported: labels of joined sets count from 1 in each, and "
            "captions keep their classes apart"
        )
    for key in ("MULTISTAGE_TRAINING", "ALTERNATIVE_TRAINING"):
        if cfg.DATASETS[key]:
            raise ConfigError(
                f"DATASETS.{key} is not supported: all sets of DATASETS.TRAIN are joined into one; "
                "for stages, start each from the MODEL.WEIGHT of the one before"
            )
    if cfg.DATALOADER.DISTRIBUTE_CHUNK_AMONG_NODE:
        logger.warning(
            "DATALOADER.DISTRIBUTE_CHUNK_AMONG_NODE has no effect: every process reads the rows that "
            "it needs of any shard"
        )


def _require_captions(sources: list[DatasetSource], key: str) -> None:
    """Refuse data to train on that has no words: the model learns from nothing else."""
    mute = [f"{source.name} ({source.factory})" for source in sources if not has_captions(source)]
    if not mute:
        return
    others = [source.name for source in sources if has_captions(source)]
    unlike = f" (unlike {', '.join(others)})" if others else ""
    # No suffix is appended to other names.
    suffix = f"{key}_DATASETNAME_SUFFIX _grounding, or " if key == "DATASETS.TRAIN" else ""
    raise ConfigError(
        f"{key}: no captions in {', '.join(mute)}{unlike}, and training needs them. For sets of "
        f"DATASETS.REGISTER set {suffix}type: CocoGrounding in their entries; of the catalogue name "
        "captioned sets, such as coco_grounding_train for coco_2017_train"
    )


def _build_dataset(factory: DatasetFactory, source: DatasetSource) -> Dataset:
    dataset = factory.build(source)
    logger.info(
        "Dataset %s: %s with %d samples%s",
        source.name,
        source.factory,
        len(dataset),
        f", {source.copies} copies" if source.copies > 1 else "",
    )
    if len(dataset) == 0:
        raise DataError(f"Dataset {source.name} has no usable sample")
    return CopiedDataset(dataset, source.copies) if source.copies > 1 else dataset


def _replayed(
    cfg: CfgNode, num_samples: int, transforms: Callable, tokenizer: PreTrainedTokenizerFast | None
) -> list[Dataset]:
    """DATASETS.REPLAY, a share of DATASETS.REPLAY_SHARE, without the settings of the task."""
    settings = cfg.clone()
    settings.defrost()
    datasets = settings.DATASETS
    datasets.TRAIN, datasets.TRAIN_DATASETNAME_SUFFIX = datasets.REPLAY, ""
    datasets.FEW_SHOT, datasets.GENERAL_COPY = 0, -1
    datasets.USE_OVERRIDE_CATEGORY = datasets.USE_CAPTION_PROMPT = False
    datasets.DISABLE_SHUFFLE = False
    factory = DatasetFactory(settings, transforms, tokenizer, is_train=True)
    sources = dataset_sources(settings, is_train=True)
    _require_captions(sources, "DATASETS.REPLAY")
    parts = [_build_dataset(factory, source) for source in sources]
    source = parts[0] if len(parts) == 1 else ConcatDataset(parts)
    replayed = ReplayDataset(source, replay_length(num_samples, datasets.REPLAY_SHARE))
    logger.info("%d samples of each pass are drawn from %s", len(replayed), source.name)
    return [replayed]


def _training_loader(
    cfg: CfgNode, datasets: list[Dataset], rank: int, world_size: int, start_iter: int
) -> DataLoader:
    dataset = datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
    write_schedule_length(cfg, len(dataset))
    accumulation = cfg.SOLVER.ACCUMULATION_STEPS
    sampler = TrainingBatchSampler(
        len(dataset),
        _share(cfg.SOLVER.IMS_PER_BATCH, world_size * accumulation, "SOLVER.IMS_PER_BATCH"),
        cfg.SOLVER.MAX_ITER * accumulation,
        seed=_order_seed(cfg),
        rank=rank,
        world_size=world_size,
        accumulation_steps=accumulation,
        groups=_groups(cfg, dataset),
        start=start_iter * accumulation,
    )
    collate = BatchCollator(cfg.DATALOADER.SIZE_DIVISIBILITY, numbered=True)
    return _loader(cfg, dataset, sampler, collate)


def _test_loader(cfg: CfgNode, dataset: Dataset, rank: int, world_size: int) -> DataLoader:
    sampler = EvaluationBatchSampler(
        len(dataset),
        _share(cfg.TEST.IMS_PER_BATCH, world_size, "TEST.IMS_PER_BATCH"),
        rank=rank,
        world_size=world_size,
        groups=_groups(cfg, dataset),
        pictures=dataset.pictures(),
    )
    collate = BatchCollator(cfg.DATALOADER.SIZE_DIVISIBILITY)
    return _loader(
        cfg, dataset, sampler, RawImageCollator() if cfg.TEST.USE_MULTISCALE else collate
    )


def _loader(cfg: CfgNode, dataset: Dataset, sampler, collate: Callable) -> DataLoader:
    return PlainErrorLoader(
        dataset,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        batch_sampler=sampler,
        collate_fn=collate,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available(),
    )


def _share(total: int, parts: int, key: str) -> int:
    if total % parts:
        raise ConfigError(
            f"{key} is {total}, which {parts} (processes times accumulation steps) does not divide"
        )
    return total // parts


def _groups(cfg: CfgNode, dataset: Dataset) -> np.ndarray | None:
    return aspect_groups(dataset.sizes()) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None


def _order_seed(cfg: CfgNode) -> int:
    """Seed of the data order: SOLVER.SEED, or with DATALOADER.USE_RANDOM_SEED a new one for each
    run.

    A run with a random seed cannot be resumed with the same order.
    """
    if not cfg.DATALOADER.USE_RANDOM_SEED:
        return cfg.SOLVER.SEED
    seed = comm.broadcast(secrets.randbits(31))
    logger.info("Seed of the data order: %d", seed)
    return seed
