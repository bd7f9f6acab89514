"""Class ids: the file's own, and the contiguous ones that labels use."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maskrcnn_benchmark.errors import ConfigError, DataError
from maskrcnn_benchmark.grounding.od_to_grounding import BACKGROUND_NAME

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CategoryTable:
    """Classes of a COCO-style file.

    Labels are 1 + position among the classes sorted by their id, so that two files of the same
    classes agree whatever the order in which they list them.

    Attributes:
        names: label -> name, background included.
        json_to_label: id in the file -> label.
        background: labels that stand for nothing: named `__background__`, or with id 0 and used by
            no box.
    """

    names: dict[int, str]
    json_to_label: dict[int, int]
    background: frozenset[int]

    @property
    def label_to_json(self) -> dict[int, int]:
        """Label -> id in the file."""
        return {label: category_id for category_id, label in self.json_to_label.items()}

    @property
    def foreground(self) -> dict[int, str]:
        """Label -> name without background."""
        return {label: name for label, name in self.names.items() if label not in self.background}


def read_categories(
    categories: Sequence[Mapping[str, Any]],
    used_ids: Collection[int],
    source: str,
    override: Sequence[Mapping[str, Any]] | None = None,
) -> CategoryTable:
    """Class table of a file.

    Args:
        categories: the file's list of {id, name}.
        used_ids: ids that its annotations use.
        source: what messages call it.
        override: DATASETS.OVERRIDE_CATEGORY: the classes to use instead; ids must be those of the
            file.
    Raises:
        ConfigError: an override with an unknown or doubled id.
        DataError: annotations of a class that is not listed.
    """
    file_ids = [category["id"] for category in categories]
    chosen = list(categories if override is None else override)
    ids = [category["id"] for category in chosen]
    if override is not None:
        unknown = [category for category in chosen if category["id"] not in set(file_ids)]
        if unknown:
            raise ConfigError(
                f"DATASETS.OVERRIDE_CATEGORY names {unknown[0]}, but {source} has no category with "
                f"that id (it has {sorted(file_ids)})"
            )
        if len(set(ids)) < len(ids):
            raise ConfigError(f"DATASETS.OVERRIDE_CATEGORY lists an id twice: {sorted(ids)}")
    missing = sorted(set(used_ids) - set(ids))
    if missing:
        listed = "DATASETS.OVERRIDE_CATEGORY" if override is not None else "its categories"
        raise DataError(f"{source}: annotations use category id {missing[0]}, which {listed} lack")
    if ids != sorted(ids):
        logger.warning(
            "%s does not list its categories by ascending id; labels follow the ids", source
        )
    by_id = sorted(chosen, key=lambda category: category["id"])
    labels = {category["id"]: position + 1 for position, category in enumerate(by_id)}
    names = {labels[category["id"]]: category["name"] for category in by_id}
    _report_equal_names(names, source)
    background = frozenset(
        labels[category["id"]]
        for category in by_id
        if category["name"] == BACKGROUND_NAME
        or (category["id"] == 0 and category["id"] not in used_ids)
    )
    return CategoryTable(names, labels, background)


def _report_equal_names(names: Mapping[int, str], source: str) -> None:
    seen: dict[str, int] = {}
    for label, name in names.items():
        if name in seen:
            logger.warning(
                "%s: labels %d and %d have the same name %r", source, seen[name], label, name
            )
        seen[name] = label
