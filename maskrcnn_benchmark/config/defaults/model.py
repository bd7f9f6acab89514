"""MODEL: which detector is built, and what it starts from."""

from maskrcnn_benchmark.config.node import CfgNode


def model() -> CfgNode:
    """Settings of MODEL itself; its sections are added by the package."""
    node = CfgNode()
    node.META_ARCHITECTURE = "GeneralizedRCNN"  # published files: "GeneralizedVLRCNN"
    node.RPN_ARCHITECTURE = "RPN"  # dense head; published files: "VLDYHEAD"
    node.RPN_ONLY = False  # must be True: no heads on regions (every published file)
    node.DEVICE = "cuda"  # torch device of the model and of the batches

    # Initial weights: a path (searched in ./, $DATASET, DATASET, OUTPUT, data and MODEL), an
    # http(s) address, or catalog://<name> of the model catalogue. Empty: random.
    node.WEIGHT = ""

    # Train only the last prediction layers; needs BACKBONE.FREEZE and FPN.FREEZE. Set by
    # SOLVER.TUNING_HIGHLEVEL_OVERRIDE.
    node.LINEAR_PROB = False

    # Heads that are not built: refused when True.
    node.MASK_ON = False
    node.KEYPOINT_ON = False

    # Without effect.
    node.BOX_ON = True
    node.DEBUG = False
    node.ONNX = False
    node.PRETRAIN_NAME = ""
    node.MULTITASK = CfgNode(new_allowed=True)
    node.SPEC = CfgNode(new_allowed=True)
    return node
