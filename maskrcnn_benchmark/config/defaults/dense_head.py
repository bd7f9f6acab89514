"""MODEL.DYHEAD, RPN, ATSS, FOCAL and RETINANET: the head in which image and text meet."""

from maskrcnn_benchmark.config.node import CfgNode


def dyhead() -> CfgNode:
    """The tower of the dense head."""
    node = CfgNode()
    node.NUM_CONVS = 4  # layers; 6 in GLIP-T, 8 in GLIP-L
    node.CHANNELS = 128  # width; published 256
    node.USE_GN = False  # group normalisation
    node.USE_SYNCBN = False
    node.USE_NSYNCBN = False
    node.USE_DFCONV = False  # deformable convolutions (spatial attention)
    node.USE_DYFUSE = False  # attention over the levels of the pyramid
    node.USE_DYRELU = False  # activation that depends on the channel means
    node.USE_CHECKPOINT = False  # recompute the plain fusion in the backward pass

    # Classes including the background. It sizes a convolution that is kept for the published
    # checkpoints (81) and, minus one, the score columns at test where nothing else gives them.
    node.NUM_CLASSES = 81
    node.PRIOR_PROB = 0.01  # probability that a fresh classifier gives
    node.SCORE_AGG = "MEAN"  # from token scores to a class score: MEAN, MAX or ONEHOT
    node.LOG_SCALE = 0.0  # initial log temperature of the region-word dot product
    node.SHALLOW_LOG_SCALE = 0.0  # the same for the shallow contrastive loss
    # Added: the convolutions of a level with itself start as the identity instead of small random
    # numbers, so that what a pretrained pyramid knows passes through a new tower.
    node.IDENTITY_INIT = False
    node.COSINE_SCALE = -1.0  # without effect

    node.CONV_FUNC = ""  # refused unless empty

    # Without effect; the candidates of the assignment are ATSS.TOPK.
    node.GROUPS = 1
    node.TOPK = 9
    return node


def fusion() -> CfgNode:
    """Fusion of both streams, and the losses that need text."""
    node = CfgNode()
    node.EARLY_FUSE_ON = False  # both streams attend to each other before every tower layer
    node.TYPE = ""  # "MHA-B" (both ways), "MHA-S" (image from text only)
    node.JOINT_EMB_SIZE = 256
    node.JOINT_EMB_DROPOUT = 0.1
    node.USE_LAYER_SCALE = True  # learned scale on what the fusion adds
    # Added: where that scale starts; 0: at 1 / DYHEAD.NUM_CONVS, as published.
    node.INITIAL_SCALE = 0.0
    node.SEPARATE_BIDIRECTIONAL = False  # every level meets the text on its own
    node.DO_LANG_PROJ_OUTSIDE_CHECKPOINT = False
    # Added: how "MHA-B" is computed, "folded" (fast) or "plain" (the reference); equal but for
    # rounding.
    node.IMPLEMENTATION = "folded"
    node.STABLE_SOFTMAX_2D = False  # subtract the largest attention logit first
    node.CLAMP_MIN_FOR_UNDERFLOW = False  # attention logits at least -50,000
    node.CLAMP_MAX_FOR_OVERFLOW = False  # attention logits at most 50,000
    node.CLAMP_BERTATTN_MIN_FOR_UNDERFLOW = False  # the same in the text layers of the tower
    node.CLAMP_BERTATTN_MAX_FOR_OVERFLOW = False
    node.CLAMP_DOT_PRODUCT = False  # the same for the region-word logits

    # Prompt tuning: a learned linear layer on the text features.
    node.ADD_LINEAR_LAYER = False

    # Region-word alignment, the loss of the published models.
    node.USE_DOT_PRODUCT_TOKEN_LOSS = False
    node.DOT_PRODUCT_TOKEN_LOSS_WEIGHT = 1.0
    # Align with the text as the fusion left it; False: as the text encoder gave it.
    node.USE_FUSED_FEATURES_DOT_PRODUCT = False
    node.TOKEN_GAMMA = 2.0  # focal loss over tokens
    node.TOKEN_ALPHA = 0.25

    # Alternatives and additions to it.
    node.USE_CLASSIFICATION_LOSS = False
    node.USE_TOKEN_LOSS = False
    node.TOKEN_LOSS_WEIGHT = 1.0
    node.USE_CONTRASTIVE_ALIGN_LOSS = False
    node.CONTRASTIVE_HIDDEN_DIM = 64
    node.CONTRASTIVE_ALIGN_LOSS_WEIGHT = 1.0

    # Masked language modelling.
    node.MLM_LOSS = False
    node.MLM_LOSS_COEF = 1.0
    node.MLM_LOSS_FOR_ONLY_POSITIVES = True  # mask only words that boxes belong to
    node.MLM_OBJ_FOR_ONLY_POSITIVE = False  # of packed captions, only the one of the image
    node.NO_MASK_FOR_OD = False  # never mask captions made of class names
    node.NO_MASK_FOR_GOLD = False  # never mask captions of Flickr30k and mixed data

    # Contrastive loss on features before the tower.
    node.USE_SHALLOW_CONTRASTIVE_LOSS = False
    node.USE_BACKBONE_SHALLOW_CONTRASTIVE_LOSS = False
    node.SHALLOW_CONTRASTIVE_HIDDEN_DIM = 64
    node.SHALLOW_CONTRASTIVE_LOSS_WEIGHT = 1.0
    node.SHALLOW_MAX_POSITIVE_ANCHORS = 100
    node.USE_SHALLOW_ZERO_PADS = False

    # Without effect.
    node.JOINT_OUT_SIZE = 256
    node.JOINT_MLP_LAYERS = 2
    return node


def rpn() -> CfgNode:
    """Anchors, and what of the head is trained."""
    node = CfgNode()
    node.ANCHOR_SIZES = (32, 64, 128, 256, 512)  # published (64, 128, 256, 512, 1024)
    node.ANCHOR_STRIDE = (16,)  # published (8, 16, 32, 64, 128)
    node.ASPECT_RATIOS = (0.5, 1.0, 2.0)  # published (1.0,)
    node.SCALES_PER_OCTAVE = 3  # published 1
    node.OCTAVE = 2.0
    node.FREEZE = False

    # Without effect: every level has an anchor size of its own, and anchors may leave the image.
    node.USE_FPN = False
    node.ANCHOR_SHIFT = (0.0, 0.0, 0.0, 0.0)
    node.USE_RELATIVE_SIZE = False
    node.STRADDLE_THRESH = 0

    # Proposals for heads on regions, which are not built.
    node.FORCE_BOXES = False  # refused when True

    # Without effect (for the same).
    node.RETURN_FUSED_FEATURES = False
    node.FG_IOU_THRESHOLD = 0.7
    node.BG_IOU_THRESHOLD = 0.3
    node.BATCH_SIZE_PER_IMAGE = 256
    node.POSITIVE_FRACTION = 0.5
    node.PRE_NMS_TOP_N_TRAIN = 12000
    node.PRE_NMS_TOP_N_TEST = 6000
    node.POST_NMS_TOP_N_TRAIN = 2000
    node.POST_NMS_TOP_N_TEST = 1000
    node.NMS_THRESH = 0.7
    node.MIN_SIZE = 0
    node.FPN_POST_NMS_TOP_N_TRAIN = 2000
    node.FPN_POST_NMS_TOP_N_TEST = 2000
    node.RPN_HEAD = "SingleConvRPNHead"
    return node


def atss() -> CfgNode:
    """Assignment of boxes to anchors, box loss and post-processing."""
    node = CfgNode()
    node.TOPK = 9  # candidate anchors per level and box
    node.REG_LOSS_WEIGHT = 2.0
    node.INFERENCE_TH = 0.05  # scores below are dropped before suppression
    node.PRE_NMS_TOP_N = 1000  # candidates per level before suppression
    node.NMS_TH = 0.6  # overlap above which the lower score is suppressed
    node.DETECTIONS_PER_IMG = 100  # kept in the end; LVIS 300

    # Without effect (proposals for a second stage, which is not built).
    node.INFERENCE_TH_TRAIN = 0.0
    node.PRE_NMS_TOP_N_TRAIN = 3000
    node.POST_NMS_TOP_N_TRAIN = 1000

    # Without effect (a head without text, which is not built).
    node.NUM_CLASSES = 81
    node.PRIOR_PROB = 0.01
    node.NUM_CONVS = 4
    node.CHANNELS = 128
    node.USE_DFCONV = False
    node.USE_GN = False
    node.USE_BN = False
    node.USE_DYRELU = False
    node.USE_SE = False
    return node


def focal() -> CfgNode:
    """Focal loss of the classification branch."""
    node = CfgNode()
    node.LOSS_ALPHA = 0.25
    node.LOSS_GAMMA = 2.0

    # Without effect.
    node.BBOX_REG_WEIGHT = 4.0
    node.BBOX_REG_BETA = 0.11
    node.FG_IOU_THRESHOLD = 0.5
    node.BG_IOU_THRESHOLD = 0.4
    return node


def retinanet() -> CfgNode:
    """MODEL.RETINANET; the head itself is not built."""
    node = CfgNode()
    # Lowest score that "soft-vote" of TEST.SPECIAL_NMS leaves; it is read nowhere else.
    node.INFERENCE_TH = 0.05

    # Without effect; DETECTIONS_PER_IMG is named by the LVIS command.
    node.DETECTIONS_PER_IMG = 100
    node.NUM_CLASSES = 81
    node.NUM_CONVS = 4
    node.PRE_NMS_TOP_N = 1000
    node.PRIOR_PROB = 0.01
    node.NMS_TH = 0.4
    return node
