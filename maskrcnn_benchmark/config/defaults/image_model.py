"""MODEL.BACKBONE and its bodies: from the image to a feature pyramid."""

from maskrcnn_benchmark.config.node import CfgNode


def backbone() -> CfgNode:
    """Body and pyramid by name, and what of them is trained."""
    node = CfgNode()
    node.CONV_BODY = "R-50-C4"  # registry name; published files: "SWINT-FPN-RETINANET"
    node.OUT_CHANNELS = 1024  # width of the pyramid; published 256

    # Stages handed to the pyramid, "stage2" being the stride of 4. The pyramid of
    # "...-FPN-RETINANET" is built on the last three.
    node.OUT_FEATURES = ("stage2", "stage3", "stage4", "stage5")

    # The first N stages stay as they were loaded; -1 trains all. GLIP-L keeps the default.
    node.FREEZE_CONV_BODY_AT = 2
    node.FREEZE = False  # the whole body stays as it was loaded
    node.USE_CHECKPOINT = False  # recompute Swin blocks in the backward pass to save memory
    node.FUSION_VERSION = "v1"  # FIBER: layout of the fusion with the text, "v2" or "v3"

    # Normalisation in ResNet bodies; frozen batch statistics unless one of these is set.
    node.USE_BN = False  # also lets DistributedDataParallel share buffers
    node.USE_SYNCBN = False
    node.USE_NSYNCBN = False
    # Blocks of every stage that are normalised so; the others keep frozen batch statistics.
    node.NORM_LEVEL = 3  # 1: the first, 2: the first and the last, 3: all
    node.RESET_BN = False  # forget the loaded running statistics before training

    # Without effect.
    node.LAYER_SETUP = (3, 4, 6, 3)
    node.GROUP = 1
    node.USE_GN = False
    node.USE_EN = False
    node.USE_DFCONV = False
    node.USE_DYRELU = False
    node.USE_SE = False
    node.FPN_LAYER = ()
    node.LAYER_SEARCH = CfgNode(new_allowed=True)
    node.EFFICIENT_DET_START_FROM = 3
    node.EFFICIENT_DET_COMPOUND = 0
    node.EFFICIENT_DET_BIFPN_VERSION = 0
    return node


def swin() -> CfgNode:
    """Swin Transformer; the defaults are Swin-T."""
    node = CfgNode()
    node.VERSION = "v1"  # "fusion": blocks that attend to the text (FIBER)
    node.EMBED_DIM = 96  # 96 tiny, 128 base, 192 large
    node.DEPTHS = (2, 2, 6, 2)  # blocks per stage
    node.NUM_HEADS = (3, 6, 12, 24)  # attention heads per stage
    node.OUT_CHANNELS = (96, 192, 384, 768)  # width per stage: EMBED_DIM * 2**stage
    node.WINDOW_SIZE = 7  # side of an attention window; 12 base and large
    node.MLP_RATIO = 4  # hidden width of the MLP relative to the block's
    node.DROP_PATH_RATE = 0.2  # stochastic depth of the last block; 0.4 base and large
    node.APE = False  # add absolute position embeddings

    # Of Swin v2, which is not built: refused unless left as they are.
    node.OUT_NORM = True
    node.LAYER_SCALE = 0
    return node


def resnet() -> CfgNode:
    """ResNet; the defaults are the Caffe2 layout of ResNet-50 and 101."""
    node = CfgNode()
    node.STEM_FUNC = "StemWithFixedBatchNorm"
    node.TRANS_FUNC = "BottleneckWithFixedBatchNorm"
    node.STEM_OUT_CHANNELS = 64
    node.RES2_OUT_CHANNELS = 256
    node.NUM_GROUPS = 1  # above 1: ResNeXt
    node.WIDTH_PER_GROUP = 64
    node.STRIDE_IN_1X1 = True  # the stride sits in the first 1x1 convolution, not in the 3x3
    node.RES5_DILATION = 1
    node.USE_STEM3X3 = False  # two 3x3 convolutions of stride 2 instead of one 7x7 and pooling
    node.USE_AVG_DOWN = False  # average pooling in the shortcut
    node.WITH_SE = False  # squeeze-and-excitation
    node.STAGE_WITH_DCN = (False, False, False, False)  # deformable convolution per stage
    node.WITH_MODULATED_DCN = False
    node.DEFORMABLE_GROUPS = 1

    # Without effect.
    node.BACKBONE_OUT_CHANNELS = 1024
    node.REVISION = "resnet_light"
    return node


def fpn() -> CfgNode:
    """Feature pyramid."""
    node = CfgNode()
    node.FREEZE = False
    node.USE_GN = False  # group normalisation after its convolutions
    node.USE_RELU = False  # ReLU after its convolutions
    node.USE_SPP = False  # spatial pyramid pooling on the top level
    node.USE_PAN = False  # a second, bottom-up pass

    # DropBlock on the pyramid while training: on in every published recipe.
    node.DROP_BLOCK = True
    node.DROP_PROB = 0.3
    node.DROP_SIZE = 3

    # Refused when True.
    node.USE_DYHEAD = False
    node.RETURN_SWINT_FEATURE_BEFORE_FUSION = False

    node.USE_DYRELU = False  # without effect
    return node


def group_norm() -> CfgNode:
    """Group normalisation wherever a USE_GN asks for it."""
    node = CfgNode()
    node.DIM_PER_GP = -1  # channels per group; -1: NUM_GROUPS groups
    node.NUM_GROUPS = 16
    node.EPSILON = 1e-5
    return node
