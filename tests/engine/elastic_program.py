"""A training program for torchrun in which one process dies once.

Usage: elastic_program.py FOLDER ITERATION (0: nobody dies)
"""

import os
import signal
import sys
from pathlib import Path

from maskrcnn_benchmark.engine.hooks import Hook
from maskrcnn_benchmark.utils import comm
from tests.engine.tiny_run import TinyOptions, run


class DieOnce(Hook):
    """Kills process 1 at an iteration, in the first life of the job only."""

    def __init__(self, iteration: int, mark: Path) -> None:
        self.iteration = iteration
        self.mark = mark

    def after_iteration(self, trainer, losses) -> None:
        if comm.get_rank() == 1 and trainer.iteration == self.iteration and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, iteration: int) -> None:
    """Train in the present process group; process 1 dies at the iteration, 0 means never."""
    run(folder, TinyOptions(batch_norm=False), (DieOnce(iteration, folder.parent / "died"),))


if __name__ == "__main__":
    with comm.process_group("cpu"):
        train(Path(sys.argv[1]), int(sys.argv[2]))
