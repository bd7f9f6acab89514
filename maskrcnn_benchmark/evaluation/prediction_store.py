"""Predictions kept on disk while an evaluation runs, so that an interrupted one can go on.

Every process appends to a file of its own, one line per image, and on opening reads what the
files of all processes hold. A resumed run may therefore have another number of processes. A line
that a kill cut short, or that the disk spoiled, fails its checksum and is predicted again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.checkpoint_files import write_atomically

logger = logging.getLogger(__name__)

FORMAT = 1
FILE_PATTERN = "unfinished.rank*.jsonl"


class _Place(NamedTuple):
    """Where the line of an image begins."""

    path: Path
    offset: int


class PredictionStore:
    """Predictions by image id, on disk.

    Usage::

        with PredictionStore(folder, fingerprint(weights, config, queries), rank) as store:
            for image_id in own_share:
                if image_id not in store:
                    store.add(image_id, predict(image_id))
            evaluator.update(store.items(own_share))
        # after the evaluation, on rank 0, when all processes are done:
        PredictionStore.remove(folder)

    Args:
        folder: the dataset's output folder; made if missing.
        fingerprint: tells everything the predictions depend on, see :func:`fingerprint`. Files
            with another one are not used.
        rank: number of this process.
    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, fingerprint: str, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self.path = self.folder / f"unfinished.rank{rank}.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._places: dict[int, _Place] = {}
        for path in sorted(self.folder.glob(FILE_PATTERN)):
            if path != self.path:
                self._places.update(self._scan(path)[0])
        self._prepare_own_file()
        self._file = self.path.open("ab")
        if self._places:
            logger.info("%d images are predicted already (%s)", len(self), self.folder)

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def finished(self) -> frozenset[int]:
        """Ids of the images that need no prediction any more."""
        return frozenset(self._places)

    def add(self, image_id: int, boxes: BoxList) -> None:
        """Append the prediction of one image; fields that are tensors are kept with it.

        The line reaches the operating system at once, so it survives a kill of the process.
        """
        offset = self._file.tell()
        self._file.write(_encode(image_id, boxes))
        self._file.flush()
        self._places[image_id] = _Place(self.path, offset)

    def get(self, image_id: int) -> BoxList:
        """The prediction of one image.

        Raises:
            KeyError: if there is none.
            OSError: the file is not what this run has written.
        """
        place = self._places[image_id]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            found, boxes = _decode(file.readline())
        if found != image_id:
            raise OSError(f"{place.path}: another run has written into it")
        return boxes

    def items(self, image_ids: Iterable[int]) -> dict[int, BoxList]:
        """The predictions of some images, those without one left out."""
        return {image_id: self.get(image_id) for image_id in image_ids if image_id in self}

    def close(self) -> None:
        """Force what was written to disk and close the file."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> PredictionStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @staticmethod
    def remove(folder: str | Path) -> None:
        """Remove the files of all processes, once the evaluation is complete."""
        for path in Path(folder).glob(FILE_PATTERN):
            path.unlink(missing_ok=True)

    def _prepare_own_file(self) -> None:
        """Keep the whole lines of this run's own file; start afresh where it is another run's."""
        if self.path.exists():
            places, end = self._scan(self.path)
            if end:
                self._places.update(places)
                # Only the tail goes: what a kill left of the last line.
                os.truncate(self.path, end)
                return
        header = {"format": FORMAT, "fingerprint": self.fingerprint}
        write_atomically(self.path, lambda file: file.write(json.dumps(header).encode() + b"\n"))

    def _scan(self, path: Path) -> tuple[dict[int, _Place], int]:
        """Places of the valid lines of a file, and where the last of them ends (0: not ours)."""
        places: dict[int, _Place] = {}
        broken = 0
        with path.open("rb") as file:
            if _read_header(file.readline()) != {
                "format": FORMAT,
                "fingerprint": self.fingerprint,
            }:
                logger.warning(
                    "%s belongs to a run with other weights, settings or queries; not used", path
                )
                return {}, 0
            end = offset = file.tell()
            for line in file:
                entry = _check(line)
                if entry is None:
                    broken += 1
                else:
                    places[entry["image_id"]] = _Place(path, offset)
                offset += len(line)
                if line.endswith(b"\n"):
                    end = offset
        if broken:
            logger.warning(
                "%s: %d unreadable lines; those images are predicted again", path, broken
            )
        return places, end


def fingerprint(*parts: Any) -> str:
    """A digest of everything that predictions depend on.

    Args:
        parts: strings, numbers, nested lists and dictionaries of them, bytes, arrays, or mappings
            of names to tensors (a state dict). Files are told by :func:`file_identity`.
    Returns:
        64 hexadecimal digits.
    Raises:
        TypeError: a part of another type.
    """
    digest = hashlib.sha256()
    for part in parts:
        for chunk in _chunks(part):
            digest.update(len(chunk).to_bytes(8, "little"))
            digest.update(chunk)
    return digest.hexdigest()


def file_identity(path: str | Path) -> dict[str, Any]:
    """What tells one version of a file from another without reading it.

    Raises:
        FileNotFoundError: if it is not there.
    """
    path = Path(path).resolve()
    status = path.stat()
    return {"path": str(path), "bytes": status.st_size, "modified": status.st_mtime_ns}


def _chunks(part: Any) -> Iterator[bytes | memoryview]:
    if isinstance(part, torch.Tensor):
        tensor = part.detach().cpu().contiguous()
        yield f"tensor {tensor.dtype} {tuple(tensor.shape)}".encode()
        yield tensor.reshape(-1).view(torch.uint8).numpy().data
    elif isinstance(part, np.ndarray):
        yield f"array {part.dtype} {part.shape}".encode()
        yield np.ascontiguousarray(part).data.cast("B")
    elif isinstance(part, Mapping):
        yield f"mapping {len(part)}".encode()
        for key in sorted(part, key=str):
            yield from _chunks(str(key))
            yield from _chunks(part[key])
    elif isinstance(part, (list, tuple)):
        yield f"list {len(part)}".encode()
        for value in part:
            yield from _chunks(value)
    elif isinstance(part, (str, int, float, bool, bytes, type(None), Path)):
        yield f"{type(part).__name__} {part!r}".encode()
    else:
        raise TypeError(f"cannot take a fingerprint of {type(part).__name__}: {part!r}")


def _encode(image_id: int, boxes: BoxList) -> bytes:
    entry: dict[str, Any] = {
        "image_id": int(image_id),
        "size": [int(side) for side in boxes.size],
        "mode": boxes.mode,
        "boxes": _pack(boxes.bbox),
        "fields": {
            name: _pack(boxes.get_field(name))
            for name in boxes.fields()
            if isinstance(boxes.get_field(name), torch.Tensor)
        },
    }
    text = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line: bytes) -> tuple[int, BoxList]:
    entry = _check(line)
    if entry is None:
        raise OSError("a stored prediction changed on disk while the evaluation was running")
    boxes = BoxList(_unpack(entry["boxes"]), tuple(entry["size"]), entry["mode"])
    for name, packed in entry["fields"].items():
        boxes.add_field(name, _unpack(packed))
    return entry["image_id"], boxes


def _check(line: bytes) -> dict[str, Any] | None:
    """The entry of a line, None if the line is not whole."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)


def _read_header(line: bytes) -> Any:
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _pack(tensor: torch.Tensor) -> list[Any]:
    # Base64 of the bytes: exact, and a third of the size of decimal digits.
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()  # NumPy has no bfloat16; every value of it is a float32
    array = np.ascontiguousarray(tensor.detach().cpu().numpy())
    return [array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def _unpack(packed: list[Any]) -> torch.Tensor:
    dtype, shape, data = packed
    array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)
    return torch.from_numpy(array.copy())
