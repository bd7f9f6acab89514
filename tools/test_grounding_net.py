#!/usr/bin/env python
"""Evaluate a model on one or many test sets; an interrupted run goes on when given again.

Example:
    python tools/test_grounding_net.py --config-file configs/raccoon/small.yaml \
        --weight OUTPUT/raccoon/model_final.pth
"""

import sys

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.command_line import run_tool
from maskrcnn_benchmark.engine.evaluation_command import evaluate_command, make_evaluation_parser
from maskrcnn_benchmark.engine.finetuning import expand_task_files


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate, print the table and name the files; returns the exit status."""
    parser = make_evaluation_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--task_config",
        metavar="FILES",
        help="comma-separated YAML files of test sets; * and ? allowed",
    )
    # The launcher decides both; accepted for old commands.
    parser.add_argument("--world-size", type=int, default=1, help="without effect")
    parser.add_argument("--dist-url", default="env://", help="without effect")
    args = parser.parse_args(arguments)

    def work(config: CfgNode) -> int:
        task_files = expand_task_files(args.task_config or "", "--task_config")
        return evaluate_command(config, args, task_files)

    return run_tool(args, work)


if __name__ == "__main__":
    sys.exit(main())
