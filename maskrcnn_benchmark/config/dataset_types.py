"""Which dataset class a catalogue entry belongs to, and the arguments it is built with."""

import logging
from collections.abc import Mapping
from typing import Any

from maskrcnn_benchmark.config.file_search import find_files, try_to_find
from maskrcnn_benchmark.errors import ConfigError

logger = logging.getLogger(__name__)

_IMAGES = ("img_dir", "img_folder")
_ANNOTATIONS = ("ann_file",)
_TSV = ("yaml_path", "yaml_file")
_SHARDS = ("shards",)
_LABEL_MAP = ("label_map",)

# Dataset class -> {constructor argument: attributes of the entry that may give its path}.
_PATHS: dict[str, dict[str, tuple[str, ...]]] = {
    "Background": {"root": _IMAGES, "ann_file": _ANNOTATIONS},
    "PascalVOCDataset": {"data_dir": ("data_dir",)},
    "MixedDataset": {
        "img_folder_coco": ("coco_img_dir",),
        "img_folder_vg": ("vg_img_dir",),
        "ann_file": _ANNOTATIONS,
    },
    "FlickrDataset": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "RefExpDataset": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "GQADataset": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "PhrasecutDetection": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "CaptionTSV": {"yaml_file": _TSV},
    "PseudoData": {"yaml_file": _TSV},
    "CaptionShards": {"shards": _SHARDS},
    "DetectionShards": {"shards": _SHARDS, "label_map": _LABEL_MAP},
    "CaptionJsonLines": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "DetectionJsonLines": {
        "img_folder": _IMAGES,
        "ann_file": _ANNOTATIONS,
        "label_map": _LABEL_MAP,
    },
    "CocoDetectionTSV": {"yaml_file": _TSV},
    "ODTSVDataset": {"yaml_file": _TSV},
    "CocoGrounding": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "CocoSampledGrounding": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "LvisDetection": {"img_folder": _IMAGES, "ann_file": _ANNOTATIONS},
    "COCODataset": {"root": _IMAGES, "ann_file": _ANNOTATIONS},
}

# Part of a name -> dataset class, for entries without a type; the first that fits wins.
_NAME_RULES = (
    ("voc", "PascalVOCDataset"),
    ("mixed", "MixedDataset"),
    ("flickr", "FlickrDataset"),
    ("refexp", "RefExpDataset"),
    ("refcoco", "RefExpDataset"),
    ("gqa", "GQADataset"),
    ("phrasecut", "PhrasecutDetection"),
    ("_caption", "CaptionTSV"),
    ("inferencecap", "CaptionTSV"),
    ("pseudo_data", "PseudoData"),
    ("_dt", "CocoDetectionTSV"),
    ("_odtsv", "ODTSVDataset"),
    ("_grounding", "CocoGrounding"),
    ("lvis_evaluation", "LvisDetection"),
)
_OTHER_ATTRIBUTES = frozenset(
    {"type", "is_train", "split", "dataset_file", "yaml_name", "yaml_name_no_coco"}
)


def dataset_class(name: str, entry: Mapping[str, Any]) -> str:
    """Dataset class of an entry: its `type`, else what its files or its name say.

    Shards and JSON lines are known by their attribute or ending; they hold captions, or with a
    `label_map` classes. Otherwise a name decides, but only where the entry has the files which that class needs, so that
    "my_mixed_cars" with images and annotations is COCO data.

    Raises:
        ConfigError: the type is unknown, or no class can be built from the entry.
    """
    if "type" in entry:
        if entry["type"] not in _PATHS:
            raise ConfigError(
                f"dataset {name}: unknown type {entry['type']!r}; "
                f"known are {', '.join(sorted(_PATHS))}"
            )
        return entry["type"]
    container = _container(entry)
    if container is not None:
        return f"Detection{container}" if _LABEL_MAP[0] in entry else f"Caption{container}"
    if name.endswith("_bg"):
        return "Background"
    for part, kind in _NAME_RULES:
        if part in name and not _missing(kind, entry):
            return kind
    return "COCODataset"


def _container(entry: Mapping[str, Any]) -> str | None:
    if _SHARDS[0] in entry:
        return "Shards"
    return "JsonLines" if str(entry.get(_ANNOTATIONS[0], "")).endswith(".jsonl") else None


def dataset_arguments(name: str, kind: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of an entry's dataset, with every path found on disk.

    Raises:
        ConfigError: the entry lacks what the class needs.
        FileNotFoundError: a file or folder is not there.
    """
    missing = _missing(kind, entry)
    if missing:
        raise ConfigError(
            f"dataset {name} ({kind}) lacks {' and '.join(missing)}; it has {', '.join(entry)}"
        )
    _warn_about_unknown_attributes(name, kind, entry)
    if kind == "CaptionTSV" and "yaml_name" in entry:
        return {"yaml_file": _find(name, _caption_shard(name, entry))}
    arguments: dict[str, Any] = {
        argument: _find(name, _first(entry, attributes), several=attributes == _SHARDS)
        for argument, attributes in _PATHS[kind].items()
    }
    if kind == "PascalVOCDataset":
        arguments["split"] = entry["split"]
    elif kind == "FlickrDataset":
        arguments["is_train"] = entry.get("is_train", False)
    elif kind in ("CocoDetectionTSV", "ODTSVDataset"):
        arguments["name"] = entry.get("dataset_file", name)
    return arguments


def _missing(kind: str, entry: Mapping[str, Any]) -> list[str]:
    missing = [
        " or ".join(attributes)
        for attributes in _PATHS[kind].values()
        if not any(attribute in entry for attribute in attributes)
    ]
    if kind == "PascalVOCDataset" and "split" not in entry:
        missing.append("split")
    return missing


def _first(entry: Mapping[str, Any], attributes: tuple[str, ...]) -> Any:
    return next(entry[attribute] for attribute in attributes if attribute in entry)


def _find(name: str, path: Any, several: bool = False) -> Any:
    try:
        return find_files(path) if several else try_to_find(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"dataset {name}: {error}") from None


def _caption_shard(name: str, entry: Mapping[str, Any]) -> str:
    """File of one shard of caption data; its number is the third part of the name."""
    parts = name.split("_")
    if len(parts) < 3 or not parts[2].isdigit():
        raise ConfigError(
            f"dataset {name} is read shard by shard: list the shards in DATASETS.BING_INDEX_LIST"
        )
    stem = entry["yaml_name_no_coco" if "no_coco" in name else "yaml_name"]
    return f"{entry['yaml_path']}/{stem}.{parts[2]}.yaml"


def _warn_about_unknown_attributes(name: str, kind: str, entry: Mapping[str, Any]) -> None:
    known = _OTHER_ATTRIBUTES.union(*_PATHS[kind].values())
    unknown = [attribute for attribute in entry if attribute not in known]
    if unknown:
        logger.warning("dataset %s (%s): %s ignored", name, kind, ", ".join(unknown))
