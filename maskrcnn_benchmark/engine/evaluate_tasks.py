"""Evaluate a model on the test sets of a configuration, or of several task files."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config.dataset_sources import dataset_sources
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.evaluation import file_identity
from maskrcnn_benchmark.modeling.compilation import compile_for_evaluation
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import POINTER, load_weights, resolve_weight
from maskrcnn_benchmark.utils.random_state import seed_all

from .class_sentences import check_knowledge
from .device import choose_device
from .inference import inference
from .parallel import unwrapped

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One evaluation: a test set with the settings it is evaluated under.

    Attributes:
        name: for the final table.
        config: DATASETS.TEST has this set alone.
        dataset: name of the set.
        folder: where its results go, relative to the folder of the evaluation.
    """

    name: str
    config: CfgNode
    dataset: str
    folder: Path


def list_tasks(cfg: CfgNode, task_files: Sequence[str], opts: Sequence[str]) -> list[Task]:
    """The test sets of the configuration, or of each task file merged into it.

    Results of a set go to ``inference/<set>``. Many task files call their set ``val``; a name that
    occurs in several of them gets the task's name in between: ``inference/<task>/<set>``.

    Args:
        cfg: main configuration; task files are merged into copies of it.
        task_files: paths of YAML files; none means the sets of ``cfg`` itself.
        opts: KEY VALUE pairs of the command line, which win over task files.
    Raises:
        FileNotFoundError, ConfigError: a task file is missing or cannot be used.
        ConfigError: no test set anywhere, two task files of one name with one set name, or
            settings of GLIPKNOW that cannot work.
        DataError: a file of GLIPKNOW is malformed.
    """
    configs = [_merged(cfg, path, opts) for path in task_files] or [cfg]
    check_knowledge(configs)
    stems = [Path(path).stem for path in task_files] or [""]
    counts = Counter(name for config in configs for name in set(config.DATASETS.TEST))
    tasks = []
    for stem, config in zip(stems, configs):
        for dataset in dict.fromkeys(config.DATASETS.TEST):
            folder = (
                Path("inference", stem, dataset)
                if counts[dataset] > 1
                else Path("inference", dataset)
            )
            single = config.clone()
            single.defrost()
            single.DATASETS.TEST = (dataset,)
            single.freeze()
            name = f"{stem}: {dataset}" if stem else dataset
            tasks.append(Task(name, single, dataset, folder))
    if not tasks:
        raise ConfigError("DATASETS.TEST names no test set")
    folders = Counter(task.folder for task in tasks)
    for folder, count in folders.items():
        if count > 1:
            raise ConfigError(f"{count} task files would write to {folder}: give them other names")
    return tasks


def require_datasets(tasks: Sequence[Task]) -> None:
    """Look for the files of all test sets, before an hour is spent on the first.

    Raises:
        FileNotFoundError: naming the tasks whose files are not there.
        ConfigError: a set is unknown or its entry incomplete.
    """
    missing: dict[str, str] = {}
    for task in tasks:
        try:
            dataset_sources(task.config, is_train=False)
        except FileNotFoundError as error:
            missing[task.name] = str(error)
    if not missing:
        return
    first, problem = next(iter(missing.items()))
    others = f". The other task(s): {', '.join(list(missing)[1:])}" if len(missing) > 1 else ""
    raise FileNotFoundError(
        f"{len(missing)} of {len(tasks)} task(s) lack files. {first}: {problem}{others}"
    )


def _merged(cfg: CfgNode, path: str, opts: Sequence[str]) -> CfgNode:
    config = cfg.clone()
    config.defrost()
    config.merge_from_file(path)
    config.merge_from_list(opts)
    config.local_rank, config.num_gpus = cfg.local_rank, cfg.num_gpus
    config.freeze()
    return config


@dataclass(frozen=True)
class WeightChoice:
    """Which weights are evaluated.

    Attributes:
        path: the file; None evaluates the model as it was initialised.
        reason: why this one.
    """

    path: Path | None
    reason: str


def choose_weights(cfg: CfgNode, weight: str | None, opts: Sequence[str]) -> WeightChoice:
    """What the command line names, else the last checkpoint of OUTPUT_DIR, else MODEL.WEIGHT."""
    if weight:
        return WeightChoice(resolve_weight(weight, search=False), "--weight names it")
    if "MODEL.WEIGHT" in opts[::2] and cfg.MODEL.WEIGHT:
        path = resolve_weight(cfg.MODEL.WEIGHT)
        return WeightChoice(path, "MODEL.WEIGHT is given on the command line")
    pointer = Path(cfg.OUTPUT_DIR) / POINTER
    if pointer.is_file():
        return WeightChoice(pointer.parent / pointer.read_text().strip(), f"{pointer} names it")
    if cfg.MODEL.WEIGHT:
        return WeightChoice(resolve_weight(cfg.MODEL.WEIGHT), "the configuration names it")
    return WeightChoice(None, "no weights are configured")


def load_model(
    cfg: CfgNode, choice: WeightChoice, *, use_ema: bool, partial: bool, trust: bool
) -> GeneralizedVLRCNN:
    """The configured model in evaluation mode with these weights.

    Args:
        use_ema: take the averaged weights of a training checkpoint.
        partial: accept weights that fill only a part of the model.
        trust: see :func:`maskrcnn_benchmark.utils.checkpoint_files.read_checkpoint`.
    """
    device = choose_device(cfg.MODEL.DEVICE, cfg.local_rank)
    seed_all(cfg.SOLVER.SEED)
    model = build_detection_model(cfg)
    if choice.path is None:
        logger.warning("%s: evaluating the model as it was initialised", choice.reason)
    else:
        logger.info("evaluating %s, because %s", choice.path, choice.reason)
        key = "model_ema" if use_ema else "model"
        load_weights(model, choice.path, key=key, partial=partial, trust=trust)
    model.to(device).eval()
    compile_for_evaluation(model, cfg.TEST.COMPILE)
    return model


def evaluate_tasks(
    model: GeneralizedVLRCNN,
    tasks: Sequence[Task],
    log_dir: str | Path,
    weights: WeightChoice,
    *,
    use_ema: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, Any]]:
    """Evaluate one model on all tasks.

    The model stays as the main configuration built it; settings of data and evaluation come from
    the task.

    Returns:
        on every process task name to what :func:`.inference.inference` gives.
    """
    identity = [file_identity(weights.path), use_ema] if weights.path else None
    results = {}
    for task in tasks:
        (loader,) = make_data_loader(
            task.config,
            is_train=False,
            is_distributed=comm.is_distributed(),
            tokenizer=model.tokenizer,
        )
        results[task.name] = inference(
            task.config,
            model,
            loader,
            task.name,
            output_folder=Path(log_dir) / task.folder,
            box_only=task.config.MODEL.RPN_ONLY and task.config.DATASETS.CLASS_AGNOSTIC,
            weights_identity=identity,
            should_stop=should_stop,
        )
    return results


def run_test(
    cfg: CfgNode, model: nn.Module, distributed: bool, log_dir: str | Path
) -> dict[str, dict[str, Any]]:
    """Evaluate a model at hand on DATASETS.TEST, each set into ``log_dir/inference/<set>``.

    Args:
        model: may be wrapped in DistributedDataParallel; left in evaluation mode.
        distributed: accepted for calls written for the original; the process group decides.
    Returns:
        see :func:`evaluate_tasks`.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    nothing_named = WeightChoice(None, "the model is at hand")
    results = evaluate_tasks(unwrapped(model), list_tasks(cfg, (), ()), log_dir, nothing_named)
    comm.synchronize()
    return results
