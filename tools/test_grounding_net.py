#!/usr/bin/env python
"""Evaluate a model on one or many test sets; an interrupted run goes on when given again.

Example:
    python tools/test_grounding_net.py --config-file configs/raccoon/small.yaml \
        --weight OUTPUT/raccoon/model_final.pth
"""

import sys
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.command_line import make_parser, prepare_output, run_tool
from maskrcnn_benchmark.engine.evaluate_tasks import (
    choose_weights,
    evaluate_tasks,
    list_tasks,
    load_model,
    require_datasets,
)
from maskrcnn_benchmark.engine.finetuning import expand_task_files
from maskrcnn_benchmark.engine.stop_request import EvaluationInterrupted, StopRequest
from maskrcnn_benchmark.evaluation import task_table
from maskrcnn_benchmark.utils import comm


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate, print the table and name the files; returns the exit status."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--weight", metavar="FILE", help="checkpoint to evaluate")
    parser.add_argument(
        "--task_config",
        metavar="FILES",
        help="comma-separated YAML files of test sets; * and ? allowed",
    )
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
    # The launcher decides both; accepted for old commands.
    parser.add_argument("--world-size", type=int, default=1, help="without effect")
    parser.add_argument("--dist-url", default="env://", help="without effect")
    args = parser.parse_args(arguments)

    def work(config: CfgNode) -> int:
        log_dir = Path(config.OUTPUT_DIR)
        if args.weight:
            log_dir = log_dir / "eval" / Path(args.weight).stem
        prepare_output(config, log_dir, args)
        task_files = expand_task_files(args.task_config or "", "--task_config")
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
        with StopRequest() as stop:
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

    return run_tool(args, work)


if __name__ == "__main__":
    sys.exit(main())
