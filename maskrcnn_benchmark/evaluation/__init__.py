"""From detections to numbers: COCO, LVIS, Flickr30k, referring expressions, VOC, proposals."""

from maskrcnn_benchmark.evaluation.base import DatasetEvaluator, EvaluationError
from maskrcnn_benchmark.evaluation.build import build_evaluator, evaluate
from maskrcnn_benchmark.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.evaluation.expected_results import check_expected_results
from maskrcnn_benchmark.evaluation.flickr import CaptionItem, FlickrEvaluator
from maskrcnn_benchmark.evaluation.ground_truth import AnnotationError
from maskrcnn_benchmark.evaluation.lvis import LvisEvaluator
from maskrcnn_benchmark.evaluation.prediction_store import (
    PredictionStore,
    file_identity,
    fingerprint,
)
from maskrcnn_benchmark.evaluation.proposals import ProposalEvaluator
from maskrcnn_benchmark.evaluation.refexp import Expression, RefExpEvaluator
from maskrcnn_benchmark.evaluation.tables import task_table
from maskrcnn_benchmark.evaluation.voc import VocEvaluator
