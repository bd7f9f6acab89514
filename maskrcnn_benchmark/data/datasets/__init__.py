"""Datasets by the format of their files."""

from maskrcnn_benchmark.data.datasets.caption_dataset import (
    CaptionDataset,
    CaptionTSV,
    PseudoData,
)
from maskrcnn_benchmark.data.datasets.coco import COCODataset
from maskrcnn_benchmark.data.datasets.coco_grounding import CocoGrounding, CocoSampledGrounding
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, CopiedDataset
from maskrcnn_benchmark.data.datasets.lvis import LvisDetection
from maskrcnn_benchmark.data.datasets.od_tsv import CocoDetectionTSV, ODTSVDataset
from maskrcnn_benchmark.data.datasets.phrase_grounding import (
    FlickrDataset,
    GQADataset,
    MixedDataset,
    ModulatedDataset,
    PhrasecutDetection,
    RefExpDataset,
)
from maskrcnn_benchmark.data.datasets.voc import PascalVOCDataset
