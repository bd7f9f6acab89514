"""TEST: how a model is evaluated."""

from maskrcnn_benchmark.config.node import CfgNode


def test() -> CfgNode:
    """Settings of evaluation, after training and during it."""
    node = CfgNode()
    node.IMS_PER_BATCH = 16  # images per step over all processes
    node.DURING_TRAINING = False  # evaluate at every checkpoint period
    node.EVAL_TASK = ""  # "detection" or "" (class names), "grounding" (captions)
    node.SUBSET = -1  # stop after so many batches; -1: all
    node.CHUNKED_EVALUATION = -1  # classes per caption; -1: as many as fit
    # Score columns; -1: as many as there are classes. LVIS 3000, Flickr30k 100.
    node.MDETR_STYLE_AGGREGATE_CLASS_NUM = -1
    node.PRECISION = "float32"  # added here; or "bfloat16", "float16"
    # Added here: pairs of image and caption in the head at a time; 0: one on a CPU, else eight.
    node.CHUNKS_PER_FORWARD = 0
    # Added here: mode of torch.compile, e.g. "default", "reduce-overhead" (CUDA graphs); "": off.
    node.COMPILE = ""

    # Added here: count the box whose annotation has id 0, which pycocotools never finds.
    node.RENUMBER_ANNOTATIONS = False

    node.EXPECTED_RESULTS = []  # [(task, metric, mean, standard deviation), ...] to check
    node.EXPECTED_RESULTS_SIGMA_TOL = 4  # deviations allowed

    # Each image at several sizes and mirrored, detections merged.
    node.USE_MULTISCALE = False
    node.SCALES = (400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800)
    # Sizes of the boxes that are kept at each of them.
    node.RANGES = (
        (96, 10000),
        (96, 10000),
        (64, 10000),
        (64, 10000),
        (64, 10000),
        (0, 10000),
        (0, 10000),
        (0, 256),
        (0, 256),
        (0, 192),
        (0, 192),
        (0, 96),
    )
    node.MAX_SIZE = 2500
    node.FLIP = True
    node.SPECIAL_NMS = "none"  # "soft-nms", "vote", "soft-vote"
    node.TH = 0.6  # overlap
    node.PRE_NMS_TOP_N = 1000
    node.NUM_CLASSES = 81  # without effect: all labels that were found are merged
    node.SELECT_CLASSES = ()  # only these labels; empty: all
    return node
