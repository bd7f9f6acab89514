#!/usr/bin/env python
"""Fine-tune on one or many tasks, or on data of one's own.

The same command given again goes on where it was stopped, and leaves out what is finished.

Examples:
    python tools/finetune.py --config-file configs/raccoon/small.yaml \
        --ft-tasks "configs/odinw_35/Raccoon*.yaml" \
        --custom_shot_and_epoch_and_general_copy 3_200_4 --shuffle_seeds 3,30 \
        OUTPUT_DIR OUTPUT/few_shot
    python tools/finetune.py --config-file configs/raccoon/small.yaml --data my_export --check
"""

import sys
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.command_line import (
    make_parser,
    prepare_output,
    run_tool,
    save_config,
)
from maskrcnn_benchmark.engine.finetuning import (
    Schedule,
    expand_task_files,
    parse_seeds,
    plan_runs,
)
from maskrcnn_benchmark.engine.finetuning_check import check_run
from maskrcnn_benchmark.engine.finetuning_folder import remembered
from maskrcnn_benchmark.engine.finetuning_run import (
    ZERO_SHOT_FILE,
    FinetuningOptions,
    run_finetuning,
    zero_shot_table,
)
from maskrcnn_benchmark.engine.own_data import make_own_task
from maskrcnn_benchmark.evaluation import task_table
from maskrcnn_benchmark.utils import comm


def parse(arguments: list[str] | None):
    """The command line."""
    parser = make_parser(__doc__.splitlines()[0])
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--ft-tasks",
        default="",
        metavar="FILES",
        help="comma-separated task files or patterns; without it the config file is the task",
    )
    data.add_argument(
        "--data", metavar="FOLDER", help="a folder of COCO-format annotations and pictures"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="train nothing: validate everything, draw training pictures, overfit one batch",
    )
    parser.add_argument("--skip-train", action="store_true", help="test the weights there are")
    parser.add_argument("--skip-test", action="store_true", help="do not test after training")
    parser.add_argument(
        "--skip_optimizer_resume",
        action="store_true",
        help="continue a stopped run with its weights alone, from iteration 0",
    )
    parser.add_argument(
        "--custom_shot_and_epoch_and_general_copy",
        metavar="S_E_C[_V]",
        help="shots (0: all data), epochs, copies of the training set, shots of prepared validation",
    )
    parser.add_argument("--shuffle_seeds", metavar="SEEDS", help="such as 3,30,300: one run each")
    parser.add_argument(
        "--use_prepared_data",
        action="store_true",
        help="few-shot subsets from the annotation files that the task registers for them",
    )
    parser.add_argument(
        "--evaluate_only_best_on_test",
        action="store_true",
        help="test on the set 'test' too, where the task has one",
    )
    parser.add_argument(
        "--push_both_val_and_test", action="store_true", help="as --evaluate_only_best_on_test"
    )
    parser.add_argument(
        "--keep_testing", action="store_true", help="as --evaluate_only_best_on_test"
    )
    parser.add_argument(
        "--old-world",
        default="",
        metavar="FILES",
        help="task files of what should not be forgotten; evaluated before and after training",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Parse, plan, run; returns the exit status."""
    args = parse(arguments)

    def work(config: CfgNode) -> int:
        prepare_output(config, config.OUTPUT_DIR, args)
        save_config(config, config.OUTPUT_DIR)
        triple = args.custom_shot_and_epoch_and_general_copy
        if args.data:
            task_files = [str(make_own_task(args.data, config))]
        else:
            task_files = expand_task_files(args.ft_tasks)
        runs = plan_runs(
            config,
            args.opts,
            config_file=args.config_file,
            task_files=task_files,
            schedule=Schedule.parse(triple) if triple else None,
            seeds=parse_seeds(args.shuffle_seeds),
            prepared_data=args.use_prepared_data,
        )
        if args.check:
            return check_all(runs, args)
        both = args.evaluate_only_best_on_test or args.push_both_val_and_test or args.keep_testing
        options = FinetuningOptions(
            opts=args.opts,
            train=not args.skip_train,
            test=not args.skip_test,
            extra_tests=("test",) if both else (),
            resume_optimizer=not args.skip_optimizer_resume,
            base=config,
            old_world=expand_task_files(args.old_world),
            trust=args.trust_checkpoint,
        )
        results = {}
        for number, run in enumerate(runs, start=1):
            say(f"run {number} of {len(runs)}: {run.task} in {run.folder}")
            outcome = run_finetuning(run, options)
            if outcome.stopped:
                say(f"stopped: {run.folder}; the same command goes on")
                return 0
            label = run_label(run, runs)
            results.update({f"{label}: {name}": r for name, r in outcome.results.items()})
        report(runs, results)
        return 0

    return run_tool(args, work)


def check_all(runs, args) -> int:
    """Dry runs; 1 if in any of them the loss does not fall."""
    learns = True
    for run in runs:
        check = check_run(run, args.opts, trust=args.trust_checkpoint)
        say(check.text)
        learns &= check.learns
    return 0 if learns else 1


def run_label(run, runs) -> str:
    """Task and seed; with the folder where another task has the same name."""
    twins = [other for other in runs if (other.task, other.seed) == (run.task, run.seed)]
    task = run.task if len(twins) == 1 else f"{run.task} ({run.folder.name})"
    return task if run.seed is None else f"{task}, seed {run.seed}"


def report(runs, results) -> None:
    """Numbers and where the files are."""
    if results:
        say(task_table(results))
    for run in runs:
        content = remembered(run.folder / ZERO_SHOT_FILE)
        if {"before", "after"} <= content.keys():
            say(f"{run.folder}:\n{zero_shot_table(content)}")
        names = sorted(p.name for p in Path(run.folder).iterdir() if not p.name.startswith("."))
        say(f"{run.folder}: {', '.join(names)}")


def say(text: str) -> None:
    """Print on the main process."""
    if comm.is_main_process():
        print(text)


if __name__ == "__main__":
    sys.exit(main())
