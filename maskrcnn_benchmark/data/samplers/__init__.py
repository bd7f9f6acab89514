"""Order of the samples: resumable in training, every sample once in evaluation."""

from maskrcnn_benchmark.data.samplers.aspect_ratio import aspect_groups, full_batches, group_batches
from maskrcnn_benchmark.data.samplers.evaluation import EvaluationBatchSampler
from maskrcnn_benchmark.data.samplers.training import TrainingBatchSampler
