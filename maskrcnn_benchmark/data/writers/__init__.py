"""Sets of pictures with records, written in every container that the datasets read."""

from maskrcnn_benchmark.data.writers.coco_writer import CocoWriter
from maskrcnn_benchmark.data.writers.json_lines_writer import JsonLinesWriter
from maskrcnn_benchmark.data.writers.output_file import DatasetWriteError, OutputFile
from maskrcnn_benchmark.data.writers.sample import Sample, SampleWriter
from maskrcnn_benchmark.data.writers.shard_writer import ShardWriter
from maskrcnn_benchmark.data.writers.tsv_writer import TSVWriter
