"""Every setting with its default, one file per topic.

The names and defaults of GLIP and FIBER are kept, so that published files and commands load
unchanged; docs/config.md lists what was added.
"""

from pathlib import Path

from maskrcnn_benchmark.config.defaults import (
    data,
    dense_head,
    evaluation,
    image_model,
    language_model,
    model,
    solver,
    unused,
)
from maskrcnn_benchmark.config.node import CfgNode

PACKAGED_CATALOG = str(Path(__file__).resolve().parent.parent / "paths_catalog.py")


def default_config() -> CfgNode:
    """A new tree of all settings at their defaults."""
    root = CfgNode()
    root.MODEL = _model()
    root.INPUT = data.input_pixels()
    root.AUGMENT = data.augment()
    root.DATASETS = data.datasets()
    root.DATALOADER = data.dataloader()
    root.SOLVER = solver.solver()
    root.SOLVER.CLIP_GRADIENTS = solver.clip_gradients()
    root.TEST = evaluation.test()
    root.GLIPKNOW = language_model.knowledge()
    root.SEARCH = unused.search()

    root.OUTPUT_DIR = "OUTPUT"  # logs, checkpoints, results
    root.TENSORBOARD_EXP = "OUTPUT"  # without effect
    root.PATHS_CATALOG = PACKAGED_CATALOG  # Python file whose DatasetCatalog lists the data

    # Set by the tools when they start; not meant for files.
    root.local_rank = 0
    root.num_gpus = 1
    return root


def _model() -> CfgNode:
    node = model.model()
    node.BACKBONE = image_model.backbone()
    node.SWINT = image_model.swin()
    node.RESNETS = image_model.resnet()
    node.FPN = image_model.fpn()
    node.GROUP_NORM = image_model.group_norm()
    node.LANGUAGE_BACKBONE = language_model.language_backbone()
    node.CLIP = language_model.clip()
    node.DYHEAD = dense_head.dyhead()
    node.DYHEAD.FUSE_CONFIG = dense_head.fusion()
    node.RPN = dense_head.rpn()
    node.ATSS = dense_head.atss()
    node.FOCAL = dense_head.focal()
    node.RETINANET = dense_head.retinanet()
    node.FCOS = unused.fcos()
    node.BIFPN = unused.bifpn()
    node.EVO_NORM = unused.evo_norm()
    node.ROI_HEADS = unused.roi_heads()
    node.ROI_BOX_HEAD = unused.roi_box_head()
    node.ROI_MASK_HEAD = unused.roi_mask_head()
    node.ROI_KEYPOINT_HEAD = unused.roi_keypoint_head()
    node.DYDETR = unused.dydetr()
    return node
