"""What is wrong with a set, and what it holds."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np

from maskrcnn_benchmark.data.conversion.check_index import index_problems
from maskrcnn_benchmark.data.conversion.open_set import OpenedSet
from maskrcnn_benchmark.data.datasets.caption_record import SpanError, read_record
from maskrcnn_benchmark.data.datasets.tar_index import picture_size
from maskrcnn_benchmark.data.image_files import BrokenSampleError, read_rgb
from maskrcnn_benchmark.utils.box_values import is_box

_EXAMPLES = 5


@dataclass
class SetReport:
    """Findings about a set.

    Attributes:
        samples: how many there are.
        problems: kind of problem -> how often.
        examples: kind of problem -> the first few, in words.
        statistics: what the set holds, by name.
    """

    samples: int = 0
    problems: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    statistics: dict[str, Any] = field(default_factory=dict)

    def note(self, kind: str, text: str) -> None:
        """Count a problem."""
        self.problems[kind] += 1
        if len(self.examples[kind]) < _EXAMPLES:
            self.examples[kind].append(text)

    def lines(self) -> list[str]:
        """The report in words."""
        lines = [f"{self.samples} samples"]
        lines += [f"{name}: {_shown(value)}" for name, value in self.statistics.items()]
        for kind, count in self.problems.most_common():
            lines.append(f"PROBLEM {kind}: {count}")
            lines += [f"  {example}" for example in self.examples[kind]]
        return [*lines, "no problem found"] if not self.problems else lines


def check_set(
    opened: OpenedSet,
    *,
    version: str = "v1",
    decode: bool = False,
    on_sample: Callable[[int], None] = lambda done: None,
) -> SetReport:
    """Read every record and picture of a set.

    Args:
        version: form of caption records that do not say it (DATASETS.CAPTION_FORMAT_VERSION).
        decode: decode the pictures; without, only their heads are read.
        on_sample: called with the number of samples that are done.
    """
    report = SetReport(samples=len(opened.source))
    for text in getattr(opened.source, "problems", []):
        report.note("file", text)
    for text in index_problems(opened.source):
        report.note("index", text)
    checker = _Checker(opened, report, version, decode)
    for index in range(len(opened.source)):
        checker.check(index)
        on_sample(index + 1)
    report.statistics = checker.statistics()
    return report


class _Checker:
    def __init__(self, opened: OpenedSet, report: SetReport, version: str, decode: bool):
        self.source = opened.source
        self.label_map = opened.label_map
        self.report = report
        self.version = version
        self.decode = decode
        self.boxes_per_sample: list[int] = []
        self.sides: list[tuple[int, int]] = []
        self.box_sides: list[float] = []
        self.scores: list[float] = []
        self.classes: Counter = Counter()
        self.phrases: Counter = Counter()
        self.caption_lengths: list[int] = []
        self.keys: set[str] = set()

    def check(self, index: int) -> None:
        where = self.source.where(index)
        try:
            record = self.source.record(index)
            self._check_key(index, where)
        except BrokenSampleError as error:
            self.report.note("record", str(error))
            return
        size = self._check_picture(index, where)
        if isinstance(record, Mapping) and "caption" in record:
            self._check_caption(record, size, where)
        else:
            self._check_objects(record, size, where)

    def statistics(self) -> dict[str, Any]:
        heights, widths = np.array(self.sides or [(0, 0)]).T
        found: dict[str, Any] = {
            "pictures that can be read": len(self.sides),
            "portrait or square": int((heights >= widths).sum()) if self.sides else 0,
            "heights": _spread(heights),
            "widths": _spread(widths),
            "boxes": sum(self.boxes_per_sample),
            "boxes per sample": _spread(self.boxes_per_sample),
            "samples without boxes": self.boxes_per_sample.count(0),
            "box side (root of area)": _spread(self.box_sides),
        }
        if self.classes or (self.label_map and not self.caption_lengths):
            missing = set(self.label_map or ()) - set(self.classes) - {"__background__"}
            found["classes"] = len(self.classes)
            found["classes without a box"] = sorted(missing)
            found["boxes by class"] = dict(self.classes.most_common())
        if self.caption_lengths:
            found["characters per caption"] = _spread(self.caption_lengths)
            found["different phrases"] = len(self.phrases)
            found["phrases with most boxes"] = dict(self.phrases.most_common(20))
            found["scores"] = _spread(self.scores)
        return found

    def _check_key(self, index: int, where: str) -> None:
        key = self.source.key(index)
        if key in self.keys and not self._keys_may_repeat(index):
            self.report.note("repeated key", f"{where}: {key!r}")
        self.keys.add(key)

    def _keys_may_repeat(self, index: int) -> bool:
        # Lists of rows repeat samples, and captions share pictures.
        record = self.source.record(index)
        is_caption = isinstance(record, Mapping) and "caption" in record
        return is_caption or self.source.row(index) != index

    def _check_picture(self, index: int, where: str) -> tuple[int, int] | None:
        """(height, width); None where the picture is missing or broken."""
        try:
            data = self.source.image_data(index)
            size = picture_size(data)
            if self.decode:
                read_rgb(BytesIO(data), f"of {where}")
        except FileNotFoundError as error:
            self.report.note("missing image", str(error))
            return None
        except BrokenSampleError as error:
            self.report.note("broken image", str(error))
            return None
        if min(size) < 1:
            self.report.note("broken image", f"{where}: no picture")
            return None
        self.sides.append(size)
        return size

    def _check_caption(
        self, content: Mapping[str, Any], size: tuple[int, int] | None, where: str
    ) -> None:
        try:
            record = read_record({"img_h": 1, "img_w": 1, **content}, self.version, where)
        except BrokenSampleError as error:
            kind = "span outside its caption" if isinstance(error, SpanError) else "record"
            self.report.note(kind, str(error))
            return
        self.caption_lengths.append(len(record.caption))
        self.boxes_per_sample.append(len(record.boxes))
        self.scores += record.scores.tolist()
        for box, spans in zip(record.boxes.tolist(), record.spans):
            if not spans:
                self.report.note("box without words", where)
            self.phrases[" ".join(record.caption[b:e] for b, e in spans).lower()] += 1
            # Boxes are in pixels of the size that the record states.
            self._check_box(box, record.image_size[::-1], where)
        stated = record.image_size[::-1]
        if size is not None and stated != size and "img_h" in content:
            ratio = abs(stated[0] * size[1] - stated[1] * size[0])
            if ratio > max(*stated, *size):
                self.report.note("size", f"{where}: record {stated}, picture {size} (h, w)")

    def _check_objects(self, record: Any, size: tuple[int, int] | None, where: str) -> None:
        objects = record.get("objects", []) if isinstance(record, Mapping) else record
        if not isinstance(objects, list) or not all(isinstance(o, Mapping) for o in objects):
            self.report.note("record", f"{where}: objects must be a list of mappings")
            return
        self.boxes_per_sample.append(len(objects))
        for item in objects:
            name = item.get("class")
            if self.label_map is not None and name not in self.label_map:
                self.report.note("unknown class", f"{where}: {name!r}")
            self.classes[name] += 1
            self._check_box(item.get("rect"), size, where)

    def _check_box(self, box: Any, size: tuple[int, int] | None, where: str) -> None:
        if not is_box(box):
            self.report.note("box is not four numbers", f"{where}: {box!r}")
            return
        x1, y1, x2, y2 = box
        if x2 <= x1 or y2 <= y1:
            self.report.note("box of at most one pixel", f"{where}: {list(box)}")
            return
        self.box_sides.append(float(np.sqrt((x2 - x1 + 1) * (y2 - y1 + 1))))
        if size is None:
            return
        height, width = size
        if x2 <= 0 or y2 <= 0 or x1 >= width - 1 or y1 >= height - 1:
            self.report.note("box outside its picture", f"{where}: {list(box)} of {width}x{height}")
        elif x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
            self.report.note(
                "box reaches out of its picture", f"{where}: {list(box)} of {width}x{height}"
            )


def _spread(values: Any) -> dict[str, float]:
    """Least, median, mean and greatest value."""
    if not len(values):
        return {}
    array = np.asarray(values, dtype=float)
    numbers = {
        "min": array.min(),
        "median": np.median(array),
        "mean": array.mean(),
        "max": array.max(),
    }
    return {name: round(float(number), 3) for name, number in numbers.items()}


def _shown(value: Any, most: int = 12) -> str:
    if isinstance(value, dict):
        items = [f"{key} {number}" for key, number in list(value.items())[:most]]
        more = len(value) - len(items)
        return ", ".join(items) + (f", and {more} more" if more > 0 else "")
    if isinstance(value, list):
        more = len(value) - most
        names = ", ".join(map(str, value[:most])) or "none"
        return names + (f", and {more} more" if more > 0 else "")
    return str(value)
