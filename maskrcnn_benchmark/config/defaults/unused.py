"""Without effect: sections that published files or commands name and nothing here reads."""

from maskrcnn_benchmark.config.node import CfgNode


def fcos() -> CfgNode:
    """MODEL.FCOS; NUM_CLASSES is named by every task file."""
    node = CfgNode()
    node.NUM_CLASSES = 81
    node.DETECTIONS_PER_IMG = 100
    node.FPN_STRIDES = [8, 16, 32, 64, 128]
    node.PRIOR_PROB = 0.01
    node.INFERENCE_TH = 0.05
    node.NMS_TH = 0.6
    node.PRE_NMS_TOP_N = 1000
    node.NUM_CONVS = 4
    node.USE_DFCONV = False
    node.CENTER_SAMPLING_RADIUS = 0.0
    node.IOU_LOSS_TYPE = "iou"
    node.NORM_REG_TARGETS = False
    node.CENTERNESS_ON_REG = False
    node.USE_GT_CENTER = False
    node.USE_GN = False
    node.USE_BN = False
    node.INFERENCE_TH_TRAIN = 0.0
    node.PRE_NMS_TOP_N_TRAIN = 3000
    node.POST_NMS_TOP_N_TRAIN = 1000
    return node


def bifpn() -> CfgNode:
    """MODEL.BIFPN."""
    node = CfgNode()
    node.NUM_REPEATS = 1
    node.USE_ATTENTION = True
    return node


def evo_norm() -> CfgNode:
    """MODEL.EVO_NORM."""
    node = CfgNode()
    node.NUM_GROUPS = 8
    node.EPSILON = 1e-05
    return node


def roi_heads() -> CfgNode:
    """MODEL.ROI_HEADS; DETECTIONS_PER_IMG is named by the LVIS command."""
    node = CfgNode()
    node.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
    node.DETECTIONS_PER_IMG = 100
    node.USE_FPN = False
    node.FG_IOU_THRESHOLD = 0.5
    node.BG_IOU_THRESHOLD = 0.5
    node.BATCH_SIZE_PER_IMAGE = 512
    node.POSITIVE_FRACTION = 0.25
    node.SCORE_THRESH = 0.05
    node.NMS = 0.5
    return node


def roi_box_head() -> CfgNode:
    """MODEL.ROI_BOX_HEAD; NUM_CLASSES is named by every task file."""
    node = CfgNode()
    node.NUM_CLASSES = 81
    node.FEATURE_EXTRACTOR = "ResNet50Conv5ROIFeatureExtractor"
    node.PREDICTOR = "FastRCNNPredictor"
    node.POOLER_RESOLUTION = 14
    node.POOLER_SAMPLING_RATIO = 0
    node.POOLER_SCALES = (0.0625,)
    node.MLP_HEAD_DIM = 1024
    node.USE_GN = False
    node.DILATION = 1
    node.CONV_HEAD_DIM = 256
    node.NUM_STACKED_CONVS = 4
    node.POOLER_ALIGNED = False
    return node


def roi_mask_head() -> CfgNode:
    """MODEL.ROI_MASK_HEAD."""
    node = CfgNode()
    node.FEATURE_EXTRACTOR = "ResNet50Conv5ROIFeatureExtractor"
    node.PREDICTOR = "MaskRCNNC4Predictor"
    node.POOLER_RESOLUTION = 14
    node.POOLER_SAMPLING_RATIO = 0
    node.POOLER_SCALES = (0.0625,)
    node.MLP_HEAD_DIM = 1024
    node.CONV_LAYERS = (256, 256, 256, 256)
    node.RESOLUTION = 14
    node.SHARE_BOX_FEATURE_EXTRACTOR = True
    node.POSTPROCESS_MASKS = False
    node.POSTPROCESS_MASKS_THRESHOLD = 0.5
    node.DILATION = 1
    node.USE_GN = False
    node.HG_SCALE = 1
    return node


def roi_keypoint_head() -> CfgNode:
    """MODEL.ROI_KEYPOINT_HEAD."""
    node = CfgNode()
    node.KEYPOINT_NAME = ()
    node.FEATURE_EXTRACTOR = "KeypointRCNNFeatureExtractor"
    node.PREDICTOR = "KeypointRCNNPredictor"
    node.POOLER_RESOLUTION = 14
    node.POOLER_SAMPLING_RATIO = 0
    node.POOLER_SCALES = (0.0625,)
    node.MLP_HEAD_DIM = 1024
    node.CONV_LAYERS = (512, 512, 512, 512, 512, 512, 512, 512)
    node.RESOLUTION = 14
    node.NUM_CLASSES = 17
    node.SHARE_BOX_FEATURE_EXTRACTOR = True
    return node


def search() -> CfgNode:
    """SEARCH: evolution of backbones."""
    node = CfgNode()
    node.MAX_EPOCH = 20
    node.SELECT_NUM = 20
    node.POPULATION_NUM = 64
    node.MUTATION_NUM = 24
    node.CROSSOVER_NUM = 24
    node.MUTATION_PROB = 0.1
    return node


def dydetr() -> CfgNode:
    """MODEL.DYDETR."""
    node = CfgNode()
    node.NHEADS = 8
    node.DROPOUT = 0.0
    node.DIM_FEEDFORWARD = 2048
    node.ACTIVATION = "relu"
    node.HIDDEN_DIM = 256
    node.NUM_CLS = 1
    node.NUM_REG = 3
    node.NUM_HEADS = 6
    node.NUM_CLASSES = 81
    node.NUM_PROPOSALS = 300
    node.NUM_DYNAMIC = 2
    node.DIM_DYNAMIC = 64
    node.CLASS_WEIGHT = 2.0
    node.GIOU_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.DEEP_SUPERVISION = True
    node.NO_OBJECT_WEIGHT = 0.1
    node.USE_FOCAL = True
    node.ALPHA = 0.25
    node.GAMMA = 2.0
    node.PRIOR_PROB = 0.01
    node.APPEND_BOX = False
    node.INCLUDE_LANGUAGE_DECODER = False
    node.USE_DOT_PRODUCT_TOKEN_LOSS = False
    node.LOG_SCALE = 0.0
    node.RESET_PARAMETERS = True
    node.USE_GROUNDING_MATCHER_SETCRITERION = False
    node.MDETR_PLAIN_INFERENCE = False
    node.OVERRIDE_LANGUAGE_MODEL_FOR_TOKEN_LOSS = False
    node.NORMALIZE_PER_BOX = False
    node.RESET_SKIP_DOT_PRODUCT_WEIGHTS = False
    node.DEBUG = False
    node.AGGREGATE_METHOD = "MEAN"
    node.EARLY_FUSE_ON = False
    node.DYTOWER_ON = False
    node.USE_FUSED_LANGUAGE_FEATURES = True
    return node
