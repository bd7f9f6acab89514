"""Checkpoints of a run: a folder that is always in order, and weights from anywhere into a model."""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from yacs.config import CfgNode

from maskrcnn_benchmark.config.file_search import search_roots
from maskrcnn_benchmark.config.paths_catalog import ModelCatalog, try_to_find
from maskrcnn_benchmark.errors import DataError

from . import comm
from .checkpoint_files import (
    CheckpointError,
    read_checkpoint,
    remove_stale_temporaries,
    write_atomically,
    write_checkpoint,
)
from .download_catalog import WEIGHTS
from .model_serialization import LoadReport, find_weights, load_weights_into
from .model_zoo import cache_url, is_url

logger = logging.getLogger(__name__)

POINTER = "last_checkpoint"
_PERIODIC = re.compile(r"model_(\d{7})\.pth")
# Parts that a configuration switches on or off without changing what the rest computes.
_OPTIONAL = re.compile(r"(cls_logits|tunable_linear|mlm_head)\.")
# What only FIBER's "v3" has; without it such weights compute something else.
_FUSION_V3 = re.compile(r"\.norm_i2t_i\.")


@dataclass(frozen=True)
class SavedRun:
    """A checkpoint that a run can continue from."""

    path: Path
    contents: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run.

    Holds ``model_<iteration>.pth``, ``model_final.pth``, ``model_best.pth`` and ``last_checkpoint``,
    a text file with the name of the checkpoint to continue from. Files appear whole or not at all,
    and ``last_checkpoint`` changes only after the file it names is safe on disk.

    Args:
        folder: made if need be. Only the main process writes.
        keep_last: how many ``model_<iteration>.pth`` to keep; None keeps all.
    """

    def __init__(self, folder: str | os.PathLike, keep_last: int | None = None) -> None:
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"at least one checkpoint must be kept, not {keep_last}")
        self.folder = Path(folder)
        self.keep_last = keep_last
        if comm.is_main_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(self.folder)

    def save(self, name: str, contents: dict[str, Any], *, resumable: bool = True) -> Path:
        """Write ``<name>.pth``; a resumable one becomes the file to continue from.

        Called by all processes together, so that none goes on where the writing one cannot.

        Raises:
            CheckpointError: on every process: the disk did not take it; everything older is intact.
        """
        path = self.folder / f"{name}.pth"
        problem: CheckpointError | None = None
        if comm.is_main_process():
            try:
                self._write(path, contents, resumable)
            except CheckpointError as error:
                problem = error
        message = comm.broadcast(None if problem is None else str(problem))
        if message is not None:
            raise CheckpointError(message) from problem
        return path

    def _write(self, path: Path, contents: dict[str, Any], resumable: bool) -> None:
        write_checkpoint(path, contents)
        logger.info("saved %s", path)
        if resumable:
            write_atomically(self.folder / POINTER, lambda file: file.write(path.name.encode()))
            self._remove_old(path)

    def _remove_old(self, newest: Path) -> None:
        if self.keep_last is None:
            return
        for path in self._periodic(newest)[self.keep_last :]:
            logger.info("removing %s, the newest %d stay", path, self.keep_last)
            path.unlink()

    def _periodic(self, newest: Path) -> list[Path]:
        """Checkpoints with an iteration in the name, newest first.

        Iterations beyond that of ``newest`` are of an earlier run in this folder: they come last.
        """
        return sorted(
            (p for p in self.folder.glob("model_*.pth") if _PERIODIC.fullmatch(p.name)),
            key=lambda path: (path.name <= newest.name, path.name),
            reverse=True,
        )

    def has_checkpoint(self) -> bool:
        """True if a run in this folder has saved something to continue from."""
        return (self.folder / POINTER).is_file()

    def latest(self) -> SavedRun | None:
        """The checkpoint to continue from, read; None if no run was saved here.

        Called by all processes together.

        A file that does not read (cut short by a failing disk, removed by hand) is passed over
        with a warning in favour of the next older one.

        Raises:
            CheckpointError: something was saved here, but nothing of it can be read; or processes
                would continue from different files.
        """
        saved, problem = None, None
        try:
            saved = self._read_latest()
        except CheckpointError as error:
            problem = error
        name = "nothing" if saved is None else saved.path.name
        found = comm.all_gather("nothing readable" if problem else name)
        if len(set(found)) > 1:
            files = "; ".join(f"process {rank}: {name}" for rank, name in enumerate(found))
            raise CheckpointError(
                f"the processes would continue from different checkpoints of {self.folder} "
                f"({files}). All hosts have to share this folder."
            ) from problem
        if problem is not None:
            raise problem
        return saved

    def _read_latest(self) -> SavedRun | None:
        if not self.has_checkpoint():
            return None
        named = self.folder / (self.folder / POINTER).read_text().strip()
        candidates = [named, *(path for path in self._periodic(named) if path != named)]
        problems = []
        for path in candidates:
            try:
                return SavedRun(path, read_checkpoint(path))
            except (FileNotFoundError, CheckpointError) as error:
                logger.warning("cannot continue from %s: %s", path, error)
                problems.append(str(error))
        raise CheckpointError(
            f"{self.folder / POINTER} says that a run was saved here, but nothing can be read "
            f"({problems[0]}). Remove {POINTER} to start over."
        )


def resolve_weight(name: str, *, search: bool = True) -> Path:
    """Path of the file that a weight name stands for; downloads what is on the web.

    Args:
        name: a path, an ``http(s)://`` address, or ``catalog://`` and a name of the model catalog.
        search: look for relative paths in the usual folders (``MODEL/`` and others).
    Raises:
        FileNotFoundError: there is no such file; the message says how published ones are had.
    """
    if name.startswith("catalog://"):
        name = ModelCatalog.get(name.removeprefix("catalog://"))
    if is_url(name):
        return cache_url(name)
    if not search:
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(
                f"{name} does not exist (working folder {Path.cwd()}). {_how_to_get(name)}"
            )
        return path
    try:
        return Path(try_to_find(name))
    except FileNotFoundError:
        searched = ", ".join(str(root) for root in search_roots())
        raise FileNotFoundError(
            f"weights {name} not found; searched in {searched} (working folder {Path.cwd()}). "
            f"{_how_to_get(name)}"
        ) from None


def _how_to_get(name: str) -> str:
    stem = Path(name).stem
    if stem in WEIGHTS:
        return f"python tools/download_weights.py {stem} fetches it."
    return "python tools/download_weights.py --list shows what can be downloaded."


def load_weights(
    model: nn.Module,
    path: str | os.PathLike,
    *,
    key: str = "model",
    partial: bool = True,
    trust: bool = False,
) -> LoadReport:
    """Fill a model with the weights of a file, and log in one table what did not fit.

    Args:
        model: any module, not wrapped in DistributedDataParallel.
        key: entry of the checkpoint to take, "model" or "model_ema".
        partial: accept a file that fills only part of the model, as an ImageNet backbone does.
            Otherwise the file must be of this very model.
        trust: see :func:`read_checkpoint`.
    Raises:
        FileNotFoundError, CheckpointError: not a readable checkpoint, or of another model.
    """
    contents = read_checkpoint(path, trust=trust)
    try:
        weights = find_weights(contents, key)
    except ValueError as error:
        raise CheckpointError(f"{path} is not a checkpoint of a model: {error}") from error
    try:
        report = load_weights_into(model, weights)
    except DataError as error:
        raise CheckpointError(f"the weights in {path} cannot be used: {error}") from error
    logger.info("weights of %s from %s: %s", key, path, report.summary())
    if not report.complete:
        logger.info("what did not fit:\n%s", report.table())
    if not report.loaded and report.reshaped:
        name, in_file, in_model = report.reshaped[0]
        raise CheckpointError(
            f"{path} is a checkpoint of a model of another size: {len(report.reshaped)} of its "
            f"names fit, but none of their shapes ({name} is {list(in_file)} in the file and "
            f"{list(in_model)} in the model). Use the config file that belongs to these weights."
        )
    if not report.loaded:
        raise CheckpointError(
            f"{path} is a checkpoint of another model: none of its {len(weights)} names fits "
            f"(its first is {next(iter(weights))})"
        )
    if not partial:
        _require_same_model(report, path)
    return report


def _require_same_model(report: LoadReport, path: str | os.PathLike) -> None:
    unfilled = [n for n in report.missing if not _OPTIONAL.search(n)]
    unfilled += [n for n, _, _ in report.reshaped if not _OPTIONAL.search(n)]
    left_over = [n for n in report.unexpected if not _OPTIONAL.search(n)]
    if unfilled:
        raise CheckpointError(
            f"{path} does not fit the configured model: {len(unfilled)} of its values stay "
            f"unfilled, for example {unfilled[0]}. Use the config file that belongs to these "
            f"weights.\n{report.table()}"
        )
    if any(_FUSION_V3.search(name) for name in left_over):
        raise CheckpointError(
            f"{path} does not fit the configured model: it was trained with "
            "MODEL.BACKBONE.FUSION_VERSION 'v3'. Use the config file that belongs to these weights."
        )
    if len(left_over) > 0.05 * len(report.loaded):
        raise CheckpointError(
            f"{path} is of a larger model than the configured one: {len(left_over)} of its "
            f"values have no place, for example {left_over[0]}. Use the config file that belongs "
            f"to these weights.\n{report.table()}"
        )


class DetectronCheckpointer:
    """Weights in and out of a model by the rules of maskrcnn-benchmark's tools.

    Args:
        cfg: read for nothing but MODEL.WEIGHT.
        model: filled by :meth:`load`.
        save_dir: folder of the run; a ``last_checkpoint`` in it wins over other weights unless
            ``load`` is forced.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, save_dir: str | os.PathLike = "") -> None:
        self.default = cfg.MODEL.WEIGHT
        self.model = model
        self.save_dir = Path(save_dir) if save_dir else None

    def load(
        self,
        source: str | None = None,
        force: bool = False,
        *,
        key: str = "model",
        partial: bool = True,
        trust: bool = False,
    ) -> Path | None:
        """Fill the model.

        Args:
            source: path, address or catalog name; MODEL.WEIGHT if None.
            force: take ``source`` even if the run's folder has a ``last_checkpoint``.
            key, partial, trust: see :func:`load_weights`.
        Returns:
            the file used; None if no weight is configured and the model stays as initialised.
        """
        source = self.default if source is None else source
        pointer = self.save_dir / POINTER if self.save_dir else None
        if pointer is not None and pointer.is_file() and not force:
            path = self.save_dir / pointer.read_text().strip()
            logger.warning(
                "using %s, because %s names it (not %s)", path, pointer, source or "nothing"
            )
        elif source:
            path = resolve_weight(source)
        else:
            logger.warning("no weights are configured: the model stays as it was initialised")
            return None
        load_weights(self.model, path, key=key, partial=partial, trust=trust)
        return path

    def save(self, name: str, **entries: Any) -> Path:
        """Write ``<save_dir>/<name>.pth`` with the model's weights and these entries."""
        if self.save_dir is None:
            raise ValueError("no save_dir was given to save to")
        contents = {"model": self.model.state_dict(), **entries}
        return CheckpointFolder(self.save_dir).save(name, contents)
