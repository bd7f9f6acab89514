"""MODEL.LANGUAGE_BACKBONE and what is said to it: from the caption to token features."""

from maskrcnn_benchmark.config.node import CfgNode


def language_backbone() -> CfgNode:
    """Text encoder and its tokenizer."""
    node = CfgNode()

    # A name ("bert-base-uncased", "roberta-base", "roberta-fused-v2", "clip") or, added here, a
    # folder with config.json (any BERT size) and, if there are any, weights.
    node.MODEL_TYPE = "bert-base-uncased"
    # A name, or a folder with tokenizer.json or vocab.txt.
    node.TOKENIZER_TYPE = "bert-base-uncased"
    node.LANG_DIM = 768  # width of a token feature, that of MODEL_TYPE
    node.MAX_QUERY_LEN = 256  # longest caption in tokens; token maps have 256 columns
    node.PAD_MAX = True  # pad captions to MAX_QUERY_LEN; False: to the longest of the batch
    # Added: run on as many token slots as the longest caption of a batch needs, whatever PAD_MAX
    # says; no detection and no loss depends on padding.
    node.TRIM_PADDING = True
    node.N_LAYERS = 1  # the last N hidden layers are averaged
    node.MASK_SPECIAL = False  # hide [CLS] and [SEP] from the fusion
    node.FREEZE = False
    node.USE_CHECKPOINT = False  # recompute layers in the backward pass to save memory
    node.WEIGHT = ""  # weights of the CLIP encoder

    # Without effect (a recurrent encoder that is not built).
    node.UNUSED_TOKEN = 106
    node.RNN_TYPE = "lstm"
    node.VARIABLE_LENGTH = True
    node.WORD_EMBEDDING_SIZE = 512
    node.WORD_VEC_SIZE = 512
    node.HIDDEN_SIZE = 512
    node.BIDIRECTIONAL = True
    node.INPUT_DROPOUT_P = 0.5
    node.DROPOUT_P = 0.2
    node.CORPUS_PATH = ""
    node.VOCAB_SIZE = 0
    return node


def clip() -> CfgNode:
    """CLIP text encoder."""
    node = CfgNode()
    node.CONTEXT_LENGTH = 256
    node.WIDTH = 512
    node.LAYERS = 12
    node.HEADS = 8
    node.DROP_PATH = 0.0
    node.VOCAB_SIZE = 49408
    node.TOKENIZER = "clip"  # without effect
    return node


def knowledge() -> CfgNode:
    """GLIPKNOW: definitions of the classes as additional text, in evaluation."""
    node = CfgNode()
    # A sentence for each class instead of one caption for all. The rest is for this alone.
    node.PARALLEL_LANGUAGE_INPUT = False
    node.KNOWLEDGE_FILE = ""  # YAML: class name -> its texts; empty: the sentences are the names
    # Which text follows the name: "def_wiki", "def_wn", "path_wn", "path_wn3", "path_wn10", "gpt3"
    # or, for the first and the last, "gpt3_and_wiki".
    node.KNOWLEDGE_TYPE = ""
    node.WIKI_AND_GPT3 = False  # as "gpt3_and_wiki", whatever KNOWLEDGE_TYPE says
    node.GPT3_NUM = 5  # how many texts of a list, as that of gpt3
    node.LAN_FEATURE_AGG_TYPE = "first"  # feature of a sentence: its "first" token or the "mean"
    # Without effect: training on sentences of classes is refused.
    node.MAX_NUM_CLASSES_PER_BATCH_TRAIN = -1
    return node
