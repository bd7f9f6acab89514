"""The folder of one fine-tuning run: whose it is, whether it is in use, whether it is finished."""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils.checkpoint import POINTER

from .finetuning import FinetuningRun
from .finetuning_start import write_json
from .main_process import locked_folder, on_main_process

logger = logging.getLogger(__name__)

OWNER_FILE = "task.json"
FINISHED_FILE = "finished.json"

# Settings that decide nothing about the weights a run ends with.
_IRRELEVANT = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "PATHS_CATALOG",
    "SOLVER.MAX_ITER",
    "SOLVER.DATASET_LENGTH",
    "SOLVER.KEEP_LAST_CHECKPOINTS",
    "local_rank",
    "num_gpus",
)


def describe_owner(run: FinetuningRun) -> dict[str, Any]:
    """What tells the runs of different tasks, subsets and tuning modes apart."""
    datasets = run.config.DATASETS
    return {
        "task": run.task,
        "shots": run.shots,
        "shuffle_seed": datasets.SHUFFLE_SEED,
        "tuning": run.config.SOLVER.TUNING_HIGHLEVEL_OVERRIDE,
        "train": {
            name: str(entry.get("ann_file", entry.get("yaml_path", "")))
            for name in datasets.TRAIN
            if isinstance(name, str)
            for entry in [datasets.REGISTER.get(name, {})]
        },
        "test": [name for name in datasets.TEST if isinstance(name, str)],
    }


@contextlib.contextmanager
def own_folder(run: FinetuningRun) -> Iterator[None]:
    """Have the folder of a run to oneself, and make sure that it is this run's.

    Raises:
        ConfigError: the folder belongs to another task or to a command that is running.
    """
    with locked_folder(run.folder):
        on_main_process(lambda: _claim(run))
        yield


def _claim(run: FinetuningRun) -> None:
    owner = describe_owner(run)
    path = run.folder / OWNER_FILE
    if path.is_file():
        earlier = json.loads(path.read_text())
        different = [key for key in owner if earlier.get(key) != owner[key]]
        if different:
            changes = "; ".join(f"{k}: {earlier.get(k)!r} / {owner[k]!r}" for k in different)
            raise ConfigError(
                f"{run.folder} holds another run ({changes}). Choose another OUTPUT_DIR, or remove "
                "the folder to start over."
            )
    elif (run.folder / POINTER).is_file():
        logger.warning("%s holds checkpoints of an unnamed run; going on with them", run.folder)
    write_json(path, owner)


def finished_record(run: FinetuningRun, config: CfgNode) -> dict[str, Any] | None:
    """What :func:`record_finish` wrote, if it was under the same settings."""
    path = run.folder / FINISHED_FILE

    def read() -> dict[str, Any] | None:
        return json.loads(path.read_text()) if path.is_file() else None

    record = on_main_process(read)
    if record is None or record["settings"] != settings_digest(config):
        return None
    return record


def record_finish(run: FinetuningRun, config: CfgNode, **facts: Any) -> None:
    """Note that the training of a run has come to its end."""
    content = {"settings": settings_digest(config), **facts}
    on_main_process(lambda: write_json(run.folder / FINISHED_FILE, content))


def decides_weights(key: str) -> bool:
    """Whether the weights that a run ends with depend on a setting."""
    return key not in _IRRELEVANT and not key.startswith("TEST.")


def settings_digest(config: CfgNode) -> str:
    """Digest of all settings that training depends on."""
    leaves = {key: value for key, value in config.leaves().items() if decides_weights(key)}
    # A saved and reread configuration may hold lists for tuples.
    return hashlib.sha256(json.dumps(leaves, sort_keys=True, default=str).encode()).hexdigest()


def remembered(path: Path) -> dict[str, Any]:
    """Content of a JSON file of the run; empty where there is none."""
    return on_main_process(lambda: json.loads(path.read_text()) if path.is_file() else {})
