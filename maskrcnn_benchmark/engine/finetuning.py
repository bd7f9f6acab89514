"""Fine-tuning commands: which runs they ask for, under which settings, and what trains in each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils.checkpoint import POINTER

logger = logging.getLogger(__name__)

# "Shots" of a run that trains nothing: the initial weights become its result.
NO_TRAINING = 10000

# FIBER's downloads are themselves called "last_checkpoint"; only this name is a reference.
_LAST_OF_FOLDER = "model_last_checkpoint.pth"


@dataclass(frozen=True)
class Schedule:
    """The value of --custom_shot_and_epoch_and_general_copy: ``shots_epochs_copies[_valshots]``.

    Attributes:
        shots: training images per class; 0: all; ``NO_TRAINING``: none.
        epochs: passes over the data, copies included.
        copies: how often the training set is repeated within an epoch.
        validation_shots: images per class of a prepared validation set.
    """

    shots: int
    epochs: int
    copies: int
    validation_shots: int

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read ``"3_200_4"`` or ``"3_200_4_1"``.

        Raises:
            ConfigError: it is not three or four whole numbers, or there is nothing to repeat.
        """
        parts = text.split("_")
        if len(parts) not in (3, 4) or not all(part.isdigit() for part in parts):
            raise ConfigError(
                f"--custom_shot_and_epoch_and_general_copy is {text!r}; it must be "
                "shots_epochs_copies such as 3_200_4 (0 shots: all data), or with a fourth number, "
                "the shots of a prepared validation set"
            )
        shots, epochs, copies, *rest = map(int, parts)
        if epochs < 1 or copies < 1:
            raise ConfigError(
                f"--custom_shot_and_epoch_and_general_copy {text!r}: epochs and copies must be at "
                "least 1"
            )
        return cls(shots, epochs, copies, rest[0] if rest else shots)


@dataclass(frozen=True)
class FinetuningRun:
    """One training on one task.

    Attributes:
        task: name of the task, the stem of its file.
        task_file: None where the configuration file itself is the task.
        config: frozen, OUTPUT_DIR is the folder of the run.
        seed: of --shuffle_seeds.
        shots: training images per class; 0: all; ``NO_TRAINING``: the initial weights are the
            result.
    """

    task: str
    task_file: str | None
    config: CfgNode
    seed: int | None
    shots: int

    @property
    def trains(self) -> bool:
        """False if the initial weights are the result."""
        return self.shots != NO_TRAINING

    @property
    def folder(self) -> Path:
        """Where everything of the run goes."""
        return Path(self.config.OUTPUT_DIR)


def plan_runs(
    base: CfgNode,
    opts: Sequence[str],
    *,
    config_file: str,
    task_files: Sequence[str] = (),
    schedule: Schedule | None = None,
    seeds: Sequence[int] = (),
    prepared_data: bool = False,
) -> list[FinetuningRun]:
    """Every task with every seed, in folders ``ft_task_<k>`` or ``ft_task_<k>_seed_<s>``.

    Settings of a run: ``base``, then the task file, then the command line, then schedule and seed,
    then the command line again. A seed of ``seeds`` wins over DATASETS.SHUFFLE_SEED, and is added
    to SOLVER.SEED, so that runs on all data differ as well.

    Args:
        base: merged main configuration; OUTPUT_DIR is the parent of the folders.
        opts: KEY VALUE pairs of the command line.
        config_file: file of ``base``; the only task where ``task_files`` is empty.
        task_files: YAML files, see :func:`expand_task_files`.
        prepared_data: train and validate on the registered subsets ``<set>_<shots>_<seed>``.
    Raises:
        ConfigError: a setting cannot be used, or a prepared subset is not registered.
    """
    runs = []
    for number, task_file in enumerate(task_files or [None], start=1):
        for seed in seeds or [None]:
            config = base.clone()
            config.defrost()
            place = (config.local_rank, config.num_gpus)
            if task_file is not None:
                config.merge_from_file(task_file)
            config.merge_from_list(opts)
            _set_seed(config, seed, opts)
            if schedule is not None:
                _apply_schedule(config, schedule, prepared_data)
            config.merge_from_list(opts)
            _set_seed(config, seed, ())
            if seed is not None:
                config.SOLVER.SEED += seed
            config.local_rank, config.num_gpus = place
            config.MODEL.WEIGHT = resolve_last_checkpoint(config.MODEL.WEIGHT)
            folder = f"ft_task_{number}" + ("" if seed is None else f"_seed_{seed}")
            config.OUTPUT_DIR = str(Path(base.OUTPUT_DIR) / folder)
            apply_tuning_mode(config)
            config.freeze()
            shots = config.DATASETS.FEW_SHOT if schedule is None else schedule.shots
            name = Path(task_file or config_file).stem
            runs.append(FinetuningRun(name, task_file, config, seed, shots))
    return runs


def expand_task_files(pattern: str, option: str = "--ft-tasks") -> list[str]:
    """Paths of a comma-separated list whose items may hold ``*`` and ``?``.

    Matches of one item are sorted; a file that is named twice counts once.

    Args:
        option: what the list was given as, for messages.
    Raises:
        FileNotFoundError: an item matches nothing.
    """
    found: list[str] = []
    for item in filter(None, (part.strip() for part in pattern.split(","))):
        matches = [item] if Path(item).is_file() else sorted(glob(item))  # noqa: PTH207 - absolute patterns too
        if not matches:
            raise FileNotFoundError(
                f"{option}: no file matches {item} (working folder {Path.cwd()})"
            )
        found += matches
    distinct: dict[Path, str] = {}
    for path in found:
        distinct.setdefault(Path(path).resolve(), path)
    if len(distinct) < len(found):
        logger.warning("%s names %d file(s) twice", option, len(found) - len(distinct))
    return list(distinct.values())


def parse_seeds(text: str | None) -> list[int]:
    """Whole numbers of a comma-separated list.

    Raises:
        ConfigError: something else, or a number given twice (two runs would share a folder).
    """
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    if not all(word.isdigit() for word in words):
        raise ConfigError(f"--shuffle_seeds is {text!r}; it must be a list such as 3,30,300")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--shuffle_seeds {text}: every seed can be given once")
    return seeds


def _set_seed(config: CfgNode, seed: int | None, opts: Sequence[str]) -> None:
    if seed is None:
        return
    if "DATASETS.SHUFFLE_SEED" in opts[::2] and seed != config.DATASETS.SHUFFLE_SEED:
        logger.warning(
            "--shuffle_seeds sets DATASETS.SHUFFLE_SEED to %d; the %d of the command line is not "
            "used",
            seed,
            config.DATASETS.SHUFFLE_SEED,
        )
    config.DATASETS.SHUFFLE_SEED = seed


def _apply_schedule(config: CfgNode, schedule: Schedule, prepared_data: bool) -> None:
    config.SOLVER.MAX_EPOCH = schedule.epochs
    config.DATASETS.GENERAL_COPY = schedule.copies
    shots = 0 if schedule.shots == NO_TRAINING else schedule.shots
    if not prepared_data:
        config.DATASETS.FEW_SHOT = shots
        return
    if shots == 0:
        return
    seed = config.DATASETS.SHUFFLE_SEED
    for key, number in (("TRAIN", shots), ("TEST", schedule.validation_shots)):
        name = f"{config.DATASETS[key][0]}_{number}_{seed}"
        if name not in config.DATASETS.REGISTER:
            prepared = [n for n in config.DATASETS.REGISTER if n.rpartition("_")[2].isdigit()]
            raise ConfigError(
                f"--use_prepared_data: the task registers no set {name!r} (shots {number}, seed "
                f"{seed}); it has {', '.join(prepared) or 'no prepared sets'}. Choose the seed "
                "with --shuffle_seeds or DATASETS.SHUFFLE_SEED, or leave --use_prepared_data away."
            )
        config.DATASETS[key] = (name,)
    # The original repeated small validation sets, so that every process had an image; here a process
    # without one waits for the others.


def resolve_last_checkpoint(weight: str) -> str:
    """``<dir>/model_last_checkpoint.pth`` stands for the file that ``<dir>/last_checkpoint`` names."""
    path = Path(weight)
    if path.name != _LAST_OF_FOLDER or path.is_file():
        return weight
    pointer = path.with_name(POINTER)
    if not pointer.is_file():
        raise FileNotFoundError(f"MODEL.WEIGHT is {weight}, but there is no {pointer}")
    return str(path.with_name(pointer.read_text().strip()))


# ---- what trains --------------------------------------------------------------------------------

_FREEZING = {
    "backbone": "MODEL.BACKBONE.FREEZE",
    "fpn": "MODEL.FPN.FREEZE",
    "rpn": "MODEL.RPN.FREEZE",
    "language": "MODEL.LANGUAGE_BACKBONE.FREEZE",
    "probe": "MODEL.LINEAR_PROB",
    "offsets": "MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER",
}
_ENCODERS = {"backbone", "fpn"}
# Mode to the switches that it turns on; it turns the others off.
TUNING_MODES: dict[str, set[str]] = {
    "full": set(),
    "linear_prob": {*_ENCODERS, "language", "probe"},
    "language_prompt_v1": {*_ENCODERS, "rpn"},
    "language_prompt_v2": {*_ENCODERS, "rpn", "language", "offsets"},
    # The original froze the probed layers here too, which made v3 equal to v1 and v4 to v2.
    "language_prompt_v3": {*_ENCODERS, "rpn", "probe"},
    "language_prompt_v4": {*_ENCODERS, "rpn", "language", "probe", "offsets"},
}


def apply_tuning_mode(config: CfgNode) -> None:
    """Set the switches that SOLVER.TUNING_HIGHLEVEL_OVERRIDE stands for; None leaves them alone.

    Raises:
        ConfigError: there is no such mode.
    """
    mode = config.SOLVER.TUNING_HIGHLEVEL_OVERRIDE
    if mode is None:
        return
    if mode not in TUNING_MODES:
        raise ConfigError(
            f"SOLVER.TUNING_HIGHLEVEL_OVERRIDE is {mode!r}, not one of {', '.join(TUNING_MODES)}"
        )
    on = TUNING_MODES[mode]
    for switch, key in _FREEZING.items():
        # A linear probe works on the head as it is configured.
        if switch == "rpn" and mode == "linear_prob":
            continue
        config.merge_from_list([key, switch in on])
    if mode == "linear_prob":
        config.MODEL.DYHEAD.USE_CHECKPOINT = False


def with_tuning_mode(config: CfgNode) -> CfgNode:
    """A frozen copy in which the tuning mode is applied, see :func:`apply_tuning_mode`."""
    config = config.clone()
    config.defrost()
    apply_tuning_mode(config)
    config.freeze()
    return config


def describe_tuning(config: CfgNode) -> str:
    """The switches of freezing on one line."""
    leaves = config.leaves()
    return ", ".join(f"{key} {leaves[key]}" for key in _FREEZING.values())
