"""What the command-line tools have in common: options, configuration, processes, error reports."""

import argparse
import functools
import hashlib
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.config import CfgNode, cfg
from maskrcnn_benchmark.errors import ConfigError, UserError
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint_files import write_atomically
from maskrcnn_benchmark.utils.logger import setup_logger

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yml"  # the settings of the run of a folder
FAILED = 1
MISTAKEN_SETTING = 2  # as argparse has it for mistaken options

# What the system says of a path that the user gave; it names the path.
_REFUSED_PATHS = (
    FileExistsError,
    FileNotFoundError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
)


def explain_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate what a tool runs: an error that the user can put right becomes one line.

    The line goes to stderr, and the exit status is 2 if a setting is to blame, else 1. Any other
    error is a mistake of the program and keeps its traceback.
    """

    @functools.wraps(main)
    def explained(*args: Any, **kwargs: Any) -> int:
        try:
            return main(*args, **kwargs)
        except (UserError, *_REFUSED_PATHS) as error:
            logger.debug("the run failed", exc_info=True)
            print(f"error: {error}", file=sys.stderr)
            return MISTAKEN_SETTING if isinstance(error, ConfigError) else FAILED

    return explained


def make_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the options that every tool has; ``KEY VALUE`` pairs end the line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="model configuration")
    # torchrun sets an environment variable, older launchers append one of these two spellings.
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, default=None, help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="read checkpoints that carry Python code (only from sources you know)",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings that override the configuration file; after all --flags",
    )
    return parser


def read_config(args: argparse.Namespace, settings: dict[str, Any] | None = None) -> CfgNode:
    """Defaults, then the configuration file, then the command line, then ``settings``.

    Args:
        args: of :func:`make_parser`.
        settings: dotted keys to values that win over everything.
    """
    config = cfg.clone()
    config.merge_from_file(args.config_file)
    config.merge_from_list(args.opts)
    for key, value in (settings or {}).items():
        config.merge_from_list([key, value])
    return config


@explain_errors
def run_tool(
    args: argparse.Namespace,
    work: Callable[[CfgNode], int],
    settings: dict[str, Any] | None = None,
) -> int:
    """Run the work of a tool in its process group.

    Args:
        work: given the frozen configuration, returns the exit status.
        settings: see :func:`read_config`.
    Returns:
        the exit status: that of ``work``, or after an error that of :func:`explain_errors`.
    """
    config = read_config(args, settings)
    with comm.process_group(_device_type(config), args.local_rank) as place:
        # After merging: a saved file holds the values of the run that saved it.
        config.local_rank = place.local_rank
        config.num_gpus = place.world_size
        config.freeze()
        require_equal_configs(config)
        return work(config)


def _device_type(config: CfgNode) -> str:
    return config.MODEL.DEVICE.partition(":")[0]


def require_equal_configs(config: CfgNode) -> None:
    """Make sure that all processes were started with the same settings.

    Raises:
        ConfigError: on every process, naming the settings that differ.
    """
    settings = {k: v for k, v in config.leaves().items() if k != "local_rank"}
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()
    if len(set(comm.all_gather(digest))) == 1:
        return
    everywhere = comm.all_gather(settings)
    different = [key for key in settings if len({repr(s.get(key)) for s in everywhere}) > 1]
    values = "; ".join(
        f"{key}: {' / '.join(repr(s.get(key)) for s in everywhere)}" for key in different
    )
    raise ConfigError(f"the processes were started with different settings: {values}")


def prepare_output(config: CfgNode, folder: str | Path, args: argparse.Namespace) -> None:
    """Start logging into a folder, and say what is about to be done."""
    setup_logger(folder, comm.get_rank())
    logger.info("called with %s", vars(args))
    logger.info("%d process(es)", comm.get_world_size())
    logger.info("configuration file %s:\n%s", args.config_file, Path(args.config_file).read_text())
    logger.info("running with configuration:\n%s", config)


def save_config(config: CfgNode, folder: str | Path, original: str | None = None) -> Path:
    """Write ``config.yml``, and if asked a copy of the original file; rank 0 only.

    Where an earlier run left a ``config.yml``, settings that differ from it are logged.
    """
    path = Path(folder) / CONFIG_FILE
    if not comm.is_main_process():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        _log_changes(path, config)
    write_atomically(path, lambda file: file.write(config.dump().encode()))
    if original is not None:
        shutil.copyfile(original, path.with_name("config_original.yml"))
    return path


def _log_changes(path: Path, config: CfgNode) -> None:
    try:
        changed = changed_settings(path, config)
    except ConfigError as error:
        logger.warning("the earlier %s does not read: %s", path, error)
        return
    for key, (before, now) in changed.items():
        logger.warning("%s: the earlier run had %r, this one has %r", key, before, now)


def changed_settings(path: Path, config: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from a saved ``config.yml``: dotted key -> (there, here).

    Raises:
        ConfigError: the file does not read.
    """
    saved = cfg.clone()
    saved.merge_from_file(path)
    before = saved.leaves()
    # MAX_ITER and DATASET_LENGTH follow from the data and are not in the file yet.
    return {
        key: (before.get(key), value)
        for key, value in config.leaves().items()
        if _as_tuples(before.get(key)) != _as_tuples(value)
    }


def _as_tuples(value: Any) -> Any:
    """The value with tuples for lists at every depth; a file gives back lists for nested tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
