"""Which datasets a configuration trains on or tests on."""

import importlib.util
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.config.node import CfgNode
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.errors import ConfigError

logger = logging.getLogger(__name__)

_PACKAGED = Path(__file__).resolve().parent / "paths_catalog.py"
# Training data with a copy setting of its own; all other sets follow GENERAL_COPY.
_COPY_KEYS = {
    "flickr30k_train": "FLICKR_COPY",
    "mixed_train": "MIXED_COPY",
    "mixed_train_no_coco": "MIXED_COPY",
    "COCO_odinw_train_8copy_dt_train": "COCO_COPY",
    "LVIS_odinw_train_8copy_dt_train": "LVIS_COPY",
    "object365_odinw_2copy_dt_train": "OBJECT365_COPY",
    "vg_odinw_clipped_8copy_dt_train": "VG_COPY",
    "vg_vgoi6_clipped_8copy_dt_train": "VG_COPY",
    "imagenetod_train_odinw_2copy_dt": "IN_COPY",
    "oi_train_odinw_dt": "OI_COPY",
}
# In FIBER these have a setting of their own too, in GLIP they follow GENERAL_COPY. The own setting
# counts, unless it is 1 (the default) and GENERAL_COPY is given: so the commands of both families
# keep their meaning.
_FIBER_COPY_KEYS = {
    "coco_dt_train": "COCO_COPY",
    "coco_grounding_train": "COCO_COPY",
    "lvisv1_dt_train": "LVIS_COPY",
    "lvis_grounding_train": "LVIS_COPY",
}


@dataclass(frozen=True)
class DatasetSource:
    """One dataset of a configuration.

    Attributes:
        name: name in the catalogue, suffix included.
        factory: name of the dataset class.
        args: its constructor arguments, paths found on disk.
        copies: how often the set is repeated within an epoch.
    """

    name: str
    factory: str
    args: dict[str, Any]
    copies: int


def dataset_sources(cfg: CfgNode, is_train: bool) -> list[DatasetSource]:
    """The datasets of DATASETS.TRAIN or DATASETS.TEST, in order.

    Raises:
        ConfigError: a name is unknown or its entry incomplete.
        FileNotFoundError: files of a dataset are not there.
    """
    catalogue = catalogue_of(cfg, is_train)
    return [
        DatasetSource(
            name=name,
            copies=copies_of(name, cfg, is_train),
            **DatasetCatalog.get(name, catalogue),
        )
        for name in dataset_names(cfg, is_train)
    ]


def dataset_names(cfg: CfgNode, is_train: bool) -> list[str]:
    """Names of DATASETS.TRAIN or TEST with their suffix, caption shards listed one by one."""
    datasets = cfg.DATASETS
    given = datasets.TRAIN if is_train else datasets.TEST
    names = [f"{name}{_suffix(cfg, is_train)}" for name in _flatten(given)]
    for shards, ending in (("bing_caption_train", ""), ("bing_caption_train_no_coco", "_no_coco")):
        if shards in names and len(datasets.BING_INDEX_LIST):
            names.remove(shards)
            names += [f"bing_caption_{i}_train{ending}" for i in datasets.BING_INDEX_LIST]
    return names


def catalogue_of(cfg: CfgNode, is_train: bool) -> dict[str, Mapping[str, Any]]:
    """Every entry that this configuration can name: the catalogue file's and the registered ones.

    Nothing global is changed, so that tasks do not see each other's entries. Files are not looked
    for yet.
    """
    suffix = _suffix(cfg, is_train)
    registered = {}
    for name, entry in cfg.DATASETS.REGISTER.items():
        if not isinstance(entry, Mapping):
            raise ConfigError(
                f"DATASETS.REGISTER.{name} must be a section such as "
                f"{{img_dir: ..., ann_file: ...}}, got {entry!r}"
            )
        registered[f"{name}{suffix}"] = {"is_train": is_train, **entry}
    return {**_catalogue_file(cfg.PATHS_CATALOG), **registered}


def copies_of(name: str, cfg: CfgNode, is_train: bool) -> int:
    """How often a dataset is repeated within an epoch."""
    key = _copy_key(name, cfg) if is_train else "GENERAL_COPY_TEST"
    copies = cfg.DATASETS[key]
    if copies == -1:
        return 1
    if copies < 1:
        raise ConfigError(f"DATASETS.{key} must be at least 1, or -1 for once; got {copies}")
    return copies


def _copy_key(name: str, cfg: CfgNode) -> str:
    """The setting under DATASETS that says how often a training set is repeated."""
    fiber_key = _FIBER_COPY_KEYS.get(name)
    if fiber_key is None:
        return _COPY_KEYS.get(name, "GENERAL_COPY")
    follows_general = cfg.DATASETS[fiber_key] == 1 and cfg.DATASETS.GENERAL_COPY != -1
    return "GENERAL_COPY" if follows_general else fiber_key


def _suffix(cfg: CfgNode, is_train: bool) -> str:
    datasets = cfg.DATASETS
    return datasets.TRAIN_DATASETNAME_SUFFIX if is_train else datasets.TEST_DATASETNAME_SUFFIX


def _flatten(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names]
    return [name for group in names for name in _flatten(group)]


def _catalogue_file(path: str) -> Mapping[str, Mapping[str, Any]]:
    """Entries of a catalogue file; a file that is gone (a saved config.yml) is the packaged one."""
    if Path(path).resolve() == _PACKAGED:
        return DatasetCatalog.DATASETS
    if not Path(path).is_file():
        logger.warning("PATHS_CATALOG %s does not exist, using the packaged catalogue", path)
        return DatasetCatalog.DATASETS
    spec = importlib.util.spec_from_file_location("paths_catalog_of_user", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"PATHS_CATALOG {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    entries = getattr(getattr(module, "DatasetCatalog", None), "DATASETS", None)
    if not isinstance(entries, Mapping):
        raise ConfigError(f"PATHS_CATALOG {path} must define DatasetCatalog.DATASETS")
    return entries
