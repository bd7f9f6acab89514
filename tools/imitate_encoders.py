#!/usr/bin/env python
"""Teach the encoders of a new model to give the features of a trained one's; then train the detector.

Pictures and captions are those of DATASETS.TRAIN. A run that was interrupted goes on when the same
command is given again.

Example:
    python tools/imitate_encoders.py --config-file configs/shapes/fiber.yaml \
        --teacher-config configs/shapes/glip_A.yaml --teacher MODEL/shapes/encoders.safetensors \
        OUTPUT_DIR OUTPUT/fiber_encoders
"""

import logging
import sys
from pathlib import Path

from maskrcnn_benchmark.config import CfgNode, cfg
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.class_sentences import refuse_class_sentences
from maskrcnn_benchmark.engine.command_line import (
    make_parser,
    prepare_output,
    run_tool,
    save_config,
)
from maskrcnn_benchmark.engine.device import choose_device
from maskrcnn_benchmark.engine.encoder_imitation import EncoderImitation, ImitationPlan
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder, load_weights, resolve_weight
from maskrcnn_benchmark.utils.checkpoint_files import write_safetensors
from maskrcnn_benchmark.utils.random_state import seed_all

logger = logging.getLogger("maskrcnn_benchmark.imitate_encoders")


def main(arguments: list[str] | None = None) -> int:
    """Parse, train, write the encoders; returns the exit status."""
    defaults = ImitationPlan()
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--teacher-config", required=True, metavar="FILE", help="of the teacher")
    parser.add_argument("--teacher", required=True, metavar="WEIGHTS", help="of the teacher")
    parser.add_argument("--iterations", type=int, default=defaults.iterations)
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    args = parser.parse_args(arguments)

    def work(config: CfgNode) -> int:
        if comm.get_world_size() > 1:
            raise ConfigError("this stage runs in one process: start it without torchrun")
        refuse_class_sentences(config, "training")
        plan = ImitationPlan(iterations=args.iterations, learning_rate=args.learning_rate)
        output = Path(config.OUTPUT_DIR)
        prepare_output(config, output, args)
        save_config(config, output, None)
        seed_all(config.SOLVER.SEED)
        device = choose_device(config.MODEL.DEVICE, config.local_rank)
        model = build_detection_model(config).to(device)
        folder = CheckpointFolder(output, keep_last=2)
        stage = EncoderImitation(model, _build_teacher(args).to(device), plan)
        stage.resume(folder)
        batches = make_data_loader(
            config, is_train=True, start_iter=stage.iteration, tokenizer=model.tokenizer
        )
        stage.run(batches, folder)
        path = output / "encoders.safetensors"
        learned = {
            name: value
            for name, value in model.state_dict().items()
            if not name.startswith("rpn.") or "dot_product_projection_text" in name
        }
        write_safetensors(path, learned, {"iterations": str(plan.iterations)})
        print(f"finished: {path}")
        return 0

    # The loader is as long as the stage.
    return run_tool(args, work, {"SOLVER.MAX_EPOCH": 0, "SOLVER.MAX_ITER": args.iterations})


def _build_teacher(args) -> GeneralizedVLRCNN:
    config = cfg.clone()
    config.merge_from_file(args.teacher_config)
    teacher = build_detection_model(config)
    load_weights(teacher, resolve_weight(args.teacher), trust=args.trust_checkpoint)
    return teacher


if __name__ == "__main__":
    sys.exit(main())
