"""One container into another, and what is wrong with a set."""

from maskrcnn_benchmark.data.conversion.build_indices import build_indices
from maskrcnn_benchmark.data.conversion.check import SetReport, check_set
from maskrcnn_benchmark.data.conversion.convert import Converted, convert_set
from maskrcnn_benchmark.data.conversion.open_set import OpenedSet, open_set
