"""MODEL: which detector is built, and what it starts from."""

from maskrcnn_benchmark.config.node import CfgNode


def model() -> CfgNode:
    """Settings of MODEL itself; its sections are added by the package."""
    node = CfgNode()
    node.META_ARCHITECTURE = "GeneralizedRCNN"  # published files: "GeneralizedVLRCNN"
    node.RPN_ARCHITECTURE = "RPN"  # dense head; published files: "VLDYHEAD"
    node.RPN_ONLY = False  # True: one stage, no heads on regions (every published file)
    node.DEVICE = "cuda"  # torch device of the model and of the batches

    # Initial weights: a path (searched in ./, $DATASET, DATASET, OUTPUT, data and MODEL), an
    # http(s) address, or catalog://<name> of the model catalogue. Empty: random.
    node.WEIGHT = ""

    # Train only the last prediction layers; needs BACKBONE.FREEZE and FPN.FREEZE. Set by
    # SOLVER.TUNING_HIGHLEVEL_OVERRIDE.
    node.LINEAR_PROB = False

    node.MASK_ON = False  # datasets return polygons and "segm" is evaluated; no mask head is built

    # Without effect.
    node.BOX_ON = True
    node.KEYPOINT_ON = False
    node.DEBUG = False
    node.ONNX = False
    node.PRETRAIN_NAME = ""
    node.MULTITASK = CfgNode(new_allowed=True)
    node.SPEC = CfgNode(new_allowed=True)
    return node
