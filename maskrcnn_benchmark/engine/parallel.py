"""How the processes of a run share a model: everything everywhere, or parts of it."""

import contextlib
import inspect
import logging
import re

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.utils import comm

logger = logging.getLogger(__name__)

KINDS = ("ddp", "fsdp")

# Layers that are gathered, used and dropped one after the other. What lies outside of them (stems,
# pyramid, branches of the head) is gathered for the whole step.
_UNITS = re.compile(
    r"backbone\.body\.(.+\.)?(blocks\.\d+|layer\d\.\d+)"
    r"|language_backbone\.body\.(.+\.)?(layer|layers|resblocks)\.\d+"
    r"|rpn\.head\.dyhead_tower\.\d+"
)
# Ways into the model beside ``forward``, which evaluation takes.
_STAGES = ("encode_images", "encode_text", "encode_tokens", "fuse", "detect")


def sharded(cfg: CfgNode) -> bool:
    """True if SOLVER.PARALLEL asks to share the parameters out, and there is more than one process.

    Raises:
        ConfigError: it is none of ``KINDS``, or batch normalisation trains, whose statistics only
            DistributedDataParallel keeps equal, or validation is asked for.
    """
    if cfg.SOLVER.PARALLEL not in KINDS:
        raise ConfigError(f"SOLVER.PARALLEL is {cfg.SOLVER.PARALLEL!r}, not one of {list(KINDS)}")
    if cfg.SOLVER.PARALLEL == "fsdp" and cfg.MODEL.BACKBONE.USE_BN:
        raise ConfigError(
            "SOLVER.PARALLEL fsdp does not share the running statistics of batch normalisation: "
            "set MODEL.BACKBONE.USE_BN False, or SOLVER.PARALLEL ddp"
        )
    if cfg.TEST.DURING_TRAINING or cfg.SOLVER.USE_AUTOSTEP:
        refuse_shared_evaluation(cfg, "TEST.DURING_TRAINING or SOLVER.USE_AUTOSTEP")
    return cfg.SOLVER.PARALLEL == "fsdp" and comm.get_world_size() > 1


def refuse_shared_evaluation(cfg: CfgNode, wish: str) -> None:
    """Make sure that nobody evaluates a model whose parameters are shared out.

    All processes gather a layer together. One with fewer batches, or none where its images need no
    prediction, would leave the others waiting for ever.

    Raises:
        ConfigError: SOLVER.PARALLEL is "fsdp".
    """
    if cfg.SOLVER.PARALLEL == "fsdp":
        raise ConfigError(
            f"SOLVER.PARALLEL fsdp cannot evaluate while it trains: leave out {wish}, and evaluate "
            "the checkpoints with tools/test_grounding_net.py; or use SOLVER.PARALLEL ddp"
        )


def shard(model: nn.Module, device: torch.device) -> None:
    """Leave every process with its share of each parameter, in place (FSDP2).

    Gradients and the state of an optimizer that is made afterwards are shared out alike. Names do
    not change. Has to be called by all processes, with equal weights.

    Raises:
        ConfigError: on a CPU, with a PyTorch that shares out on a GPU only.
    """
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise ConfigError(
            f"SOLVER.PARALLEL fsdp: PyTorch {torch.__version__} shares parameters out on a GPU "
            "only; set SOLVER.PARALLEL ddp, or install a newer PyTorch"
        )
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    units = [m for name, m in model.named_modules() if _UNITS.fullmatch(name) and _has_weights(m)]
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in _STAGES:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)
    logger.info(
        "parameters are shared out over %d processes, in %d layers and the rest",
        comm.get_world_size(),
        len(units),
    )


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def replicate(
    model: nn.Module, device: torch.device, *, find_unused_parameters: bool, share_buffers: bool
) -> nn.Module:
    """The model in a wrapper that averages gradients over the processes; itself if it is alone."""
    if comm.get_world_size() == 1:
        return model
    # The newer name of the same option; the older one warns there.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused_parameters,
        **{"forward_sync_buffers" if renamed else "broadcast_buffers": share_buffers},
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without the wrapper that averages gradients."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def gradients_stay(model: nn.Module) -> contextlib.AbstractContextManager:
    """Inside, backward passes add to the gradients of this process without averaging them.

    A model that is shared out averages in every pass all the same: keeping whole gradients would
    take the memory that sharing saves. The sum is the same.
    """
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def is_shared_out(model: nn.Module) -> bool:
    """True after :func:`shard`."""
    return isinstance(model, FSDPModule)
