"""Names of datasets and models, and where their files lie below a data root.

DATASETS.REGISTER adds datasets by configuration; PATHS_CATALOG may name another file like this
one, of which `DatasetCatalog.DATASETS` is read. DATA.md describes the files themselves.
"""

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar

from maskrcnn_benchmark.config.dataset_types import dataset_arguments, dataset_class
from maskrcnn_benchmark.config.file_search import try_to_find
from maskrcnn_benchmark.errors import ConfigError

__all__ = ["DatasetCatalog", "ModelCatalog", "try_to_find"]

_MDETR = "mdetr_annotations"
# GLIP and FIBER name different folders for the same COCO 2014 images: the first there is taken.
_COCO_2014 = ("coco/train2014", "refcoco/train2014")
_REFCOCO = ("refcoco/train2014", "coco/train2014")


def _coco(images: str, annotations: str, type: str = "COCODataset") -> dict[str, Any]:
    return {"type": type, "img_dir": images, "ann_file": annotations}


def _mixed(annotations: str) -> dict[str, Any]:
    return {
        "type": "MixedDataset",
        "coco_img_dir": _COCO_2014,
        "vg_img_dir": "gqa/images",
        "ann_file": f"{_MDETR}/{annotations}",
    }


def _flickr(split: str) -> dict[str, Any]:
    return {
        "type": "FlickrDataset",
        # The download is one folder without splits; it serves as well.
        "img_folder": (f"flickr30k/flickr30k_images/{split}", "flickr30k/flickr30k_images"),
        "ann_file": f"{_MDETR}/final_flickr_separateGT_{split}.json",
        "is_train": split == "train",
    }


def _phrases(images: Any, annotations: str, type: str) -> dict[str, Any]:
    return {"type": type, "img_dir": images, "ann_file": f"{_MDETR}/{annotations}"}


def _refcoco(split: str) -> dict[str, Any]:
    return _phrases(_REFCOCO, f"finetune_{split}.json", "RefExpDataset")


def _tsv(dataset_file: str, path: str, type: str = "CocoDetectionTSV") -> dict[str, Any]:
    return {"type": type, "dataset_file": dataset_file, "yaml_path": path}


class DatasetCatalog:
    """Datasets by name."""

    DATASETS: ClassVar[dict[str, dict[str, Any]]] = {
        # COCO
        "coco_2017_train": _coco("coco/train2017", "coco/annotations/instances_train2017.json"),
        "coco_2017_val": _coco("coco/val2017", "coco/annotations/instances_val2017.json"),
        "coco_2017_test": _coco("coco/test2017", "coco/annotations/image_info_test-dev2017.json"),
        "coco_2014_train": _coco("coco/train2014", "coco/annotations/instances_train2014.json"),
        "coco_2014_val": _coco("coco/val2014", "coco/annotations/instances_val2014.json"),
        "coco_2014_minival": _coco("coco/val2014", "coco/annotations/instances_minival2014.json"),
        "coco_grounding_train": _coco(
            "coco/train2017", "coco/annotations/instances_train2017.json", "CocoGrounding"
        ),
        "coco_dt_train": _tsv("coco_dt", "coco_tsv/coco_obj.yaml"),
        "COCO_odinw_train_8copy_dt_train": _tsv(
            "coco_odinw_dt", "coco_tsv/COCO_odinw_train_8copy.yaml"
        ),
        "COCO_odinw_val_dt_train": _tsv("coco_odinw_dt", "coco_tsv/COCO_odinw_val.yaml"),
        # LVIS
        "lvis_train": _coco("coco", "coco/annotations/lvis_od_train.json"),
        "lvis_val": _coco("coco", "coco/annotations/lvis_od_val.json"),
        "lvis_grounding_train": _coco(
            "coco", "coco/annotations/lvis_od_train.json", "CocoGrounding"
        ),
        "lvis_evaluation_val": _coco(
            "lvis/coco2017", "lvis/lvis_v1_minival_inserted_image_name.json", "LvisDetection"
        ),
        "lvisv1_dt_train": _tsv("lvisv1_dt", "coco_tsv/LVIS_v1_train.yaml"),
        "LVIS_odinw_train_8copy_dt_train": _tsv(
            "coco_odinw_dt", "coco_tsv/LVIS_odinw_train_8copy.yaml"
        ),
        # Objects365
        "object365_train": _coco("object365/train", "object365/objects365_train.json"),
        "object365_val": _coco("object365/val", "object365/objects365_val.json"),
        # The same as captions of sampled classes: what the TSV set below is, from the JSON file.
        "object365_grounding_train": {
            "type": "CocoSampledGrounding",
            "img_dir": "object365/train",
            "ann_file": (
                "object365/objects365_train.json",
                "object365/annotations/objects365_train.json",
            ),
        },
        "object365_dt_train": _tsv(
            "object365_dt", "Objects365/objects365_train_vgoiv6.cas2000.yaml"
        ),
        "object365_odinw_2copy_dt_train": _tsv(
            "object365_odinw_dt", "Objects365/objects365_train_odinw.cas2000_2copy.yaml"
        ),
        "objects365_odtsv_train": _tsv(
            "objects365_odtsv", "Objects365/train.cas2000.yaml", "ODTSVDataset"
        ),
        "objects365_odtsv_val": _tsv("objects365_odtsv", "Objects365/val.yaml", "ODTSVDataset"),
        # ImageNet, Open Images, Visual Genome
        "image200_train": _coco("imagenet-od/Data/DET/train", "imagenet-od/im200_train.json"),
        "image200_val": _coco("imagenet-od/Data/DET/val", "imagenet-od/im200_val.json"),
        "imagenetod_train_odinw_2copy_dt": _tsv(
            "imagenetod_odinw_dt", "imagenet_od/imagenetod_train_odinw_2copy.yaml"
        ),
        "open500_train": _coco(
            "openimages/train", "openimages/openimages_challenge_2019_train_bbox.json"
        ),
        "open500_val": _coco(
            "openimages/val", "openimages/openimages_challenge_2019_val_bbox.json"
        ),
        "oi_train_odinw_dt": _tsv("oi_odinw_dt", "openimages_v5c/oi_train_odinw.cas.2000.yaml"),
        "vg_dt_train": _tsv("vg_dt", "visualgenome/train_vgoi6_clipped.yaml"),
        "vg_odinw_clipped_8copy_dt_train": _tsv(
            "vg_odinw_clipped_8copy_dt", "visualgenome/train_odinw_clipped_8copy.yaml"
        ),
        "vg_vgoi6_clipped_8copy_dt_train": _tsv(
            "vg_vgoi6_clipped_8copy_dt", "visualgenome/train_vgoi6_clipped_8copy.yaml"
        ),
        # Phrases with boxes
        "mixed_train": _mixed("final_mixed_train.json"),
        "mixed_train_no_coco": _mixed("final_mixed_train_no_coco.json"),
        "flickr30k_train": _flickr("train"),
        "flickr30k_val": _flickr("val"),
        "flickr30k_test": _flickr("test"),
        "gqa_val": _phrases("gqa/images", "final_gqa_val.json", "GQADataset"),
        "phrasecut_train": _phrases(
            "gqa/images", "finetune_phrasecut_train.json", "PhrasecutDetection"
        ),
        # Referring expressions
        "refexp_all_val": _phrases(_REFCOCO, "final_refexp_val.json", "RefExpDataset"),
        "refcoco_train": _refcoco("refcoco_train"),
        "refcoco_val": _refcoco("refcoco_val"),
        "refcoco_real_val": _refcoco("refcoco_val"),
        "refcoco_testA": _refcoco("refcoco_testA"),
        "refcoco_testB": _refcoco("refcoco_testB"),
        "refcoco+_train": _refcoco("refcoco+_train"),
        "refcoco+_val": _refcoco("refcoco+_val"),
        "refcoco+_testA": _refcoco("refcoco+_testA"),
        "refcoco+_testB": _refcoco("refcoco+_testB"),
        "refcocog_train": _refcoco("refcocog_train"),
        "refcocog_val": _refcoco("refcocog_val"),
        "refcocog_test": _refcoco("refcocog_test_corrected"),
        # Captions with boxes found by a teacher, one dataset per shard
        "bing_caption_train": {
            "type": "CaptionTSV",
            "yaml_path": "BingData/predict_yaml",
            "yaml_name": "dreamstime_com_dyhead_objvg_e39",
            "yaml_name_no_coco": "dreamstime_com_Detection_Pretrain_NoCOCO_Packed125",
        },
    }

    @classmethod
    def get(
        cls, name: str, datasets: Mapping[str, Mapping[str, Any]] | None = None
    ) -> dict[str, Any]:
        """How to build a dataset: {"factory": class name, "args": constructor arguments}.

        Args:
            name: full name, suffix included.
            datasets: entries by name (see `dataset_sources.catalogue_of`); the packaged ones if
                None.

        Raises:
            ConfigError: the name is unknown, or its entry is incomplete.
            FileNotFoundError: files of the dataset are not there.
        """
        datasets = cls.DATASETS if datasets is None else datasets
        # All shards of caption data share one entry; the name says which shard.
        shared = "bing_caption_train" if name.startswith("bing_caption_") else name
        entry = datasets.get(name, datasets.get(shared))
        if entry is None:
            raise ConfigError(_unknown_dataset(name, datasets))
        kind = dataset_class(name, entry)
        return {"factory": kind, "args": dataset_arguments(name, kind, entry)}


def _unknown_dataset(name: str, datasets: Mapping[str, Any]) -> str:
    message = f"unknown dataset {name!r}"
    shorter = next((known for known in datasets if name.startswith(f"{known}_")), None)
    if shorter:
        message += f"; {shorter} exists, but DATASETS.*_DATASETNAME_SUFFIX is for registered sets"
    close = difflib.get_close_matches(name, datasets, n=3, cutoff=0.6)
    if close:
        message += f"; nearest names: {', '.join(close)}"
    return f"{message}. Datasets of your own go into DATASETS.REGISTER."


class ModelCatalog:
    """Published weights by name, for MODEL.WEIGHT "catalog://<name>"."""

    _ROOT = "https://dl.fbaipublicfiles.com/detectron"
    MODELS: ClassVar[dict[str, str]] = {
        "ImageNetPretrained/MSRA/R-50": "ImageNetPretrained/MSRA/R-50.pkl",
        "ImageNetPretrained/MSRA/R-50-GN": "ImageNetPretrained/47261647/R-50-GN.pkl",
        "ImageNetPretrained/MSRA/R-101": "ImageNetPretrained/MSRA/R-101.pkl",
        "ImageNetPretrained/MSRA/R-101-GN": "ImageNetPretrained/47592356/R-101-GN.pkl",
        "ImageNetPretrained/FAIR/20171220/X-101-32x8d": (
            "ImageNetPretrained/20171220/X-101-32x8d.pkl"
        ),
        "ImageNetPretrained/FAIR/20171220/X-101-64x4d": (
            "ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl"
        ),
    }

    @classmethod
    def get(cls, name: str) -> str:
        """Address of a model's weights.

        Args:
            name: with or without `catalog://`.

        Raises:
            ConfigError: the name is unknown.
        """
        name = name.removeprefix("catalog://")
        if name not in cls.MODELS:
            raise ConfigError(
                f"unknown model catalog://{name}; known are {', '.join(sorted(cls.MODELS))}"
            )
        return f"{cls._ROOT}/{cls.MODELS[name]}"
