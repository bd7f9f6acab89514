#!/usr/bin/env python
"""Train or fine-tune a model; an interrupted run goes on when the same command is given again.

Example:
    python tools/train_net.py --config-file configs/raccoon/small.yaml \
        OUTPUT_DIR OUTPUT/raccoon
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
from maskrcnn_benchmark.engine.finetuning import with_tuning_mode
from maskrcnn_benchmark.engine.main_process import locked_folder
from maskrcnn_benchmark.engine.trainer import do_train
from maskrcnn_benchmark.utils import comm


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, name the files written; returns the exit status."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "--skip-test", action="store_true", help="accepted for old commands: nothing is tested here"
    )
    parser.add_argument(
        "--use-tensorboard", action="store_true", help="write event files into the output folder"
    )
    parser.add_argument(
        "--save_original_config",
        action="store_true",
        help="copy the configuration file to config_original.yml",
    )
    parser.add_argument(
        "--disable_output_distributed",
        action="store_true",
        help="accepted for old commands: only the first process prints anyway",
    )
    parser.add_argument("--override_output_dir", metavar="DIR", help="wins over OUTPUT_DIR")
    args = parser.parse_args(arguments)

    def work(config: CfgNode) -> int:
        config = with_tuning_mode(config)
        with locked_folder(config.OUTPUT_DIR):
            prepare_output(config, config.OUTPUT_DIR, args)
            save_config(
                config, config.OUTPUT_DIR, args.config_file if args.save_original_config else None
            )
            trainer = do_train(
                config, use_tensorboard=args.use_tensorboard, trust=args.trust_checkpoint
            )
        if comm.is_main_process():
            folder = Path(config.OUTPUT_DIR)
            names = [
                p.name
                for p in (folder / "model_best.pth", folder / "model_final.pth")
                if p.is_file()
            ]
            state = "finished" if trainer.finished else "stopped, start again to go on"
            print(f"{state}: {folder} ({', '.join([*names, 'config.yml', 'log.txt'])})")
        return 0

    override = {"OUTPUT_DIR": args.override_output_dir} if args.override_output_dir else None
    return run_tool(args, work, override)


if __name__ == "__main__":
    sys.exit(main())
