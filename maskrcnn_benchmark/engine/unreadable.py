"""Pictures of a test set that are missing or broken: named and counted, never left out unseen."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from maskrcnn_benchmark.data.collate import Batch
from maskrcnn_benchmark.data.image_files import BrokenSampleError
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.structures.bounding_box import BoxList

logger = logging.getLogger(__name__)

NAMED = 5
_ADVICE = (
    "Put them right, or set DATASETS.SKIP_BROKEN_IMAGES True: then such pictures count as ones in "
    "which nothing was found"
)


class Unreadable(NamedTuple):
    """Stands for a sample that could not be read."""

    index: int
    problem: str


class ReadableOrNot(Dataset):
    """A test set of which samples that cannot be read come as `Unreadable`."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except (BrokenSampleError, FileNotFoundError) as error:
            return Unreadable(index, str(error))


class CollateReadable:
    """Joins the samples that were read, and lists the others beside them."""

    def __init__(self, collate: Callable[[Sequence[Any]], Batch]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Any]) -> tuple[Batch | None, list[Unreadable]]:
        unreadable = [sample for sample in samples if isinstance(sample, Unreadable)]
        readable = [sample for sample in samples if not isinstance(sample, Unreadable)]
        return self.collate(readable) if readable else None, unreadable


class UnreadableImages:
    """The pictures of one evaluation that this process could not read.

    Args:
        name: what messages call the test set.
        allowed: go on without them (DATASETS.SKIP_BROKEN_IMAGES).
    """

    def __init__(self, name: str, allowed: bool) -> None:
        self.name = name
        self.allowed = allowed
        self.image_ids: list[int] = []

    def note(self, image_id: int, problem: str) -> None:
        """Count one picture.

        Raises:
            DataError: they are not allowed.
        """
        if not self.allowed:
            raise DataError(f"{self.name}: {problem}. {_ADVICE}")
        self.image_ids.append(image_id)
        logger.warning("%s: picture left out, no. %d: %s", self.name, len(self.image_ids), problem)

    def nothing_found(self) -> dict[int, BoxList]:
        """A prediction without boxes for each of them; a warning says how many there are."""
        if self.image_ids:
            logger.warning(
                "%s: %d picture(s) could not be read and count as ones in which nothing was found",
                self.name,
                len(self.image_ids),
            )
        return {image_id: _no_boxes() for image_id in self.image_ids}


def require_pictures(dataset: Any, name: str, indices: Iterable[int]) -> None:
    """Look for the files of some samples before the first is computed on.

    Sets that keep pictures in larger files check those when they are opened.

    Raises:
        DataError: naming some of the missing files, and how many there are.
    """
    if not hasattr(dataset, "image_path"):
        return
    # Several samples may ask about one picture.
    paths = dict.fromkeys(dataset.image_path(dataset.rows[index]) for index in indices)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        shown = ", ".join(str(path) for path in missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise DataError(
            f"{name}: {len(missing)} of {len(paths)} pictures are missing: {shown}{more}. {_ADVICE}"
        )


def _no_boxes() -> BoxList:
    boxes = BoxList(torch.zeros(0, 4), (1, 1), mode="xyxy")
    boxes.add_field("scores", torch.zeros(0))
    boxes.add_field("labels", torch.zeros(0, dtype=torch.int64))
    return boxes
