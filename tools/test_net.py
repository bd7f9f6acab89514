#!/usr/bin/env python
"""Evaluate a model on the test sets of its own configuration, and say how large it is.

The same as tools/test_grounding_net.py without task files; also logs the environment.

Example:
    python tools/test_net.py --config-file configs/raccoon/small.yaml --complexity \
        --weight OUTPUT/raccoon/model_final.pth
"""

import logging
import sys

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.command_line import run_tool
from maskrcnn_benchmark.engine.complexity import complexity_line
from maskrcnn_benchmark.engine.evaluate_tasks import run_test
from maskrcnn_benchmark.engine.evaluation_command import evaluate_command, make_evaluation_parser
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.collect_env import collect_env_info

__all__ = ["main", "run_test"]

logger = logging.getLogger("maskrcnn_benchmark.tools.test_net")


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate, print the table and name the files; returns the exit status."""
    parser = make_evaluation_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--complexity",
        action="store_true",
        help="count parameters and the operations of a forward pass; printed before and after",
    )
    args = parser.parse_args(arguments)

    def work(config: CfgNode) -> int:
        lines = []

        def describe(model: GeneralizedVLRCNN) -> None:
            logger.info("environment:\n%s", collect_env_info())
            if args.complexity and comm.is_main_process():
                lines.append(complexity_line(config, model))
                print(lines[0])

        status = evaluate_command(config, args, describe=describe)
        for line in lines:
            print(line)
        return status

    return run_tool(args, work)


if __name__ == "__main__":
    sys.exit(main())
