"""One fine-tuning run from its data to its results."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import POINTER, load_weights, resolve_weight
from maskrcnn_benchmark.utils.checkpoint_files import (
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)
from maskrcnn_benchmark.utils.model_serialization import find_weights

from .command_line import CONFIG_FILE, changed_settings, save_config
from .evaluate_tasks import Task, WeightChoice, evaluate_tasks, list_tasks, load_model
from .finetuning import FinetuningRun, describe_tuning
from .finetuning_cache import build_frozen_features
from .finetuning_cost import CostReport
from .finetuning_data import derive_class_count, inspect_run, require_usable
from .finetuning_folder import (
    FINISHED_FILE,
    decides_weights,
    describe_owner,
    finished_record,
    own_folder,
    record_finish,
    remembered,
)
from .finetuning_prompt import describe_prompt
from .finetuning_start import build_pull_to_start, load_start_weights, log_few_shot, write_json
from .hooks import Validation
from .main_process import on_main_process
from .parallel import refuse_shared_evaluation
from .stop_request import EvaluationInterrupted, StopRequest
from .trainer import build_trainer
from .training_loop import Trainer

logger = logging.getLogger(__name__)

BEST = "model_best.pth"
RESULTS_FILE = "results.json"
ZERO_SHOT_FILE = "zero_shot.json"
FEW_SHOT_FILE = "few_shot_images.json"
PARAMETERS_FILE = "parameters.txt"
LISTED = 12  # names of parameters in the log


@dataclass(frozen=True)
class FinetuningOptions:
    """What a command does with each of its runs.

    Attributes:
        opts: KEY VALUE pairs of the command line.
        train, test: do it.
        extra_tests: registered sets to test on beside DATASETS.TEST.
        resume_optimizer: False continues a stopped run with its weights alone, from iteration 0.
        base: main configuration, under which old-world tasks are evaluated.
        old_world: files of tasks that the model should not forget; evaluated before and after.
        trust: see :func:`maskrcnn_benchmark.utils.checkpoint_files.read_checkpoint`.
    """

    opts: Sequence[str] = ()
    train: bool = True
    test: bool = True
    extra_tests: Sequence[str] = ()
    resume_optimizer: bool = True
    base: CfgNode | None = None
    old_world: Sequence[str] = ()
    trust: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run went.

    Attributes:
        stopped: a signal ended it early; the same command goes on.
        results: set to what was measured, see :func:`.inference.inference`.
    """

    stopped: bool = False
    results: dict[str, dict[str, Any]] = field(default_factory=dict)


def run_finetuning(run: FinetuningRun, options: FinetuningOptions) -> Outcome:
    """Check the data, train, test; what an earlier command has done already is left out.

    Raises:
        ConfigError, CheckpointError, AnnotationError, FileNotFoundError: settings, weights or data
            cannot be used; before the first iteration.
    """
    with own_folder(run):
        reports = inspect_run(run.config)
        on_main_process(lambda: require_usable(reports))
        config = run.config.clone()
        config.defrost()
        derive_class_count(config, reports, options.opts)
        config.freeze()
        logger.info("%s", describe_prompt(config, reports))
        record = finished_record(run, config)
        if record is not None and options.train:
            logger.info("%s is finished (%s): not trained again", run.folder, record["reason"])
            if not _left_to_test(run, config, options):
                return Outcome(results=remembered(run.folder / RESULTS_FILE).get("sets", {}))
        logger.info(
            "tuning mode %s: %s",
            config.SOLVER.TUNING_HIGHLEVEL_OVERRIDE,
            describe_tuning(config),
        )
        if run.trains and options.train and record is None:
            if not _train(run, config, options):
                return Outcome(stopped=True)
        elif options.train or not (run.folder / FINISHED_FILE).is_file():
            save_config(config, run.folder)  # else it keeps the settings it was trained under
        if not run.trains:
            _copy_start_weights(run, config, options.trust)
        return _test(run, config, options)


def _train(run: FinetuningRun, config: CfgNode, options: FinetuningOptions) -> bool:
    """Train to the end; False if a signal came before."""
    if options.old_world:
        refuse_shared_evaluation(config, "--old-world")
    settings = config.clone()  # the loader writes the length of the run into it
    trainer = build_trainer(settings)
    earlier = remembered(run.folder / FINISHED_FILE)
    if earlier and options.resume_optimizer:
        _refuse_other_settings(run, config, trainer)
    save_config(config, run.folder)
    log_few_shot(trainer.loader.dataset, settings, run.folder / FEW_SHOT_FILE)
    log_trainable(trainer.model, run.folder / PARAMETERS_FILE)
    if not _begin(run, trainer, settings, options):
        return False
    build_frozen_features(settings, trainer.model, trainer.loader.dataset)
    cost = CostReport(settings.SOLVER.IMS_PER_BATCH)
    cost.attach(trainer)
    if trainer.finished:
        logger.info("%s: all %d iterations are done", run.folder, trainer.max_iter)
        if earlier:
            facts = {key: value for key, value in earlier.items() if key != "settings"}
            record_finish(run, config, **facts)
            return True
    elif not trainer.train():
        return False
    validation = next((hook for hook in trainer.hooks if isinstance(hook, Validation)), None)
    record_finish(
        run,
        config,
        reason=trainer.terminated or f"all {trainer.max_iter} iterations are done",
        iteration=trainer.iteration,
        best_validation=None if validation is None else validation.best,
        images_per_second=cost.images_per_second,
        peak_memory_mib=cost.peak_memory_mib,
    )
    return True


def _refuse_other_settings(run: FinetuningRun, config: CfgNode, trainer: Trainer) -> None:
    """Keep a finished run from being passed off as one of settings it was not trained under.

    Raises:
        ConfigError: naming the settings, if not one iteration would be trained under them.
    """
    saved = trainer.checkpoints.latest()
    if saved is None:
        return
    terminated = (saved.contents.get("trainer") or {}).get("terminated")
    if terminated is None and saved.contents.get("iteration", 0) < trainer.max_iter:
        return
    path = run.folder / CONFIG_FILE
    changed = on_main_process(lambda: changed_settings(path, config) if path.is_file() else {})
    keys = [key for key in changed if decides_weights(key)]
    if not keys:
        return
    longer = ", or raise SOLVER.MAX_EPOCH to go on" if terminated is None else ""
    raise ConfigError(
        f"{run.folder} was finished under other settings: {', '.join(keys)}; choose another "
        f"OUTPUT_DIR{longer}"
    )


def _begin(
    run: FinetuningRun, trainer: Trainer, config: CfgNode, options: FinetuningOptions
) -> bool:
    """Fill model and trainer with what the run starts or continues from; False after a signal."""
    saved = trainer.checkpoints.latest()
    pulls = config.SOLVER.PULL_TO_START != 0
    measured = remembered(run.folder / ZERO_SHOT_FILE)
    measures = bool(options.old_world) and "before" not in measured
    if saved is None or pulls or measures:
        path = load_start_weights(trainer.model, config.MODEL.WEIGHT, trust=options.trust)
        logger.info("start: %s", path or "new weights, no MODEL.WEIGHT is configured")
        trainer.restart_average()
    if measures and not _measure_zero_shot(run, config, options, trainer.model, "before"):
        return False
    if pulls:
        build_pull_to_start(config, trainer.step.optimizer)
    if saved is None:
        return True
    if options.resume_optimizer:
        trainer.load_state_dict(saved.contents)
        logger.warning("continuing from %s at iteration %d", saved.path, trainer.iteration)
    else:
        load_weights(trainer.model, saved.path, partial=False, trust=options.trust)
        trainer.restart_average()
        logger.warning("starting again at iteration 0 with the weights of %s", saved.path)
    return True


def log_trainable(model: nn.Module, path: Path) -> list[str]:
    """Write a line "Frozen" or "Not Frozen" for every parameter; returns the names that train."""
    lines, names, counts = [], [], {True: 0, False: 0}
    for name, parameter in model.named_parameters():
        counts[parameter.requires_grad] += parameter.numel()
        lines.append(f"{name}: {'Not Frozen' if parameter.requires_grad else 'Frozen'}")
        if parameter.requires_grad:
            names.append(name)
    if comm.is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    logger.info(
        "%d tensors with %d parameters train, %d parameters are frozen (%s): %s",
        len(names),
        counts[True],
        counts[False],
        path,
        ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else ""),
    )
    return names


def _copy_start_weights(run: FinetuningRun, config: CfgNode, trust: bool) -> None:
    """The initial weights as the best of a run without training."""

    def copy() -> None:
        path = resolve_weight(config.MODEL.WEIGHT)
        if not config.MODEL.WEIGHT:
            raise CheckpointError("a run without training needs MODEL.WEIGHT")
        weights = find_weights(read_checkpoint(path, trust=trust))
        write_checkpoint(run.folder / BEST, {"model": weights, "iteration": 0})

    on_main_process(copy)


# ---- testing ------------------------------------------------------------------------------------


def _tasks(config: CfgNode, options: FinetuningOptions) -> list[Task]:
    extra = [name for name in options.extra_tests if name in config.DATASETS.REGISTER]
    with_extra = config.clone()
    with_extra.defrost()
    with_extra.DATASETS.TEST = tuple(dict.fromkeys([*config.DATASETS.TEST, *extra]))
    with_extra.freeze()
    return list_tasks(with_extra, [], [])


def _left_to_test(run: FinetuningRun, config: CfgNode, options: FinetuningOptions) -> bool:
    if options.old_world and "after" not in remembered(run.folder / ZERO_SHOT_FILE):
        return True
    if not options.test:
        return False
    done = remembered(run.folder / RESULTS_FILE).get("sets", {})
    return any(task.dataset not in done for task in _tasks(config, options))


def choose_result(folder: Path, config: CfgNode) -> tuple[WeightChoice, bool]:
    """The weights that a run stands for, and whether to take the average in them.

    The best by validation, else the last ones, else the initial ones.
    """
    if (folder / BEST).is_file():
        use_ema = config.SOLVER.USE_EMA_FOR_MONITOR and config.SOLVER.MODEL_EMA > 0
        return WeightChoice(folder / BEST, "it is the best by validation"), use_ema
    pointer = folder / POINTER
    if pointer.is_file():
        return WeightChoice(folder / pointer.read_text().strip(), f"{pointer} names it"), False
    if config.MODEL.WEIGHT:
        path = resolve_weight(config.MODEL.WEIGHT)
        return WeightChoice(path, "nothing was trained: zero-shot"), False
    return WeightChoice(None, "nothing was trained and no weights are configured"), False


def _test(run: FinetuningRun, config: CfgNode, options: FinetuningOptions) -> Outcome:
    if not options.test and not options.old_world:
        return Outcome()
    choice, use_ema = choose_result(run.folder, config)
    model = load_model(config, choice, use_ema=use_ema, partial=True, trust=options.trust)
    if options.old_world and not _measure_zero_shot(run, config, options, model, "after"):
        return Outcome(stopped=True)
    if not options.test:
        return Outcome()
    results = _evaluate(model, _tasks(config, options), run.folder, choice, use_ema)
    if results is None:
        return Outcome(stopped=True)
    content = {
        **describe_owner(run),
        "seed": run.seed,
        "weights": str(choice.path),
        "sets": {name: _short(result) for name, result in results.items()},
    }
    on_main_process(lambda: write_json(run.folder / RESULTS_FILE, content))
    return Outcome(results=results)


def _evaluate(
    model: nn.Module, tasks: Sequence[Task], folder: Path, choice: WeightChoice, use_ema: bool
) -> dict[str, dict[str, Any]] | None:
    """Results by name of task; None if a signal came before the end."""
    with StopRequest() as stop:
        try:
            return evaluate_tasks(
                model, tasks, folder, choice, use_ema=use_ema, should_stop=lambda: bool(stop)
            )
        except EvaluationInterrupted:
            return None


def _short(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("primary", "value", "metrics")}


def _measure_zero_shot(
    run: FinetuningRun, config: CfgNode, options: FinetuningOptions, model: nn.Module, moment: str
) -> bool:
    """Evaluate on the new classes and on the old world, and keep the numbers; False if stopped.

    Args:
        moment: "before" or "after" fine-tuning.
    """
    path = run.folder / ZERO_SHOT_FILE
    old = list_tasks(options.base, options.old_world, options.opts)
    choice = WeightChoice(None, moment)
    results: dict[str, Any] = {}
    for kind, tasks in (("new classes", _tasks(config, options)), ("old world", old)):
        folder = run.folder / "zero_shot" / moment / kind.replace(" ", "_")
        found = _evaluate(model, tasks, folder, choice, use_ema=False)
        if found is None:
            return False
        results.update({f"{kind}, {name}": _short(r) for name, r in found.items()})
    content = {**remembered(path), moment: results}
    on_main_process(lambda: write_json(path, content))
    if comm.is_main_process() and {"before", "after"} <= content.keys():
        logger.info("before and after fine-tuning:\n%s", zero_shot_table(content))
    return True


def zero_shot_table(content: dict[str, dict[str, Any]]) -> str:
    """Markdown table of the file ``zero_shot.json``."""
    lines = ["| set | metric | before | after |", "|---|---|---|---|"]
    for name, before in content["before"].items():
        after = content["after"].get(name)
        shown = "-" if after is None else f"{100 * after['value']:.1f}"
        lines.append(f"| {name} | {before['primary']} | {100 * before['value']:.1f} | {shown} |")
    return "\n".join(lines)
