"""What is odd or wrong about annotation files, said before the first iteration."""

import json
import logging
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config.dataset_sources import dataset_sources
from maskrcnn_benchmark.data.datasets.categories import CategoryTable, read_categories
from maskrcnn_benchmark.data.datasets.coco_content import checked_content, shortened
from maskrcnn_benchmark.errors import ConfigError, DataError
from maskrcnn_benchmark.evaluation.ground_truth import AnnotationError, load_ground_truth
from maskrcnn_benchmark.grounding import clean_name
from maskrcnn_benchmark.utils.box_values import is_box

logger = logging.getLogger(__name__)

# Pictures that are opened to compare their size with the file's, spread over the set.
OPENED_PICTURES = 500
_EXAMPLES = 3
_TURNED = range(2, 9)  # EXIF orientations; 1 is upright, others mean nothing
_READ_BY_CHECK = ("COCODataset", "CocoGrounding")
_NUM_CLASSES = ("ATSS", "DYHEAD", "FCOS", "ROI_BOX_HEAD")


@dataclass
class SetReport:
    """One annotation file, looked through.

    Attributes:
        name: what messages call it.
        path: the file.
        classes: ids and labels; None where the file has no classes.
        num_images, num_boxes: in the file; boxes without crowd regions.
        images_of: category id to number of images with a box of it.
        boxes_of: category id to number of boxes.
        errors: why it cannot be used.
        notes: what the user should know.
    """

    name: str
    path: Path
    classes: CategoryTable | None = None
    num_images: int = 0
    num_boxes: int = 0
    images_of: Counter = field(default_factory=Counter)
    boxes_of: Counter = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def foreground(self) -> dict[int, str]:
        """Category id to name of the classes that stand for something."""
        if self.classes is None:
            return {}
        names = self.classes.foreground
        return {
            category: names[label]
            for category, label in self.classes.json_to_label.items()
            if label in names
        }


def inspect_file(
    path: str | Path,
    image_folder: str | Path,
    *,
    name: str,
    training: bool,
    override: Sequence[Mapping[str, Any]] | None = None,
) -> SetReport:
    """Look through a COCO-style file and its pictures.

    Args:
        training: boxes are needed.
        override: DATASETS.OVERRIDE_CATEGORY.
    """
    report = SetReport(name, Path(path))
    content = _read(report)
    if content is None:
        return report
    images, boxes = content["images"], content.get("annotations", [])
    report.num_images = len(images)
    _check_images(report, images, Path(image_folder))
    if not _fields_present(report, boxes, training):
        return report
    _check_classes(report, content.get("categories", []), boxes, override)
    _check_boxes(report, images, boxes, training)
    if training:
        _check_every_class_has_images(report)
    elif not report.errors:
        _check_as_evaluation_does(report)
    return report


def _read(report: SetReport) -> dict[str, Any] | None:
    try:
        content = json.loads(report.path.read_bytes())
        return checked_content(content, str(report.path), ("file_name",))
    except OSError as error:
        report.errors.append(f"cannot be read: {error.strerror}")
    except DataError as error:
        _add_error(report, error)
    except ValueError as error:
        report.errors.append(f"is not valid JSON: {error}")
    return None


def _add_error(report: SetReport, error: DataError) -> None:
    """Add what a reader of the file says, without the path, which stands before it already."""
    report.errors.append(str(error).removeprefix(str(report.path)).lstrip(": "))


def _check_images(report: SetReport, images: Sequence[Mapping], folder: Path) -> None:
    if not images:
        report.errors.append("lists no image")
        return
    names = [image["file_name"] for image in images]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        report.notes.append(
            f"{len(repeated)} picture(s) are listed more than once, as different images "
            f"({_examples(repeated)}): the boxes of one entry are background in the other. Better "
            "join their annotations under one image id"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        report.errors.append(
            f"{len(missing)} of {len(names)} pictures are not in {folder} ({_examples(missing)})"
        )
        return
    step = max(1, len(images) // OPENED_PICTURES)
    wrong, turned = [], []
    for image in images[::step]:
        header = _header_of(folder / image["file_name"])
        if header is None:
            report.errors.append(f"{folder / image['file_name']} is not a picture that can be read")
            return
        size, is_turned = header
        if is_turned:
            turned.append(image["file_name"])
        if size != (image.get("width", size[0]), image.get("height", size[1])):
            wrong.append(f"{image['file_name']} is {size[0]}x{size[1]}")
    if wrong:
        report.notes.append(
            f"{len(wrong)} picture(s) have another size than the file says ({_examples(wrong)}): "
            "check that the boxes belong to these pictures (turned by EXIF, or resized?)"
        )
    if turned:
        report.notes.append(
            f"{len(turned)} of {len(images[::step])} pictures looked at are shown turned or mirrored "
            f"by viewers, as their EXIF orientation says ({_examples(turned)}): training reads the "
            "pixels as they are stored, so boxes drawn on the picture as shown are wrong. Save these "
            "pictures upright, without the orientation, and check their boxes"
        )


def _header_of(path: Path) -> tuple[tuple[int, int], bool] | None:
    """(width, height) as stored, and whether viewers turn it; None for what is no picture."""
    try:
        with Image.open(path) as picture:
            return picture.size, _orientation(picture) in _TURNED
    except OSError:
        return None


def _orientation(picture: Image.Image) -> int | None:
    # Pillow would decode all of a PNG file that has no EXIF before its pixels.
    if picture.format == "PNG" and "exif" not in picture.info:
        return None
    try:
        return picture.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error):  # malformed EXIF turns nothing
        return None


def _fields_present(report: SetReport, boxes: Sequence[Mapping], training: bool) -> bool:
    needed = ("image_id", "category_id", "bbox")
    for key in needed if training else ("id", *needed):
        bad = [box for box in boxes if key not in box]
        if bad:
            report.errors.append(
                f"{len(bad)} annotation(s) lack {key!r}, the first is {shortened(bad[0])}"
            )
    return not report.errors


def _check_as_evaluation_does(report: SetReport) -> None:
    """Refuse what the validation after the first epoch would refuse, such as repeated ids."""
    try:
        load_ground_truth(report.path)
    except AnnotationError as error:
        _add_error(report, error)


def _check_classes(
    report: SetReport,
    categories: Sequence[Mapping],
    boxes: Sequence[Mapping],
    override: Sequence[Mapping] | None,
) -> None:
    if not categories and not override:
        report.errors.append("has no category: list its classes under 'categories'")
        return
    used = {box["category_id"] for box in boxes}
    try:
        report.classes = read_categories(categories, used, str(report.path), override)
    except (ValueError, KeyError) as error:
        report.errors.append(f"its categories cannot be used: {error}")
        return
    ids = sorted(report.classes.json_to_label)
    names = report.foreground
    for category in ids:
        if category not in names:
            what = report.classes.names[report.classes.json_to_label[category]]
            report.notes.append(f"category {category} ({what!r}) is background and left out")
    if 0 in names:
        report.notes.append(f"category id 0 is a class here ({names[0]!r}); labels count from 1")
    if names and len(names) < max(names) - min(names) + 1:
        report.notes.append(
            f"category ids have gaps ({len(names)} classes, ids {min(names)} to {max(names)}); "
            "labels are numbered without"
        )
    _check_names(report, names, used)


def _check_names(report: SetReport, names: Mapping[int, str], used: set[int]) -> None:
    if not names:
        report.errors.append("has no category that stands for an object")
    words: dict[str, int] = {}
    for category, name in names.items():
        phrase = clean_name(name).strip().lower()
        if not phrase:
            message = f"category {category} has a blank name ({name!r}): no words can ask for it"
            if category in used:
                report.errors.append(f"{message}. Give it a name in the file")
            else:
                report.notes.append(f"{message}, and no box uses it")
        elif phrase in words:
            report.notes.append(
                f"categories {words[phrase]} and {category} read the same ({phrase!r}): the model "
                "cannot tell them apart"
            )
        words.setdefault(phrase, category)


def _check_boxes(
    report: SetReport, images: Sequence[Mapping], boxes: Sequence[Mapping], training: bool
) -> None:
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in images}
    unknown, crowds, outside, empty = [], 0, [], []
    usable: dict[Any, set[int]] = {}
    for box in boxes:
        if box["image_id"] not in sizes:
            unknown.append(str(box.get("id")))
            continue
        if not is_box(box["bbox"]):
            report.errors.append(
                f"bbox of annotation {box.get('id')} must be four finite numbers "
                f"[x, y, width, height], got {box['bbox']!r}"
            )
            return
        if box.get("iscrowd", 0) == 1:
            crowds += 1
            continue
        width, height = sizes[box["image_id"]]
        x, y, w, h = box["bbox"]
        right = x + w if width is None else min(x + w, width)
        bottom = y + h if height is None else min(y + h, height)
        if right - max(x, 0) <= 1 or bottom - max(y, 0) <= 1:
            empty.append(str(box.get("id")))
            continue
        # Exports round: half a pixel over the edge is no sign of anything.
        if min(x, y) < -0.5 or x + w > right + 0.5 or y + h > bottom + 0.5:
            outside.append(str(box.get("id")))
        usable.setdefault(box["image_id"], set()).add(box["category_id"])
        report.boxes_of[box["category_id"]] += 1
    report.num_boxes = sum(report.boxes_of.values())
    for categories in usable.values():
        report.images_of.update(categories)
    _note_boxes(report, unknown, crowds, outside, empty)
    without = report.num_images - len(usable)
    if without and training:
        report.notes.append(
            f"{without} of {report.num_images} images have no usable box; training leaves them out"
        )
    if not usable:
        report.errors.append("has no usable box" + (" to learn from" if training else ""))


def _note_boxes(
    report: SetReport, unknown: list[str], crowds: int, outside: list[str], empty: list[str]
) -> None:
    if unknown:
        report.notes.append(
            f"{len(unknown)} annotation(s) name an image that the file lacks and are ignored "
            f"({_examples(unknown)})"
        )
    if crowds:
        report.notes.append(
            f"{crowds} box(es) are crowd regions (iscrowd 1): not trained on, and ignored in AP"
        )
    if outside:
        report.notes.append(
            f"{len(outside)} box(es) reach out of their image and are clipped (annotations "
            f"{_examples(outside)})"
        )
    if empty:
        report.notes.append(
            f"{len(empty)} box(es) are at most one pixel wide or high inside their image and are "
            f"left out (annotations {_examples(empty)})"
        )


def _check_every_class_has_images(report: SetReport) -> None:
    unseen = [name for i, name in report.foreground.items() if not report.images_of[i]]
    if unseen and report.num_boxes:
        report.notes.append(
            f"no image has a box of {len(unseen)} class(es): {_examples(unseen)}; the model gets "
            "no example of them"
        )


def _examples(values: Sequence[str]) -> str:
    shown = ", ".join(map(str, values[:_EXAMPLES]))
    return shown if len(values) <= _EXAMPLES else f"{shown}, ..."


# ---- a whole run --------------------------------------------------------------------------------


def inspect_run(config: CfgNode) -> list[SetReport]:
    """Look through the training and test sets of a run that are COCO-style files of its own.

    Raises:
        ConfigError, FileNotFoundError: a set is unknown or its files are not there.
    """
    datasets = config.DATASETS
    override = datasets.OVERRIDE_CATEGORY if datasets.USE_OVERRIDE_CATEGORY else None
    reports = []
    for training in (True, False):
        registered = _registered_names(config, training)
        for source in dataset_sources(config, training):
            if source.factory in _READ_BY_CHECK and source.name in registered:
                args = source.args
                folder = args.get("img_folder", args.get("root"))
                reports.append(
                    inspect_file(
                        args["ann_file"],
                        folder,
                        name=f"{source.name} ({'training' if training else 'validation'})",
                        training=training,
                        override=override,
                    )
                )
    return reports


def _registered_names(config: CfgNode, training: bool) -> set[str]:
    datasets = config.DATASETS
    suffix = datasets.TRAIN_DATASETNAME_SUFFIX if training else datasets.TEST_DATASETNAME_SUFFIX
    return {f"{name}{suffix}" for name in datasets.REGISTER}


def require_usable(reports: Sequence[SetReport]) -> None:
    """Log what is odd, and refuse what cannot work.

    Raises:
        AnnotationError: listing everything that has to be repaired.
    """
    errors = [f"{r.name}, {r.path}: {error}" for r in reports for error in r.errors]
    for report in reports:
        logger.info(
            "%s: %d images, %d boxes of %d classes (%s)",
            report.name,
            report.num_images,
            report.num_boxes,
            len(report.foreground),
            report.path,
        )
        for note in report.notes:
            logger.warning("%s: %s", report.name, note)
    errors += _disagreements(reports)
    if errors:
        lines = "\n".join(f"  - {error}" for error in errors)
        raise AnnotationError(f"the data cannot be used as they are:\n{lines}")


def _disagreements(reports: Sequence[SetReport]) -> list[str]:
    """Classes that mean different things in training and validation."""
    usable = [report for report in reports if report.classes is not None]
    errors = []
    for other in usable[1:]:
        first = usable[0]
        for category in first.foreground.keys() & other.foreground.keys():
            names = first.foreground[category], other.foreground[category]
            if clean_name(names[0]).lower() != clean_name(names[1]).lower():
                errors.append(
                    f"category {category} is {names[0]!r} in {first.path} but {names[1]!r} in "
                    f"{other.path}"
                )
        strangers = sorted(
            category for category in other.foreground.keys() - first.foreground.keys()
        )
        if strangers and any(other.boxes_of[category] for category in strangers):
            name = other.foreground[strangers[0]]
            errors.append(
                f"{other.path} has boxes of category {strangers[0]} ({name!r}), which "
                f"{first.path} does not list"
            )
    return errors


def derive_class_count(config: CfgNode, reports: Sequence[SetReport], opts: Sequence[str]) -> None:
    """Set NUM_CLASSES of all heads to the number of classes of the file, background included.

    Raises:
        ConfigError: the command line asks for fewer.
    """
    table = next((report.classes for report in reports if report.classes is not None), None)
    if table is None:
        return
    needed = max(table.foreground, default=0) + 1
    given = [f"MODEL.{head}.NUM_CLASSES" for head in _NUM_CLASSES]
    for key in given:
        if key in opts[::2] and config.leaves()[key] < needed:
            raise ConfigError(
                f"{key} {config.leaves()[key]} disagrees with {reports[0].path}, which has "
                f"{len(table.foreground)} classes: it counts the background too, so it must be "
                f"{needed}, or be left away (it follows from the file)"
            )
    if needed != config.MODEL.DYHEAD.NUM_CLASSES:
        logger.info(
            "MODEL.DYHEAD.NUM_CLASSES is %d; %s has %d classes, so %d (with background) is used",
            config.MODEL.DYHEAD.NUM_CLASSES,
            reports[0].path,
            len(table.foreground),
            needed,
        )
    for key in given:
        if key not in opts[::2]:
            config.merge_from_list([key, needed])
