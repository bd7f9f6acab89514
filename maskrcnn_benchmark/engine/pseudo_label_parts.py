"""Pseudo labels on disk: parts that are whole or absent, and the set that they are joined to."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_benchmark.data.conversion.convert import make_writer, read_sample
from maskrcnn_benchmark.data.conversion.open_set import OpenedSet
from maskrcnn_benchmark.data.datasets.tsv_source import TSVSource
from maskrcnn_benchmark.data.writers import OutputFile, Sample
from maskrcnn_benchmark.data.writers.output_file import write_bytes
from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.utils.checkpoint_files import write_atomically

from .pseudo_labels import KEPT, Label, PseudoLabeller, count_labels

RUN_FILE = "run.json"


class LabelParts:
    """Labels of a source, cut into parts of equal length that processes share and that survive
    them.

    Args:
        folder: where parts are kept.
        total: samples of the source.
        part_size: samples of one part.
        run: what the labels depend on (source, weights, rules); a folder of another run is refused.
    Raises:
        DataError: the folder holds parts of another run.
    """

    def __init__(self, folder: Path, total: int, part_size: int, run: dict[str, Any]):
        self.folder = folder
        self.total = total
        self.part_size = part_size
        self.run = json.loads(json.dumps({**run, "samples": total, "part_size": part_size}))
        folder.mkdir(parents=True, exist_ok=True)
        self._check_run()

    def __len__(self) -> int:
        return -(-self.total // self.part_size)

    def indices(self, part: int) -> range:
        """Samples of a part."""
        return range(part * self.part_size, min((part + 1) * self.part_size, self.total))

    def path(self, part: int) -> Path:
        """File of a part: one line per kept sample, the last line holding the counts."""
        return self.folder / f"part-{part:06d}.jsonl"

    def missing(self) -> list[int]:
        """Parts that are not there yet."""
        return [part for part in range(len(self)) if not self.path(part).is_file()]

    def write(self, part: int, labels: Sequence[Label]) -> Counter:
        """Keep the labels of a part; returns its counts.

        Raises:
            DatasetWriteError: the disk refuses; nothing unfinished keeps the part's name.
        """
        counts = count_labels(labels)
        file = OutputFile(self.path(part))
        try:
            for label in sorted(labels, key=lambda label: label.index):
                if label.outcome == KEPT:
                    file.write(_line({"index": label.index, "record": label.record}))
            file.write(_line({"counts": counts}))
            file.finish()
        except BaseException:
            file.abandon()
            raise
        return counts

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number of the sample, record) of all kept samples, in order."""
        for part in range(len(self)):
            for line in self._lines(part)[:-1]:
                yield line["index"], line["record"]

    def counts(self) -> Counter:
        """Counts of all parts that are there."""
        total: Counter = Counter()
        for part in set(range(len(self))) - set(self.missing()):
            total.update(self._lines(part)[-1]["counts"])
        return total

    def _lines(self, part: int) -> list[dict[str, Any]]:
        try:
            lines = [json.loads(line) for line in self.path(part).read_bytes().splitlines()]
        except ValueError as error:
            raise DataError(
                f"{self.path(part)} is damaged ({error}); delete it and run again"
            ) from error
        if not lines or "counts" not in lines[-1]:
            raise DataError(f"{self.path(part)} is cut short; delete it and run again")
        return lines

    def _check_run(self) -> None:
        path = self.folder / RUN_FILE
        if path.is_file():
            earlier = json.loads(path.read_bytes())
            keys = {*earlier, *self.run}
            different = [k for k in sorted(keys) if earlier.get(k) != self.run.get(k)]
            if different:
                texts = [f"{k}: {earlier.get(k)!r} / {self.run.get(k)!r}" for k in different]
                raise DataError(
                    f"{self.folder} holds labels of another run ({'; '.join(texts)}): use another "
                    "--output, or delete it"
                )
        else:
            text = json.dumps(self.run, indent=1)
            write_atomically(path, lambda file: file.write(text.encode()))


def label_parts(
    labeller: PseudoLabeller,
    parts: LabelParts,
    own: Sequence[int],
    *,
    on_label: Callable[[Label], None] = lambda label: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Label some parts, each kept as soon as it is complete.

    Args:
        own: numbers of the parts.
        on_label: called with every label.
        should_stop: asked after every batch; the part under way is then lost.
    Returns:
        whether all of them are done.
    """
    indices = [index for part in own for index in parts.indices(part)]
    waiting: dict[int, list[Label]] = {}
    done = 0
    for label in labeller.label(indices, should_stop):
        on_label(label)
        part = label.index // parts.part_size
        waiting.setdefault(part, []).append(label)
        if len(waiting[part]) == len(parts.indices(part)):
            parts.write(part, waiting.pop(part))
            done += 1
    return done == len(own)


@dataclass(frozen=True)
class JoinedLabels:
    """A set made of pseudo labels.

    Attributes:
        written: its files, the one that names the set first.
        entry: what DATASETS.REGISTER says to train on it.
    """

    written: list[Path]
    entry: dict[str, str]


def join_parts(
    opened: OpenedSet,
    parts: LabelParts,
    target: str,
    folder: Path,
    name: str,
    image_folder: Path | None = None,
    shard_samples: int = 10_000,
) -> JoinedLabels:
    """Write the labels as a set that the datasets read.

    "tsv" of a TSV set refers to its images; "json-lines" names picture files where they are; all
    else copies the pictures.

    Args:
        opened: the pairs that were labelled.
        target: "tsv", "shards" or "json-lines".
        folder, name: where to, and what the files are called.
        image_folder: of the pairs, for the entry of "json-lines".
    Raises:
        DatasetWriteError: the disk refuses.
        DataError: pictures of this container are no files, which "json-lines" needs.
    """
    source = opened.source
    if target == "tsv" and isinstance(source, TSVSource) and source.image_row_of_id is None:
        return _join_beside(source, parts, folder, name)
    if target == "json-lines" and opened.kind not in ("json-lines", "coco", "folder"):
        raise DataError(f"the pictures of {opened.kind} are no files; choose tsv or shards")
    copy = target != "json-lines"
    with make_writer(
        opened, target, folder, name, shard_samples=shard_samples, copy_pictures=copy
    ) as writer:
        for index, record in parts.read():
            sample = read_sample(source, index)
            named = {key: sample.record[key] for key in ("id", "file_name") if key in sample.record}
            labelled = Sample(
                sample.key, sample.file_name, sample.size, {**named, **record}, sample.load_image
            )
            writer.add(labelled)
    if target == "tsv":
        entry = {"type": "CaptionTSV", "yaml_path": str(folder / f"{name}.yaml")}
    elif target == "shards":
        entry = {"shards": str(folder / f"{name}-*.tar")}
    else:
        entry = {"img_dir": str(image_folder), "ann_file": str(folder / f"{name}.jsonl")}
    return JoinedLabels(writer.written, entry)


def _join_beside(source: TSVSource, parts: LabelParts, folder: Path, name: str) -> JoinedLabels:
    """Labels for the images of a TSV set: a row for every image, and the list of those labelled."""
    records = {source.row(index): record for index, record in parts.read()}
    paths = {kind: folder / f"{name}.{kind}.tsv" for kind in ("label", "hw", "linelist")}
    files = {kind: OutputFile(path) for kind, path in paths.items()}
    indices = {kind: OutputFile(paths[kind].with_suffix(".lineidx")) for kind in ("label", "hw")}
    everything = [*files.values(), *indices.values()]
    try:
        for row in range(len(source.images)):
            record = records.get(row)
            key = source.images.key(row).encode()
            size = {"height": record["img_h"] if record else 1}
            size["width"] = record["img_w"] if record else 1
            for kind, content in (("label", record or {}), ("hw", [size])):
                begin = files[kind].write(key + b"\t" + _line(content))
                indices[kind].write(b"%d\n" % begin)
            if record:
                files["linelist"].write(b"%d\n" % row)
        written = [file.finish() for file in everything]
    except BaseException:
        for file in everything:
            file.abandon()
        raise
    settings = {
        "img": os.path.relpath(source.images.path, folder),
        **{kind: path.name for kind, path in paths.items()},
    }
    text = yaml.safe_dump(settings, sort_keys=False)
    main = write_bytes(folder / f"{name}.yaml", text.encode())
    return JoinedLabels([main, *written], {"type": "CaptionTSV", "yaml_path": str(main)})


def _line(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"
