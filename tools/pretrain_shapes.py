#!/usr/bin/env python
"""Teach the encoders of the shapes world what words look like, before a head is trained on them.

A run that was interrupted goes on when the same command is given again.

Example:
    python tools/pretrain_shapes.py --config-file configs/shapes/glip_C.yaml \
        OUTPUT_DIR OUTPUT/shapes_encoders
"""

import logging
import sys
from pathlib import Path

import torch

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.engine.class_sentences import refuse_class_sentences
from maskrcnn_benchmark.engine.command_line import (
    make_parser,
    prepare_output,
    run_tool,
    save_config,
)
from maskrcnn_benchmark.engine.word_alignment import (
    AlignmentPlan,
    WordAlignment,
    learned_weights,
    output_path,
)
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder
from maskrcnn_benchmark.utils.checkpoint_files import write_safetensors

logger = logging.getLogger("maskrcnn_benchmark.pretrain_shapes")


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, write the encoders; returns the exit status."""
    defaults = AlignmentPlan()
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=defaults.iterations)
    parser.add_argument(
        "--batch-size", type=int, default=defaults.batch_size, help="a multiple of 12"
    )
    parser.add_argument("--pool", type=int, default=defaults.pool, help="close-ups drawn at first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ask", type=int, default=480, help="objects asked about at the end, a multiple of 12"
    )
    args = parser.parse_args(arguments)

    def work(config: CfgNode) -> int:
        if comm.get_world_size() > 1:
            raise ConfigError("this stage runs in one process: start it without torchrun")
        refuse_class_sentences(config, "training")
        if config.INPUT.FORMAT:
            raise ConfigError("INPUT.FORMAT: the close-ups are normalised by INPUT.TO_BGR255 only")
        try:
            plan = AlignmentPlan(
                iterations=args.iterations,
                batch_size=args.batch_size,
                pool=args.pool,
                seed=args.seed,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error
        folder = Path(config.OUTPUT_DIR)
        prepare_output(config, folder, args)
        save_config(config, folder, None)
        torch.manual_seed(args.seed)
        stage = WordAlignment(
            build_detection_model(config),
            plan,
            mean=config.INPUT.PIXEL_MEAN,
            std=config.INPUT.PIXEL_STD,
            bgr=config.INPUT.TO_BGR255,
        )
        stage.run(CheckpointFolder(folder, keep_last=2))
        for held_out, name in ((False, "combinations of training"), (True, "unseen combinations")):
            results = stage.accuracy(held_out=held_out, number=args.ask)
            logger.info("right of %d objects, %s: %s", args.ask, name, results)
        write_safetensors(
            output_path(folder), learned_weights(stage.model), {"iterations": str(plan.iterations)}
        )
        print(f"finished: {output_path(folder)}")
        return 0

    return run_tool(args, work)


if __name__ == "__main__":
    sys.exit(main())
