"""Real processes for tests: a small gloo world on this machine, and free ports for it."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from maskrcnn_benchmark.utils import comm


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def process_context() -> multiprocessing.context.BaseContext:
    """Starts processes from a server that has imported torch but run nothing: clean and quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "tests.engine.tiny_run",
            "maskrcnn_benchmark.engine.trainer",
            "transformers.models.bert.modeling_bert",
        ]
    )
    return context


def run_world(world_size: int, function: Callable[..., Any], *args: Any, folder: Path) -> list[Any]:
    """Run ``function(*args)`` in a gloo world of fresh processes, one thread each.

    Args:
        function: a module-level function, so that a new process can import it.
        folder: an empty folder for the results.
    Returns:
        the picklable results in rank order.
    Raises:
        AssertionError: with the traceback of every process that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = process_context()
    port = free_port()
    processes = [
        context.Process(
            target=_enter_world, args=(rank, world_size, port, str(folder), function, args)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failures = [path.read_text() for path in sorted(folder.glob("failure_*.txt"))]
    assert not failures, "\n".join(failures)
    assert [process.exitcode for process in processes] == [0] * world_size
    return [
        pickle.loads((folder / f"result_{rank}.pkl").read_bytes()) for rank in range(world_size)
    ]


def _enter_world(
    rank: int, world_size: int, port: int, folder: str, function: Callable[..., Any], args: tuple
) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        with comm.process_group("cpu"):
            result = function(*args)
        (Path(folder) / f"result_{rank}.pkl").write_bytes(pickle.dumps(result))
    except BaseException:
        (Path(folder) / f"failure_{rank}.txt").write_text(f"rank {rank}\n{traceback.format_exc()}")
        raise
