"""Evaluate the checkpoints of fine-tuning folders, and put the numbers of many runs together."""

import csv
import io
import json
import logging
import math
import os
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.evaluation import file_identity
from maskrcnn_benchmark.utils.checkpoint_files import write_atomically

from .evaluate_tasks import WeightChoice, evaluate_tasks, list_tasks, load_model
from .finetuning import NO_TRAINING
from .finetuning_folder import OWNER_FILE, remembered, settings_digest
from .finetuning_start import write_json
from .main_process import on_main_process

logger = logging.getLogger(__name__)

BEST_STEM = "model_best"
VALIDATION_AND_TEST = ("val", "test")
_FOLDER = re.compile(r"ft_task_(\d+)(?:_seed_(\d+))?")
_PERIODIC = re.compile(r"model_(\d{7})")
_SCORES_FILE = "scores.json"


@dataclass(frozen=True)
class Row:
    """One number: a checkpoint of a run on one set.

    Attributes:
        folder: of the run.
        task, tuning: which task, what was trained.
        shots: None where nobody knows.
        seed: of the few-shot choice.
        checkpoint: stem of its file.
        dataset: name of the set.
        metric: name of the number.
        value: as a fraction; NaN where the set has no annotations.
    """

    folder: str
    task: str
    tuning: str
    shots: int | None
    seed: int | None
    checkpoint: str
    dataset: str
    metric: str
    value: float


def find_run_folders(patterns: Sequence[str]) -> list[Path]:
    """Folders of runs: those given, or the ``ft_task_*`` folders inside them.

    Args:
        patterns: paths that may hold ``*`` and ``?``.
    Raises:
        FileNotFoundError: a pattern matches no folder.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = [Path(p) for p in sorted(glob(pattern)) if Path(p).is_dir()]  # noqa: PTH207
        if not matches:
            raise FileNotFoundError(f"no folder matches {pattern} (working folder {Path.cwd()})")
        for match in matches:
            inner = [p for p in match.iterdir() if p.is_dir() and _FOLDER.fullmatch(p.name)]
            found += sorted(inner, key=_folder_order) if inner else [match]
    return list(dict.fromkeys(found))


def _folder_order(folder: Path) -> tuple[int, int]:
    task, seed = _FOLDER.fullmatch(folder.name).groups()
    return int(task), int(seed or -1)


def find_checkpoints(folder: Path, *, only_best: bool, frequency: int = 1) -> list[Path]:
    """Checkpoints of a folder, by name.

    Args:
        only_best: those whose name ends in ``model_best.pth``.
        frequency: of ``model_<iteration>`` only every iteration that this divides.
    """
    if frequency < 1:
        raise ConfigError(f"--eval_freq is {frequency}; it must be at least 1")
    chosen = []
    for path in sorted(folder.glob("*.pth")):
        periodic = _PERIODIC.fullmatch(path.stem)
        if only_best:
            wanted = path.name.endswith(f"{BEST_STEM}.pth")
        else:
            wanted = periodic is None or int(periodic[1]) % frequency == 0
        if wanted and not path.name.startswith("."):
            chosen.append(path)
    return chosen


def config_of_folder(base: CfgNode, folder: Path, opts: Sequence[str]) -> CfgNode:
    """Settings that a run was saved with, then the command line; ``base`` where none were saved."""
    config = base.clone()
    config.defrost()
    saved = folder / "config.yml"
    if saved.is_file():
        place = (config.local_rank, config.num_gpus)
        config.DATASETS.REGISTER.clear()
        config.merge_from_file(saved)
        config.merge_from_list(opts)
        config.local_rank, config.num_gpus = place
    else:
        logger.warning("%s has no config.yml: the settings of --config-file are used", folder)
    config.OUTPUT_DIR = str(folder)
    config.freeze()
    return config


def evaluate_folder(
    config: CfgNode,
    *,
    only_best: bool,
    frequency: int = 1,
    trust: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Evaluate the checkpoints of ``config.OUTPUT_DIR``; numbers that are there already are kept.

    Results go to ``eval/<checkpoint>/inference/<set>``.

    Args:
        only_best: ``model_best`` on "val" and "test"; otherwise every checkpoint on DATASETS.TEST.
        frequency: see :func:`find_checkpoints`.
        should_stop: see :func:`.inference.inference`.
    Raises:
        EvaluationInterrupted: on all processes, if one was told to stop.
    """
    folder = Path(config.OUTPUT_DIR)
    rows: list[Row] = []
    config = _with_sets(config, folder) if only_best else config
    tasks = list_tasks(config, [], [])
    use_ema = only_best and config.SOLVER.USE_EMA_FOR_MONITOR and config.SOLVER.MODEL_EMA > 0
    for path in find_checkpoints(folder, only_best=only_best, frequency=frequency):
        log_dir = folder / "eval" / path.stem
        identity = [file_identity(path), use_ema, settings_digest(config), _test_settings(config)]
        known = remembered(log_dir / _SCORES_FILE)
        scores = known["sets"] if known.get("identity") == _plain(identity) else {}
        left = [task for task in tasks if task.dataset not in scores]
        if left:
            choice = WeightChoice(path, f"{folder} is evaluated")
            model = load_model(config, choice, use_ema=use_ema, partial=False, trust=trust)
            for task in left:
                logger.info("Evaluating on %s", task.dataset)
                (result,) = evaluate_tasks(
                    model, [task], log_dir, choice, use_ema=use_ema, should_stop=should_stop
                ).values()
                scores[task.dataset] = {"metric": result["primary"], "value": result["value"]}
                content = {"identity": identity, "sets": dict(scores)}
                on_main_process(lambda c=content, d=log_dir: write_json(d / _SCORES_FILE, c))
        rows += _rows(config, path.stem, {task.dataset: scores[task.dataset] for task in tasks})
    return rows


def known_rows(config: CfgNode) -> list[Row]:
    """The numbers of earlier evaluations of ``config.OUTPUT_DIR``."""
    rows: list[Row] = []
    for path in sorted(Path(config.OUTPUT_DIR).glob(f"eval/*/{_SCORES_FILE}")):
        rows += _rows(config, path.parent.name, remembered(path)["sets"])
    return rows


def _with_sets(config: CfgNode, folder: Path) -> CfgNode:
    names = [name for name in VALIDATION_AND_TEST if name in config.DATASETS.REGISTER]
    missing = set(VALIDATION_AND_TEST) - set(names)
    if missing:
        logger.warning("%s: its task has no %s", folder, " and no ".join(sorted(missing)))
    config = config.clone()
    config.defrost()
    config.DATASETS.TEST = tuple(names) or config.DATASETS.TEST
    # Copies are for training's own validation; each image counts once here.
    config.DATASETS.GENERAL_COPY_TEST = -1
    config.freeze()
    return config


def _test_settings(config: CfgNode) -> str:
    return repr(sorted(config.TEST.items()))


def _plain(value: Any) -> Any:
    """As it comes back from a JSON file."""
    return json.loads(json.dumps(value, default=str))


def _rows(config: CfgNode, checkpoint: str, scores: dict[str, dict[str, Any]]) -> list[Row]:
    folder = Path(config.OUTPUT_DIR)
    owner = remembered(folder / OWNER_FILE)
    name = _FOLDER.fullmatch(folder.name)
    seed = owner.get("shuffle_seed", int(name[2]) if name and name[2] else None)
    return [
        Row(
            folder=str(folder),
            task=owner.get("task", folder.name),
            tuning=str(owner.get("tuning", config.SOLVER.TUNING_HIGHLEVEL_OVERRIDE) or "-"),
            shots=owner.get("shots", config.DATASETS.FEW_SHOT),
            seed=seed,
            checkpoint=checkpoint,
            dataset=dataset,
            metric=score["metric"],
            value=score["value"],
        )
        for dataset, score in scores.items()
    ]


# ---- together -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, or the mean of all tasks.

    Attributes:
        task: "mean of <n> tasks" for the mean.
        mean: over seeds.
        deviation: sample standard deviation over seeds; None with a single one.
        seeds: how many.
        folder: that holds the runs, where runs of another folder have the same task, tuning, shots
            and seed; else "".
    """

    task: str
    tuning: str
    shots: int | None
    checkpoint: str
    dataset: str
    metric: str
    mean: float
    deviation: float | None
    seeds: int
    folder: str = ""


def aggregate(rows: Iterable[Row]) -> list[Group]:
    """Mean and standard deviation over seeds, per task and then of the mean over tasks.

    The mean over tasks is taken seed by seed, so that its deviation is that of the benchmark's
    number, and only over seeds that all tasks have. Runs that differ in something else, such as
    the learning rate, are told apart by the folders that hold them.
    """
    known = [row for row in rows if not math.isnan(row.value)]
    folders = _telling_folders(known)
    by_setting: dict[tuple, dict[str, dict[Any, float]]] = {}
    for row in _with_distinct_tasks(known):
        folder = folders.get((row.tuning, row.shots), {}).get(row.folder, "")
        setting = (row.tuning, row.shots, row.checkpoint, row.dataset, row.metric, folder)
        by_setting.setdefault(setting, {}).setdefault(row.task, {})[row.seed] = row.value
    groups = []
    for setting, tasks in sorted(by_setting.items(), key=lambda item: _setting_order(item[0])):
        for task, values in sorted(tasks.items()):
            groups.append(_group(task, setting, list(values.values())))
        shared = set.intersection(*(set(values) for values in tasks.values()))
        if len(tasks) > 1 and shared:
            means = [
                statistics.fmean(values[seed] for values in tasks.values())
                for seed in sorted(shared, key=str)
            ]
            groups.append(_group(f"mean of {len(tasks)} tasks", setting, means))
    return groups


def _same_runs(rows: Sequence[Row]) -> dict[tuple, set[Path]]:
    """(tuning, shots, task, seed) that several folders share -> these folders."""
    found: dict[tuple, set[Path]] = {}
    for row in rows:
        key = (row.tuning, row.shots, row.task, row.seed)
        found.setdefault(key, set()).add(Path(row.folder).resolve())
    return {key: folders for key, folders in found.items() if len(folders) > 1}


def _telling_folders(rows: Sequence[Row]) -> dict[tuple, dict[str, str]]:
    """(tuning, shots) with a run that occurs under several parents -> folder -> short parent."""
    ambiguous = {
        key[:2] for key, folders in _same_runs(rows).items() if len({f.parent for f in folders}) > 1
    }
    if not ambiguous:
        return {}
    parents = {row.folder: Path(row.folder).resolve().parent for row in rows}
    common = Path(os.path.commonpath(parents.values()))
    if common in parents.values():
        common = common.parent
    short = {folder: str(parent.relative_to(common)) for folder, parent in parents.items()}
    return dict.fromkeys(ambiguous, short)


def _with_distinct_tasks(rows: Sequence[Row]) -> list[Row]:
    """Tasks of one name beside each other, from files of equal stem, get their folder's name too."""
    ambiguous = set()
    for (_, _, task, _), folders in _same_runs(rows).items():
        parents = [folder.parent for folder in folders]
        ambiguous |= {(task, parent) for parent in parents if parents.count(parent) > 1}
    distinct = []
    for row in rows:
        folder = Path(row.folder).resolve()
        if (row.task, folder.parent) in ambiguous:
            seed = f"_seed_{row.seed}"  # one name for all seeds
            name = f"{folder.name.removesuffix(seed)}_seed_*"
            name = name if folder.name.endswith(seed) else folder.name
            row = replace(row, task=f"{row.task} ({name})")
        distinct.append(row)
    return distinct


def _setting_order(setting: tuple) -> tuple:
    tuning, shots, checkpoint, dataset, metric, folder = setting
    # Nothing trained comes before the few, all data (0 shots) after them.
    amount = -1 if shots == NO_TRAINING else shots or math.inf
    return tuning, amount, folder, checkpoint, dataset == "test", dataset, metric


def _group(task: str, setting: tuple, values: Sequence[float]) -> Group:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    *names, folder = setting
    return Group(task, *names, statistics.fmean(values), deviation, len(values), folder)


def markdown_table(groups: Sequence[Group]) -> str:
    """Percent, mean ± standard deviation over seeds; with the folder where that tells runs apart."""
    heads = ["task", "tuning", "shots", *_folder_head(groups)]
    heads += ["checkpoint", "set", "metric", "value", "seeds"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for g in groups:
        cells = [g.task, g.tuning, _shots(g.shots), *_folder_cell(g.folder, heads)]
        cells += [g.checkpoint, g.dataset, g.metric, _value(g), str(g.seeds)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def comparison_table(groups: Sequence[Group]) -> str:
    """A line per tuning mode, number of shots and telling folder, a column per task and set."""
    values: dict[tuple, dict[tuple, str]] = {}
    columns: dict[tuple, None] = {}
    for g in groups:
        column = (g.task, g.dataset, g.metric)
        columns[column] = None
        values.setdefault((g.tuning, g.shots, g.folder, g.checkpoint), {})[column] = _value(g)
    heads = ["tuning", "shots", *_folder_head(groups), "checkpoint"]
    heads += [f"{t}: {s} {metric}" for t, s, metric in columns]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (tuning, shots, folder, checkpoint), found in values.items():
        cells = [tuning, _shots(shots), *_folder_cell(folder, heads), checkpoint]
        cells += [found.get(c, "-") for c in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _folder_head(groups: Sequence[Group]) -> list[str]:
    return ["folder"] if any(g.folder for g in groups) else []


def _folder_cell(folder: str, heads: Sequence[str]) -> list[str]:
    return [folder or "-"] if "folder" in heads else []


def _value(group: Group) -> str:
    value = f"{100 * group.mean:.1f}"
    return value if group.deviation is None else f"{value} ± {100 * group.deviation:.1f}"


def _shots(shots: int | None) -> str:
    names = {None: "-", 0: "all", NO_TRAINING: "none"}
    return names.get(shots, str(shots))


def write_summary(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write ``eval_summary.json``, ``.csv`` (one line per number) and ``.md`` (both tables)."""
    groups = aggregate(rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, [*Row.__dataclass_fields__])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    content = {"runs": [asdict(r) for r in rows], "groups": [asdict(g) for g in groups]}
    paths = [folder / f"eval_summary.{kind}" for kind in ("json", "csv", "md")]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(paths[0], content)
    tables = f"{markdown_table(groups)}\n\n{comparison_table(groups)}\n"
    for path, text in ((paths[1], table.getvalue()), (paths[2], tables)):
        write_atomically(path, lambda file, text=text: file.write(text.encode()))
    return paths
