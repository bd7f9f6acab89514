"""Files to batches."""

from maskrcnn_benchmark.data.build import make_data_loader
from maskrcnn_benchmark.data.collate import Batch, BatchCollator
