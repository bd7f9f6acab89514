"""SOLVER: the optimiser, its schedules, and the training loop."""

from maskrcnn_benchmark.config.node import CfgNode


def solver() -> CfgNode:
    """Settings of SOLVER; CLIP_GRADIENTS is added by the package."""
    node = CfgNode()
    _length(node)
    _optimiser(node)
    _schedule(node)
    _precision_and_processes(node)
    _checkpoints_and_tests(node)
    return node


def _length(node: CfgNode) -> None:
    node.MAX_ITER = 40000  # iterations; derived from MAX_EPOCH where that is above 0
    node.MAX_EPOCH = 0  # passes over the data, copies included
    node.IMS_PER_BATCH = 16  # images per iteration over all processes
    node.DATASET_LENGTH = -1  # without effect: the loader writes what it found
    node.SEED = 0
    # Batches with a larger share of images without boxes are skipped.
    node.MAX_NEG_PER_BATCH = 0.1


def _optimiser(node: CfgNode) -> None:
    node.OPTIMIZER = "SGD"  # or "ADAMW"
    node.BASE_LR = 0.001
    node.LANG_LR = 1e-5  # text encoder
    node.BACKBONE_BODY_LR_FACTOR = 1.0
    node.BIAS_LR_FACTOR = 2
    node.MOMENTUM = 0.9  # SGD
    node.WEIGHT_DECAY = 0.0005
    node.WEIGHT_DECAY_BIAS = 0.0
    node.WEIGHT_DECAY_NORM_FACTOR = 1.0  # parameters whose name contains "norm"
    node.MODEL_EMA = 0.0  # decay of the running average of the weights; 0: none
    # Added here: decoupled L2 pull towards the starting weights in fine-tuning; 0: none.
    node.PULL_TO_START = 0.0
    # Added here: memory for features of frozen encoders in fine-tuning; 0: compute them each time.
    node.FROZEN_CACHE_MIB = 2048
    node.GRAD_CLIP = 0.0  # largest absolute value of a gradient; 0: no limit; see CLIP_GRADIENTS
    node.WEIGHT_DECAY_HEAD_FACTOR = 1.0  # without effect

    # What is trained: "full", "linear_prob", "language_prompt_v1" to "v4".
    node.TUNING_HIGHLEVEL_OVERRIDE = None
    node.PROMPT_PROBING_LEVEL = -1.0  # without effect


def clip_gradients() -> CfgNode:
    """SOLVER.CLIP_GRADIENTS: the norm of all gradients together."""
    node = CfgNode()
    node.ENABLED = False
    node.CLIP_VALUE = 0.0  # largest norm; published 1.0
    node.CLIP_TYPE = "full_model"
    node.NORM_TYPE = 2.0  # order of that norm
    return node


def _schedule(node: CfgNode) -> None:
    node.STEPS = (30000,)  # milestones: iterations, or below 1 shares of MAX_ITER
    node.GAMMA = 0.1  # factor at a milestone or on a plateau
    node.WARMUP_ITERS = 500
    node.WARMUP_FACTOR = 1.0 / 3
    node.WARMUP_METHOD = "linear"  # or "constant"
    node.USE_COSINE = False
    node.MIN_LR = 1e-6  # floor of the cosine and plateau schedules
    node.USE_AUTOSTEP = False  # reduce when the validation AP no longer rises
    node.STEP_PATIENCE = 5  # evaluations without a rise before that
    node.WEIGHT_DECAY_SCHEDULE = False  # weight decay times GAMMA ahead of the milestones
    node.WEIGHT_DECAY_SCHEDULE_RATIO = 0.667  # ahead: at this share of a milestone

    # Training in stages, which is not built.
    node.MULTI_MAX_EPOCH = ()  # refused unless empty
    node.MULTI_MAX_ITER = ()  # without effect


def _precision_and_processes(node: CfgNode) -> None:
    node.USE_AMP = False  # mixed precision
    node.AMP_DTYPE = "float16"  # added here; or "bfloat16" (the choice on CPU)
    # Added here: an optimiser step every N batches, which then share IMS_PER_BATCH.
    node.ACCUMULATION_STEPS = 1
    # Added here: how processes share the model. "ddp": everything everywhere; "fsdp": every process
    # holds a part of each parameter (FSDP2), for models that do not fit otherwise.
    node.PARALLEL = "ddp"
    node.FIND_UNUSED_PARAMETERS = True  # DistributedDataParallel
    # Added here: torch.compile of parts of the model: "backbone", "language_backbone", "head".
    node.COMPILE = ()
    node.COMPILE_BACKEND = "inductor"
    node.COMPILE_MODE = ""  # e.g. "max-autotune"; empty: the backend's default
    node.DISABLE_OUTPUT_DISTRIBUTED = False  # without effect
    # Added here: steps with an infinite or NaN loss that are skipped in a row before the run
    # stops, its state saved.
    node.MAX_NON_FINITE_STEPS = 10


def _checkpoints_and_tests(node: CfgNode) -> None:
    node.CHECKPOINT_PERIOD = 2500  # iterations between checkpoints and between evaluations
    node.CHECKPOINT_PER_EPOCH = -1.0  # if not -1: that period in epochs
    node.KEEP_LAST_CHECKPOINTS = -1  # added here: older numbered checkpoints go; -1: keep all
    # Without effect: evaluation during training is always that of the test tools.
    node.TEST_WITH_INFERENCE = False

    # Stop after so many evaluations below the best one; also keeps model_best.pth.
    node.AUTO_TERMINATE_PATIENCE = -1
    node.USE_EMA_FOR_MONITOR = False  # evaluate the averaged weights during training
