"""INPUT, AUGMENT, DATASETS and DATALOADER: from files to batches."""

from maskrcnn_benchmark.config.node import CfgNode


def input_pixels() -> CfgNode:
    """Size and colours of the images that the model sees."""
    node = CfgNode()
    node.MIN_SIZE_TRAIN = 800  # short side in training, unless AUGMENT.MULT_MIN_SIZE_TRAIN is set
    node.MAX_SIZE_TRAIN = 1333  # the long side never exceeds it
    node.MIN_SIZE_TEST = 800
    node.MAX_SIZE_TEST = 1333
    node.FIX_RES = False  # exactly (short, long) whatever the aspect ratio

    # Added here: what decodes and resizes pictures. "torchvision" is several times as fast as "pil";
    # one in a thousand resized values of a photograph then differs, by 1 of 255.
    node.IMAGE_BACKEND = "pil"

    # Channel order and range: empty with TO_BGR255 means "bgr255". "bgr" in the text swaps the
    # channels, "255" keeps values in 0..255.
    node.FORMAT = ""
    node.TO_BGR255 = True
    # In that order and range. Published: [103.53, 116.28, 123.675] and [57.375, 57.12, 58.395].
    node.PIXEL_MEAN = [102.9801, 115.9465, 122.7717]
    node.PIXEL_STD = [1.0, 1.0, 1.0]
    return node


def augment() -> CfgNode:
    """Changes of training images."""
    node = CfgNode()
    node.MULT_MIN_SIZE_TRAIN = ()  # short sides to draw from; published (480,560,640,720,800)
    node.FLIP_PROB_TRAIN = 0.5  # horizontal flip; captions that say left or right need 0.0

    # Without effect: augmentations that the published code names and never applies.
    node.USE_RA = 0
    node.VERTICAL_FLIP_PROB_TRAIN = 0.0
    node.BRIGHTNESS = 0.0
    node.CONTRAST = 0.0
    node.SATURATION = 0.0
    node.HUE = 0.0
    node.CROP_PROB = 0.5
    node.CROP_MIN_IOUS = (0.1, 0.3, 0.5, 0.7, 0.9)
    node.CROP_MIN_SIZE = 0.3
    node.AFFINE_PROB = 0.5
    node.AFFINE_R = (-10, 10)
    node.AFFINE_T = (0.1, 0.1)
    node.AFFINE_S = (0.9, 1.1)
    node.AFFINE_SHEAR = (-2, 2)
    node.AFFINE_FILL = (127.5, 127.5, 127.5)
    node.ERASE_PROB = 0.0
    node.ERASE_L = 0.02
    node.ERASE_H = 1 / 3
    node.ERASE_MIN_ASPECT = 0.3
    node.ERASE_MODE = "const"
    node.ERASE_MAX_COUNT = 1
    node.ERASE_MAX_OVERLAP = 0.6
    node.ERASE_MAX_VALUE = 255
    node.MOSAIC_PROB = 0.0
    node.MOSAIC_SHIFT = 0.5
    node.MOSAIC_SIZE = -1
    node.PASTE_PROB = 0.0
    node.PASTE_CAT = ()
    node.PASTE_NUM = 2
    return node


def datasets() -> CfgNode:
    """Which data, and how detection labels become captions."""
    node = CfgNode()
    _which_data(node)
    _copies(node)
    _class_captions(node)
    _caption_data(node)
    _prompts(node)
    _without_effect(node)
    return node


def _which_data(node: CfgNode) -> None:
    node.TRAIN = ()  # names, joined into one set; so are those of nested tuples
    node.TEST = ()  # names, evaluated one after the other

    # Data of one's own: name -> {img_dir, ann_file, type}. `type` is a dataset class name and may
    # be left out (see paths_catalog.py).
    node.REGISTER = CfgNode(new_allowed=True)
    # Appended to the names of TRAIN or TEST and of REGISTER. "_grounding" makes registered
    # training sets captioned ones.
    node.TRAIN_DATASETNAME_SUFFIX = ""
    node.TEST_DATASETNAME_SUFFIX = ""

    node.FEW_SHOT = 0  # above 0: a training subset with so many images per class
    node.SHUFFLE_SEED = 0  # which subset; also part of the names of prepared subsets
    # Added here: data of which samples are mixed into training, names as in the catalogue (no
    # suffix is appended), and their share of all samples.
    node.REPLAY = ()
    node.REPLAY_SHARE = 0.25
    node.USE_CROWD = False  # COCO detection data: train on crowd boxes too
    node.MAX_BOX = -1  # COCO detection data: at most so many boxes per image
    node.SAMPLE_RATIO = 0.0  # keep a share of the boxes (> 0) or that many of them (< 0)
    node.CLASS_AGNOSTIC = False  # every label is 1
    node.CLASS_CONCAT = False  # refused when True: captions keep joined sets apart
    node.DISABLE_CLIP_TO_IMAGE = False  # leave boxes that reach out of the image as they are
    node.LVIS_USE_NORMAL_AP = False  # LVIS: the usual AP instead of the fixed AP
    node.FLICKR_GT_TYPE = "separate"  # Flickr30k: any box of a phrase counts, or all "merged"
    # Added here: Flickr30k Entities release (Annotations, Sentences, split lists), searched as
    # every path. Empty: the boxes of the annotation file itself.
    node.FLICKR_ENTITIES_DIR = "flickr30k/flickr30k"
    # Added here: images that cannot be read are counted and left out instead of stopping.
    node.SKIP_BROKEN_IMAGES = False

    # Loaders of their own for parts of TRAIN, which are not built: refused when True.
    node.ALTERNATIVE_TRAINING = False
    node.MULTISTAGE_TRAINING = False


def _copies(node: CfgNode) -> None:
    """How often a set is repeated within an epoch."""
    node.GENERAL_COPY = -1  # sets without a setting of their own; -1: once
    node.GENERAL_COPY_TEST = -1
    node.FLICKR_COPY = 1  # flickr30k_train
    node.MIXED_COPY = 1  # mixed_train, mixed_train_no_coco
    node.COCO_COPY = 1  # COCO_odinw_train_8copy_dt_train, coco_dt_train, coco_grounding_train
    node.LVIS_COPY = 1  # LVIS_odinw_train_8copy_dt_train, lvisv1_dt_train, lvis_grounding_train
    node.OBJECT365_COPY = 1  # object365_odinw_2copy_dt_train
    node.VG_COPY = 1  # vg_odinw_clipped_8copy_dt_train, vg_vgoi6_clipped_8copy_dt_train
    node.OI_COPY = 1  # oi_train_odinw_dt
    node.IN_COPY = 1  # imagenetod_train_odinw_2copy_dt


def _class_captions(node: CfgNode) -> None:
    """Captions made of class names."""
    node.SEPARATION_TOKENS = " "  # between class names; published ". "
    node.DISABLE_SHUFFLE = False  # classes keep their order
    node.ADD_DET_PROMPT = False  # the caption begins with "object detection : "
    node.RANDOM_SAMPLE_NEG = -1  # classes that the image lacks, drawn into the caption
    # Probabilities of (one negative, no negative, as many as RANDOM_SAMPLE_NEG asks for, unused); the
    # rest is a random number of them. Data of sampled classes need all four values.
    node.CONTROL_PROB = ()
    # COCO-format data with sampled negatives and a token budget (LVIS fine-tuning).
    node.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING = False
    node.ONE_HOT = False  # a class is one column instead of its tokens
    node.NO_MINUS_ONE_FOR_ONE_HOT = False  # that column is the label itself, not label - 1


def _caption_data(node: CfgNode) -> None:
    """Captions with boxes found by a teacher."""
    node.CAPTION_FORMAT_VERSION = "v1"  # "v1" a list of boxes, "v2" boxes grouped by entity
    node.FURTHER_SCREEN = False  # filter by the next three
    node.CAPTION_CONF = 0.9  # boxes must score above
    node.CAPTION_NMS = 0.9  # overlap above which the lower score goes; 0 or less: off
    node.CAPTION_MIN_BOX = 1  # samples with fewer boxes are left out
    node.PACK_RANDOM_CAPTION_NUMBER = 0  # captions of other images, packed in as negatives
    node.RANDOM_PACK_PROB = -1.0  # probability of packing that many
    node.NO_RANDOM_PACK_PROBABILITY = 0.0  # probability of packing none
    node.SAFEGUARD_POSITIVE_CAPTION = True  # never let negatives push the caption out
    # Probability of a caption of another image, without boxes.
    node.SAMPLE_NEGATIVE_FOR_GROUNDING_DATA = -1.0
    node.REPLACE_CLEAN_LABEL = False  # read "clean_label" where the path says "raw_label"
    node.INFERENCE_CAPTION = False  # captions without boxes
    node.DIVER_BOX_FOR_VQA = False
    node.BING_INDEX_LIST = []  # shards that "bing_caption_train" stands for


def _prompts(node: CfgNode) -> None:
    """Class names and captions other than those of the annotation file."""
    node.OVERRIDE_CATEGORY = None  # [{id, name, supercategory}, ...]
    node.USE_OVERRIDE_CATEGORY = False
    # [{prefix, name, suffix}, ...] in label order, or a YAML file that holds that list.
    node.CAPTION_PROMPT = None
    node.USE_CAPTION_PROMPT = False
    node.SUPRESS_QUERY = None  # names added to test captions so that they draw boxes away
    node.USE_SUPRESS_QUERY = False


def _without_effect(node: CfgNode) -> None:
    node.PREDEFINED_TEXT = None
    node.BOX_THRESHOLD = 0.1
    node.ADD_DET_PROMPT_ADVANCED = False
    node.USE_OD_AUG = False
    node.USE_COCO_FORMAT = False
    node.PROMPT_VERSION = ""
    node.PROMPT_LIMIT_NEG = -1
    node.POS_QUESTION_PROB = 0.6
    node.NEG_QUESTION_PROB = 0.8
    node.FULL_QUESTION_PROB = 0.5
    node.LOCAL_DEBUG = False
    node.PREDOWNLOAD_BING = False
    node.PREDOWNLOAD_WITH_AZCOPY = False


def dataloader() -> CfgNode:
    """How samples become batches."""
    node = CfgNode()
    node.NUM_WORKERS = 4  # processes per loader
    node.SIZE_DIVISIBILITY = 0  # padded height and width are multiples of it; published 32
    node.ASPECT_RATIO_GROUPING = True  # a batch is all portrait or all landscape
    node.USE_RANDOM_SEED = False  # the order differs from run to run
    node.DISTRIBUTE_CHUNK_AMONG_NODE = False  # warned of: processes read the rows they need
    node.MIN_KPS_PER_IMS = 0  # without effect
    return node
