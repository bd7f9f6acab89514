#!/usr/bin/env python
"""Evaluate every checkpoint of fine-tuning folders, and sum up over tasks, shots and seeds.

Numbers that an earlier call has measured are not measured again.

Examples:
    python tools/eval_all.py --config-file OUTPUT/ft_task_1/config.yml \
        --evaluate_only_best_on_test OUTPUT_DIR OUTPUT/ft_task_1
    python tools/eval_all.py --config-file OUTPUT/config.yml --evaluate_only_best_on_test \
        --folders "OUTPUT/shots_*"
"""

import sys
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.command_line import make_parser, prepare_output, run_tool
from maskrcnn_benchmark.engine.eval_summary import (
    aggregate,
    comparison_table,
    config_of_folder,
    evaluate_folder,
    find_run_folders,
    known_rows,
    markdown_table,
    write_summary,
)
from maskrcnn_benchmark.engine.stop_request import EvaluationInterrupted, StopRequest
from maskrcnn_benchmark.utils import comm


def parse(arguments: list[str] | None):
    """The command line."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--folders",
        metavar="FOLDERS",
        help="comma-separated folders or patterns; default OUTPUT_DIR. A folder that holds "
        "ft_task_* folders stands for these",
    )
    parser.add_argument(
        "--evaluate_only_best_on_test",
        action="store_true",
        help="model_best.pth on the sets 'val' and 'test' instead of all on DATASETS.TEST",
    )
    parser.add_argument(
        "--eval_freq",
        type=int,
        default=1,
        metavar="N",
        help="of model_<iteration>.pth only iterations that N divides",
    )
    parser.add_argument("--skip_eval", action="store_true", help="sum up what was measured before")
    for flag in ("--push_both_val_and_test", "--overwrite_azure_logs"):
        parser.add_argument(flag, action="store_true", help="accepted for old commands")
    parser.add_argument("--collection", default="grounding", help="accepted for old commands")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Parse, evaluate, sum up; returns the exit status."""
    args = parse(arguments)

    def work(config: CfgNode) -> int:
        output = Path(config.OUTPUT_DIR)
        prepare_output(config, output, args)
        patterns = [part for part in (args.folders or "").split(",") if part] or [str(output)]
        rows = []
        with StopRequest() as stop:
            for folder in find_run_folders(patterns):
                settings = config_of_folder(config, folder, args.opts)
                if args.skip_eval:
                    rows += known_rows(settings)
                    continue
                try:
                    rows += evaluate_folder(
                        settings,
                        only_best=args.evaluate_only_best_on_test,
                        frequency=args.eval_freq,
                        trust=args.trust_checkpoint,
                        should_stop=lambda: bool(stop),
                    )
                except EvaluationInterrupted:
                    print(f"stopped by {stop.received}; the same command goes on", file=sys.stderr)
                    return 1
        if not rows:
            print(f"error: no checkpoints found in {', '.join(patterns)}", file=sys.stderr)
            return 1
        if comm.is_main_process():
            groups = aggregate(rows)
            print(f"{markdown_table(groups)}\n\n{comparison_table(groups)}")
            print("wrote", ", ".join(map(str, write_summary(rows, output))))
        return 0

    return run_tool(args, work)


if __name__ == "__main__":
    sys.exit(main())
