"""What the evaluation commands have in common: their options and their course."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.evaluation import task_table
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.utils import comm

from .command_line import make_parser, prepare_output
from .evaluate_tasks import (
    choose_weights,
    evaluate_tasks,
    list_tasks,
    load_model,
    require_datasets,
)
from .main_process import EVALUATION_LOCK, locked_folder
from .stop_request import EvaluationInterrupted, StopRequest


def make_evaluation_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the options that every evaluation of one checkpoint has."""
    parser = make_parser(description)
    parser.add_argument("--weight", metavar="FILE", help="checkpoint to evaluate")
    parser.add_argument("--use_ema", action="store_true", help="evaluate the averaged weights")
    parser.add_argument(
        "--partial-weights",
        action="store_true",
        help="evaluate although the checkpoint does not fill the whole model",
    )
    parser.add_argument(
        "--fail-on-unexpected",
        action="store_true",
        help="exit with status 1 when TEST.EXPECTED_RESULTS are missed",
    )
    return parser


def evaluate_command(
    config: CfgNode,
    args: argparse.Namespace,
    task_files: Sequence[str] = (),
    *,
    describe: Callable[[GeneralizedVLRCNN], None] = lambda model: None,
) -> int:
    """Evaluate a checkpoint, print the table and name the files.

    Args:
        args: of a :func:`make_evaluation_parser`.
        task_files: YAML files of test sets; none means those of ``config``.
        describe: given the loaded model before it is evaluated.
    Returns:
        the exit status.
    """
    log_dir = Path(config.OUTPUT_DIR)
    if args.weight:
        log_dir = log_dir / "eval" / Path(args.weight).stem
    prepare_output(config, log_dir, args)
    tasks = list_tasks(config, task_files, args.opts)
    require_datasets(tasks)
    weights = choose_weights(config, args.weight, args.opts)
    model = load_model(
        config,
        weights,
        use_ema=args.use_ema,
        partial=args.partial_weights,
        trust=args.trust_checkpoint,
    )
    describe(model)
    with locked_folder(log_dir, EVALUATION_LOCK), StopRequest() as stop:
        try:
            results = evaluate_tasks(
                model,
                tasks,
                log_dir,
                weights,
                use_ema=args.use_ema,
                should_stop=lambda: bool(stop),
            )
        except EvaluationInterrupted:
            print(f"stopped by {stop.received}; the same command goes on", file=sys.stderr)
            return 1
    if comm.is_main_process():
        print(task_table(results))
        for task in tasks:
            print(f"{task.name}: {log_dir / task.folder}")
    expected = all(result["expected"] for result in results.values())
    return 0 if expected or not args.fail_on_unexpected else 1
