"""Datasets as the configuration asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.config.dataset_sources import DatasetSource
from maskrcnn_benchmark.data.datasets.background import Background
from maskrcnn_benchmark.data.datasets.base import ImageDataset
from maskrcnn_benchmark.data.datasets.caption_dataset import (
    CaptionDataset,
    CaptionOptions,
    CaptionTSV,
    PseudoData,
)
from maskrcnn_benchmark.data.datasets.caption_packing import CaptionPacking
from maskrcnn_benchmark.data.datasets.caption_record import BoxScreen
from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding, CocoSampledGrounding
from maskrcnn_benchmark.data.datasets.detection_captions import (
    AllClassesCaptioner,
    DetectionCaptioner,
    SampledClassesCaptioner,
)
from maskrcnn_benchmark.data.datasets.detection_records import CaptionedDetectionRecords
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.datasets.json_lines import JsonLinesSource
from maskrcnn_benchmark.data.datasets.label_map import read_label_map
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.od_tsv import CocoDetectionTSV, ODTSVDataset
from maskrcnn_benchmark.data.datasets.phrase_grounding import (
    FlickrDataset,
    GQADataset,
    MixedDataset,
    PhrasecutDetection,
    RefExpDataset,
)
from maskrcnn_benchmark.data.datasets.record_source import RecordSource
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset
from maskrcnn_benchmark.data.datasets.webdataset_shards import ShardSource
from maskrcnn_benchmark.data.fast_pictures import read_pixels
from maskrcnn_benchmark.data.transforms.build import picture_backend
from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import prompts_by_category
from maskrcnn_benchmark.grounding.od_to_grounding import (
    NegativeSampling,
    check_control_probabilities,
    without_background,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PHRASES = (FlickrDataset, RefExpDataset, GQADataset, PhrasecutDetection, MixedDataset)
_OTHERS = (
    *(COCODataset, CocoGrounding, CocoSampledGrounding, LvisDetection, PascalVOCDataset),
    *(Background, ODTSVDataset, CocoDetectionTSV, CaptionTSV, PseudoData),
)
_CLASSES: dict[str, type[ImageDataset]] = {
    **{cls.__name__: cls for cls in (*_PHRASES, *_OTHERS)},
    **dict.fromkeys(("CaptionShards", "CaptionJsonLines"), CaptionDataset),
    **dict.fromkeys(("DetectionShards", "DetectionJsonLines"), CaptionedDetectionRecords),
}


def has_captions(source: DatasetSource) -> bool:
    """Whether each sample of a dataset has a sentence; asked before its files are read."""
    return _CLASSES[source.factory].has_captions


class DatasetFactory:
    """Builds the datasets of one configuration.

    Args:
        transforms: handed to every dataset; None for raw images.
        tokenizer: the model's; needed by every dataset with captions.
        is_train: settings that concern training only are ignored in evaluation.
    """

    def __init__(
        self,
        cfg: CfgNode,
        transforms: Callable | None,
        tokenizer: PreTrainedTokenizerFast | None,
        *,
        is_train: bool,
    ):
        if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON:
            raise ConfigError("MODEL.MASK_ON and MODEL.KEYPOINT_ON: only boxes are supported")
        self.cfg = cfg
        self.transforms = transforms
        self.tokenizer = tokenizer
        self.is_train = is_train
        self._builders: dict[str, Callable[[DatasetSource], ImageDataset]] = {
            "COCODataset": self._coco,
            "CocoGrounding": self._coco_grounding,
            "CocoSampledGrounding": self._coco_grounding,
            "LvisDetection": self._lvis,
            "PascalVOCDataset": self._voc,
            "Background": self._background,
            "ODTSVDataset": self._od_tsv,
            "CocoDetectionTSV": self._detection_tsv,
            "CaptionTSV": self._captions,
            "PseudoData": self._captions,
            "CaptionShards": self._caption_records,
            "CaptionJsonLines": self._caption_records,
            "DetectionShards": self._detection_records,
            "DetectionJsonLines": self._detection_records,
            **{cls.__name__: self._phrases for cls in _PHRASES},
        }

    def build(self, source: DatasetSource) -> ImageDataset:
        """One dataset of DATASETS.TRAIN or DATASETS.TEST."""
        dataset = self._builders[source.factory](source)
        if self.transforms is not None and picture_backend(self.cfg) == "torchvision":
            dataset.read_picture = read_pixels
        return dataset

    @property
    def _skip_broken(self) -> bool:
        return self.is_train and self.cfg.DATASETS.SKIP_BROKEN_IMAGES

    @property
    def _max_tokens(self) -> int:
        return self.cfg.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN

    def _common(self, source: DatasetSource) -> dict[str, Any]:
        return {
            "transforms": self.transforms,
            "name": source.name,
            "skip_broken": self._skip_broken,
        }

    def _subset(self) -> dict[str, Any]:
        datasets = self.cfg.DATASETS
        override = datasets.OVERRIDE_CATEGORY if datasets.USE_OVERRIDE_CATEGORY else None
        return {
            "few_shot": datasets.FEW_SHOT if self.is_train else 0,
            "shuffle_seed": datasets.SHUFFLE_SEED,
            "override_category": override,
        }

    def _coco(self, source: DatasetSource) -> COCODataset:
        datasets = self.cfg.DATASETS
        dataset = COCODataset(
            **source.args,
            **self._common(source),
            **self._subset(),
            only_valid=self.is_train,
            use_crowd=self.is_train and datasets.USE_CROWD,
            max_box=max(datasets.MAX_BOX, 0) if self.is_train else 0,
            class_agnostic=datasets.CLASS_AGNOSTIC,
            sample_ratio=datasets.SAMPLE_RATIO,
        )
        if self.is_train:
            check_class_columns(self.cfg, source.name, dataset.category_table.names)
        return dataset

    def _coco_grounding(self, source: DatasetSource) -> CocoGrounding:
        sampled = source.factory == "CocoSampledGrounding"
        dataset = _CLASSES[source.factory](
            **source.args,
            **self._common(source),
            **self._subset(),
            **self._grounding(source, self._detection_captioner if sampled else self._captioner),
            one_hot_offset=self._one_hot_offset(),
            box_classes=self.cfg.DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING,
        )
        if self.is_train:
            check_class_columns(self.cfg, source.name, dataset.category_table.names)
        return dataset

    def _phrases(self, source: DatasetSource) -> ImageDataset:
        args = {"is_train": self.is_train, **source.args}
        return _CLASSES[source.factory](
            **args,
            **self._common(source),
            targets=self._targets(source),
            masking_allowed=not self.cfg.MODEL.DYHEAD.FUSE_CONFIG.NO_MASK_FOR_GOLD,
        )

    def _lvis(self, source: DatasetSource) -> LvisDetection:
        return LvisDetection(**source.args, transforms=self.transforms, name=source.name)

    def _voc(self, source: DatasetSource) -> PascalVOCDataset:
        return PascalVOCDataset(
            **source.args, **self._common(source), use_difficult=not self.is_train
        )

    def _background(self, source: DatasetSource) -> Background:
        return Background(**source.args, **self._common(source))

    def _od_tsv(self, source: DatasetSource) -> ODTSVDataset:
        dataset = ODTSVDataset(**{**source.args, **self._common(source)})
        if self.is_train:
            check_class_columns(self.cfg, source.name, dataset.categories())
        return dataset

    def _detection_tsv(self, source: DatasetSource) -> CocoDetectionTSV:
        return CocoDetectionTSV(
            **{**source.args, **self._common(source)},
            **self._grounding(source, self._detection_captioner),
        )

    def _detection_records(self, source: DatasetSource) -> CaptionedDetectionRecords:
        label_map = read_label_map(source.args["label_map"])
        if source.factory == "DetectionShards":
            records: RecordSource = ShardSource(source.args["shards"])
        else:
            records = JsonLinesSource(source.args["ann_file"], source.args["img_folder"], label_map)
        return CaptionedDetectionRecords(
            source=records,
            label_map=label_map,
            **self._common(source),
            **self._grounding(source, self._detection_captioner),
        )

    def _grounding(self, source: DatasetSource, captioner: Callable) -> dict[str, Any]:
        """What makes grounding data of detection data.

        Args:
            captioner: from the source and its class table to what writes the captions.
        """
        return {
            "make_captioner": partial(captioner, source),
            "targets": self._targets(source),
            "clip": not self.cfg.DATASETS.DISABLE_CLIP_TO_IMAGE,
            "masking_allowed": not self.cfg.MODEL.DYHEAD.FUSE_CONFIG.NO_MASK_FOR_OD,
        }

    def _caption_records(self, source: DatasetSource) -> CaptionDataset:
        if source.factory == "CaptionShards":
            records: RecordSource = ShardSource(source.args["shards"])
        else:
            records = JsonLinesSource(source.args["ann_file"], source.args["img_folder"])
        return CaptionDataset(
            source=records,
            **self._common(source),
            targets=self._targets(source),
            options=self._caption_options(packing=True),
        )

    def _captions(self, source: DatasetSource) -> CaptionTSV:
        packing = source.factory == "CaptionTSV"
        return _CLASSES[source.factory](
            **source.args,
            **self._common(source),
            targets=self._targets(source),
            options=self._caption_options(packing=packing),
            clean_labels=self.cfg.DATASETS.REPLACE_CLEAN_LABEL,
        )

    def _caption_options(self, *, packing: bool) -> CaptionOptions:
        datasets = self.cfg.DATASETS
        if datasets.DIVER_BOX_FOR_VQA:
            raise ConfigError("DATASETS.DIVER_BOX_FOR_VQA (question answering) is not supported")
        screen = BoxScreen(datasets.CAPTION_CONF, datasets.CAPTION_NMS)
        packer = CaptionPacking(
            datasets.PACK_RANDOM_CAPTION_NUMBER,
            datasets.NO_RANDOM_PACK_PROBABILITY,
            datasets.RANDOM_PACK_PROB,
            self._max_tokens if datasets.SAFEGUARD_POSITIVE_CAPTION else None,
        )
        return CaptionOptions(
            version=datasets.CAPTION_FORMAT_VERSION,
            min_boxes=datasets.CAPTION_MIN_BOX,
            screen=screen if datasets.FURTHER_SCREEN else None,
            packing=packer if packing and packer.most > 0 else None,
            probability_foreign=datasets.SAMPLE_NEGATIVE_FOR_GROUNDING_DATA,
            mask_own_caption_only=self.cfg.MODEL.DYHEAD.FUSE_CONFIG.MLM_OBJ_FOR_ONLY_POSITIVE,
            without_boxes=datasets.INFERENCE_CAPTION,
        )

    def _targets(self, source: DatasetSource) -> GroundingTargetBuilder:
        if self.tokenizer is None:
            raise ValueError(
                f"Dataset {source.name} ({source.factory}) has captions: building its loader needs "
                "the model's tokenizer"
            )
        return GroundingTargetBuilder(self.tokenizer, self._max_tokens, source.name)

    def _one_hot_offset(self) -> int | None:
        if not self.cfg.DATASETS.ONE_HOT:
            return None
        return 0 if self.cfg.DATASETS.NO_MINUS_ONE_FOR_ONE_HOT else -1

    def _captioner(self, source: DatasetSource, names: Mapping[int, str]) -> DetectionCaptioner:
        """All classes; with SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING sampled ones."""
        datasets = self.cfg.DATASETS
        if not datasets.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING:
            return self._all_classes(source, names)
        sampling = NegativeSampling(datasets.RANDOM_SAMPLE_NEG, (0.0, 0.0, 1.0))
        return self._sampled_classes(source, names, sampling, detection_prompt=False)

    def _detection_captioner(
        self, source: DatasetSource, names: Mapping[int, str]
    ) -> DetectionCaptioner:
        """Sampled classes, as data of many classes need it."""
        return self._sampled_classes(
            source,
            names,
            self._detection_sampling(),
            detection_prompt=self.cfg.DATASETS.ADD_DET_PROMPT,
        )

    def _all_classes(
        self, source: DatasetSource, names: Mapping[int, str], cure: str | None = None
    ) -> AllClassesCaptioner:
        datasets = self.cfg.DATASETS
        prompt = datasets.CAPTION_PROMPT if datasets.USE_CAPTION_PROMPT else None
        return AllClassesCaptioner(
            names,
            self.tokenizer,
            separation_tokens=datasets.SEPARATION_TOKENS,
            max_tokens=self._max_tokens,
            source=source.name,
            shuffle=not datasets.DISABLE_SHUFFLE,
            add_detection_prompt=datasets.ADD_DET_PROMPT,
            prompts=prompts_by_category(prompt, list(names)),
            cure=cure,
        )

    def _sampled_classes(
        self,
        source: DatasetSource,
        names: Mapping[int, str],
        sampling: NegativeSampling,
        *,
        detection_prompt: bool,
    ) -> DetectionCaptioner:
        """Sampled classes; with DISABLE_SHUFFLE all of them in order, if they fit."""
        datasets = self.cfg.DATASETS
        if datasets.USE_CAPTION_PROMPT and datasets.CAPTION_PROMPT is not None:
            raise ConfigError(
                f"Dataset {source.name}: DATASETS.CAPTION_PROMPT needs all classes in every "
                "caption and cannot be used with sampled classes"
            )
        if datasets.DISABLE_SHUFFLE:
            cure = "Set DATASETS.DISABLE_SHUFFLE False: it keeps classes from being sampled."
            return self._all_classes(source, without_background(names), cure)
        return SampledClassesCaptioner(
            names,
            self.tokenizer,
            sampling=sampling,
            separation_tokens=datasets.SEPARATION_TOKENS,
            max_tokens=self._max_tokens,
            add_detection_prompt=detection_prompt,
        )

    def _detection_sampling(self) -> NegativeSampling:
        datasets = self.cfg.DATASETS
        return NegativeSampling(
            datasets.RANDOM_SAMPLE_NEG,
            check_control_probabilities(datasets.CONTROL_PROB),
            self.cfg.TEST.MDETR_STYLE_AGGREGATE_CLASS_NUM,
        )


def check_class_columns(cfg: CfgNode, name: str, classes: Mapping[int, str]) -> None:
    """Refuse labels that the head has no column for, where labels index columns.

    Heads that score words need no such column: for them MODEL.DYHEAD.NUM_CLASSES is a hint only.

    Raises:
        ConfigError: naming the first class without a column.
    """
    columns = cfg.MODEL.DYHEAD.NUM_CLASSES - 1
    by_class = cfg.MODEL.DYHEAD.FUSE_CONFIG.USE_CLASSIFICATION_LOSS
    if not by_class or max(classes, default=0) <= columns:
        return
    label = min(label for label in classes if label > columns)
    raise ConfigError(
        f"Dataset {name} has {len(classes)} classes, but MODEL.DYHEAD.NUM_CLASSES is {columns + 1} "
        f"(it counts the background): class {label} ({classes[label]!r}) has no column. Set it to "
        f"{max(classes) + 1}."
    )
