"""One training step of GLIP-T: the plain way against ours, and one process against two.

    python -m benchmarks.training                      # 480 pixels, minutes on a CPU
    python -m benchmarks.training --size 800 --rounds 3
    python -m benchmarks.training --device cuda --batch 4
    python -m benchmarks.training --quick              # a small model, seconds

The plain way runs the text on all 256 token slots, computes the fusion in the order of the paper's
formulas, lists losses one number at a time and updates the weights in a loop over parameters, one
group each. Ours is what the tools do by default. Both start from the same weights, see the same
batch, train without random numbers (no dropout), and must end with the same losses.

Every way runs in a process of its own, one warm-up step first. CPU seconds are those of all threads
of the process; memory is the most that the process held (CUDA: that was allocated). Two processes
share no data but gradients (gloo, or nccl on two GPUs); each has the batch of one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config import cfg as default_config
from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.engine.parallel import replicate
from maskrcnn_benchmark.engine.step import StepOptions, TrainingStep
from maskrcnn_benchmark.grounding import create_positive_map
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN, build_detection_model
from maskrcnn_benchmark.solver import GradientClipping, build_optimizer
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.random_state import seed_all

REPOSITORY = Path(__file__).resolve().parent.parent
GLIP_T = REPOSITORY / "configs/pretrain/glip_Swin_T_O365_GoldG.yaml"
SMALL = REPOSITORY / "configs/raccoon/small.yaml"
SENTENCE = "a brown dog on green grass beside a red ball and a child in a yellow raincoat"
PHRASES = ("a brown dog", "green grass", "a red ball", "a child", "a yellow raincoat")
WAYS = ("plain", "ours")
# Steps of a small rate, so that losses after them can be compared.
LEARNING_RATE = 1e-5


def configure(args: argparse.Namespace, way: str) -> CfgNode:
    """The published configuration; the plain way turns off what is not in the original."""
    config = default_config.clone()
    config.merge_from_file(str(SMALL if args.quick else args.config_file))
    plain = way == "plain"
    settings: dict[str, Any] = {
        "MODEL.DEVICE": args.device,
        "MODEL.LANGUAGE_BACKBONE.TRIM_PADDING": not plain,
        "MODEL.DYHEAD.FUSE_CONFIG.IMPLEMENTATION": "plain" if plain else "folded",
        "SOLVER.BASE_LR": LEARNING_RATE,
        "SOLVER.LANG_LR": LEARNING_RATE,
    }
    if args.quick:
        bert = str(REPOSITORY / "configs/raccoon/bert_small")
        settings["MODEL.LANGUAGE_BACKBONE.MODEL_TYPE"] = bert
        settings["MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE"] = bert
    else:
        # Only the shape of BERT matters here: a folder without weights stands for it.
        settings["MODEL.LANGUAGE_BACKBONE.MODEL_TYPE"] = args.bert
        settings["MODEL.LANGUAGE_BACKBONE.TOKENIZER_TYPE"] = vocabulary()
    if args.no_checkpointing:
        settings["MODEL.DYHEAD.USE_CHECKPOINT"] = False
        settings["MODEL.BACKBONE.USE_CHECKPOINT"] = False
    for key, value in settings.items():
        config.merge_from_list([key, value])
    return config


def vocabulary() -> str:
    """A folder with the vocabulary of BERT, as in the repository's small model."""
    return str(REPOSITORY / "configs/raccoon/bert_small")


def without_randomness(model: nn.Module) -> nn.Module:
    """Turn off dropout in all its forms, which would draw other numbers for other shapes."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "drop_prob", "dropout_prob", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def make_batch(model: GeneralizedVLRCNN, args: argparse.Namespace) -> Batch:
    """Pictures of noise, each with one caption and a box per phrase."""
    rng = torch.Generator().manual_seed(1 + comm.get_rank())
    caption = SENTENCE
    while args.tokens and len(model.tokenizer(caption).input_ids) < args.tokens:
        caption += " . " + SENTENCE
    height, width = args.size, args.size * 4 // 3 // 32 * 32
    places = [caption.index(phrase) for phrase in PHRASES]
    spans = [[[begin, begin + len(phrase)]] for begin, phrase in zip(places, PHRASES)]
    encoding = model.tokenizer(caption, max_length=256, truncation=True)
    positive_map = create_positive_map(encoding, spans) > 0
    targets, pictures = [], []
    for _ in range(args.batch):
        pictures.append(torch.randn(3, height, width, generator=rng))
        corner = torch.rand(len(PHRASES), 2, generator=rng) * torch.tensor([width, height]) / 2
        side = (0.1 + 0.35 * torch.rand(len(PHRASES), 2, generator=rng)) * height
        target = BoxList(torch.cat((corner, corner + side), dim=1), (width, height), mode="xyxy")
        target.add_field("labels", torch.ones(len(PHRASES), dtype=torch.int64))
        target.add_field("caption", caption)
        targets.append(target)
    return Batch(
        to_image_list(pictures, 32),
        tuple(targets),
        tuple(range(args.batch)),
        positive_map.float().repeat(args.batch, 1),
    )


def plain_optimizer(config: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """One group per parameter, updated one after the other."""
    rate, decay = config.SOLVER.BASE_LR, config.SOLVER.WEIGHT_DECAY
    groups = [
        {"params": [parameter], "lr": rate * (2 if "bias" in name else 1),
         "weight_decay": 0.0 if "bias" in name else decay}
        for name, parameter in model.named_parameters() if parameter.requires_grad
    ]  # fmt: skip
    return torch.optim.AdamW(groups, lr=rate, foreach=False)


def measure(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """Steps in this process; median seconds of a step, its CPU seconds, memory, and losses."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name, comm.process_group(args.device):
        Path(name, "config.json").write_text("{}")
        args.bert = name
        config = configure(args, way)
        device = torch.device(args.device)
        seed_all(0)
        model = without_randomness(build_detection_model(config)).to(device).train()
        batch = make_batch(model, args)
        plain = way == "plain"
        optimizer = plain_optimizer(config, model) if plain else build_optimizer(config, model)
        wrapped = replicate(model, device, find_unused_parameters=True, share_buffers=False)
        options = StepOptions(clipping=GradientClipping(max_norm=1.0))
        step = TrainingStep(wrapped, optimizer, device, options)
        seconds, cpu_seconds, losses = [], [], []
        for number in range(1 + args.rounds):
            comm.synchronize()
            start, cpu_start = time.perf_counter(), time.process_time()
            result = step([batch], [1.0])
            if plain or number == args.rounds:
                losses.append({key: value.item() for key, value in result.losses.items()})
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**20
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        tokens = int(model.tokenizer(batch.targets[0].get_field("caption"), max_length=256,
                                     truncation=True, return_length=True).length[0])  # fmt: skip
        return {
            "seconds": statistics.median(seconds[1:]),
            "cpu_seconds": statistics.median(cpu_seconds[1:]),
            "peak_mib": peak,
            "losses": losses[-1],
            "tokens": tokens,
        }


def in_fresh_processes(args: argparse.Namespace, way: str, world_size: int) -> list[dict[str, Any]]:
    """The measurement in processes of their own, in rank order."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = [
        *("--measure", way, "--device", args.device, "--size", str(args.size)),
        *("--batch", str(args.batch), "--rounds", str(args.rounds), "--tokens", str(args.tokens)),
        *("--threads", str(args.threads), "--config-file", str(args.config_file)),
        *(["--quick"] if args.quick else []),
        *(["--no-checkpointing"] if args.no_checkpointing else []),
    ]
    children = []
    for rank in range(world_size):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        command = [sys.executable, "-m", "benchmarks.training", *options]
        children.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise RuntimeError(f"measuring {way!r} with {world_size} process(es) failed, see above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Both ways on one process."""
    results = {way: in_fresh_processes(args, way, 1)[0] for way in WAYS}
    plain, ours = results["plain"], results["ours"]
    difference = max(
        abs(plain["losses"][name] - ours["losses"][name]) / max(1e-6, abs(plain["losses"][name]))
        for name in plain["losses"]
    )
    return {
        **results,
        "ratio": plain["seconds"] / ours["seconds"],
        "cpu_ratio": plain["cpu_seconds"] / ours["cpu_seconds"],
        "memory_ratio": ours["peak_mib"] / plain["peak_mib"],
        "difference": difference,
    }


def scale(args: argparse.Namespace) -> dict[str, Any]:
    """Pictures per second of one and of two processes."""
    speed, cpu_seconds = {}, {}
    for world_size in (1, 2):
        results = in_fresh_processes(args, "ours", world_size)
        slowest = max(result["seconds"] for result in results)
        speed[world_size] = world_size * args.batch / slowest
        cpu_seconds[world_size] = statistics.mean(result["cpu_seconds"] for result in results)
    return {
        "pictures_per_second": speed,
        "ratio": speed[2] / speed[1],
        "cpu_seconds": cpu_seconds,
        "cpu_ratio": 2 * cpu_seconds[1] / cpu_seconds[2],
    }


def print_comparison(args: argparse.Namespace, found: dict[str, Any]) -> None:
    print("| way | tokens | s / step | CPU s / step | memory, MiB | sum of losses |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        row = found[way]
        print(
            f"| {way} | {row['tokens']} | {row['seconds']:.2f} | {row['cpu_seconds']:.2f} "
            f"| {row['peak_mib']:.0f} | {sum(row['losses'].values()):.6f} |"
        )
    print(
        f"\nours is {found['ratio']:.2f} times as fast ({found['cpu_ratio']:.2f} by CPU time), with "
        f"{found['memory_ratio']:.2f} times the memory; losses after {args.rounds + 1} steps differ "
        f"by {found['difference']:.1e} of their size at most\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, print; returns 1 if the losses of the two ways differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("compare", "scaling"))
    parser.add_argument("--config-file", type=Path, default=GLIP_T)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--size", type=int, default=480, help="shorter side of the pictures")
    parser.add_argument("--batch", type=int, default=1, help="pictures per process")
    parser.add_argument("--tokens", type=int, default=0, help="make the caption at least so long")
    parser.add_argument("--rounds", type=int, default=1, help="steps that count, after a first one")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--quick", action="store_true", help="a small model on small pictures")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.quick:
        args.size = min(args.size, 192)
    if args.measure:
        print(json.dumps(measure(args, args.measure)))
        return 0
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{os.cpu_count()} cores"
    print(f"{name}, {args.threads} thread(s) per process, torch {torch.__version__}")
    print(f"{args.batch} picture(s) of {args.size} pixels per process\n")
    figures: dict[str, Any] = {}
    if args.only in (None, "compare"):
        figures["compare"] = compare(args)
        print_comparison(args, figures["compare"])
    if args.only in (None, "scaling"):
        figures["scaling"] = scale(args)
        speed = figures["scaling"]["pictures_per_second"]
        print(
            f"pictures per second: {speed[1]:.2f} on one process, {speed[2]:.2f} on two "
            f"({figures['scaling']['ratio']:.2f} times; {figures['scaling']['cpu_ratio']:.2f} by CPU "
            "time, which on a busy machine is what the exchange of gradients leaves)"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"wrote {args.json}")
    differ = "compare" in figures and figures["compare"]["difference"] > 1e-3
    if differ:
        print("error: the losses of the two ways differ", file=sys.stderr)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
