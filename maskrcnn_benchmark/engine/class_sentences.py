"""Evaluation with a sentence of its own for every class (GLIPKNOW)."""

import logging
from collections.abc import Iterable
from typing import Any

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import class_sentences, knowledge_sources, read_knowledge
from maskrcnn_benchmark.modeling.detector import GeneralizedVLRCNN
from maskrcnn_benchmark.modeling.language_backbone.caption_tokens import (
    captions_as_tokens,
    check_pooling,
)

from .detectors import EncodedQuery

logger = logging.getLogger(__name__)

_SWITCH = "GLIPKNOW.PARALLEL_LANGUAGE_INPUT"


def check_class_sentences(cfg: Any) -> None:
    """Refuse settings of an evaluation that cannot work, and knowledge that would not be read.

    Raises:
        ConfigError: naming the setting.
    """
    options, fuse = cfg.GLIPKNOW, cfg.MODEL.DYHEAD.FUSE_CONFIG
    if not options.PARALLEL_LANGUAGE_INPUT:
        if options.KNOWLEDGE_FILE:
            raise ConfigError(
                f"GLIPKNOW.KNOWLEDGE_FILE is set, but only {_SWITCH} True reads it: set that, "
                "or no file"
            )
        return
    obstacles = {
        "detection with TEST.EVAL_TASK 'detection'": cfg.TEST.EVAL_TASK not in ("", "detection"),
        "image and text to meet in the head (MODEL.SWINT.VERSION 'fusion' is FIBER's)": (
            cfg.MODEL.SWINT.VERSION == "fusion"
        ),
        "the dot product (MODEL.DYHEAD.FUSE_CONFIG.USE_DOT_PRODUCT_TOKEN_LOSS True)": (
            not fuse.USE_DOT_PRODUCT_TOKEN_LOSS
        ),
        "MODEL.DYHEAD.FUSE_CONFIG.ADD_LINEAR_LAYER False: learned offsets belong to the tokens of "
        "one caption of all classes": fuse.ADD_LINEAR_LAYER,
        "DATASETS.ONE_HOT False": cfg.DATASETS.ONE_HOT,
        "MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL False": cfg.MODEL.LANGUAGE_BACKBONE.MASK_SPECIAL,
    }
    for need, stands in obstacles.items():
        if stands:
            raise ConfigError(f"{_SWITCH} needs {need}")
    check_pooling(options.LAN_FEATURE_AGG_TYPE)
    if options.GPT3_NUM < 0:
        raise ConfigError(f"GLIPKNOW.GPT3_NUM must not be negative, got {options.GPT3_NUM}")
    if not options.KNOWLEDGE_FILE and (options.KNOWLEDGE_TYPE or options.WIKI_AND_GPT3):
        raise ConfigError(
            "GLIPKNOW.KNOWLEDGE_TYPE and WIKI_AND_GPT3 choose from GLIPKNOW.KNOWLEDGE_FILE, which "
            "is not set"
        )
    if options.KNOWLEDGE_FILE:
        _sources(cfg)


def check_knowledge(configs: Iterable[Any]) -> None:
    """Check the settings and the knowledge files of several evaluations before the first.

    Raises:
        ConfigError: see `check_class_sentences`.
        FileNotFoundError, DataError: a knowledge file is missing or malformed.
    """
    files: dict[str, None] = {}
    for config in configs:
        check_class_sentences(config)
        files[config.GLIPKNOW.KNOWLEDGE_FILE] = None
    for path in filter(None, files):
        read_knowledge(path)


def refuse_class_sentences(cfg: Any, purpose: str) -> None:
    """Refuse GLIPKNOW where it cannot be used.

    Args:
        purpose: what the configuration is used for, for the message.
    Raises:
        ConfigError: if it is set.
    """
    for key in ("PARALLEL_LANGUAGE_INPUT", "KNOWLEDGE_FILE"):
        if cfg.GLIPKNOW[key]:
            raise ConfigError(
                f"GLIPKNOW.{key} is not supported for {purpose}: a sentence for every class is for "
                f"evaluation (tools/test_grounding_net.py). Leave it at its default here"
            )


def encode_class_sentences(cfg: Any, model: GeneralizedVLRCNN, dataset: Any) -> EncodedQuery:
    """All classes of a detection set, each with a token of its own, in the order of their ids.

    Every sentence is encoded once, and none is split: TEST.CHUNKED_EVALUATION and the wording of
    captions have no part in it.

    Args:
        model: in evaluation mode.
    """
    categories = dataset.categories()
    labels = sorted(categories)
    sentences = _sentences(cfg, [categories[label] for label in labels])
    logger.info("%d classes with a sentence each, the first: %r", len(labels), sentences[0])
    datasets = cfg.DATASETS
    if datasets.USE_CAPTION_PROMPT or datasets.USE_SUPRESS_QUERY:
        logger.warning(
            "%s: DATASETS.CAPTION_PROMPT and SUPRESS_QUERY are without effect, as there is no "
            "caption of all classes",
            _SWITCH,
        )
    text = captions_as_tokens(model.encode_text, sentences, cfg.GLIPKNOW.LAN_FEATURE_AGG_TYPE)
    return EncodedQuery(text, {label: [place] for place, label in enumerate(labels)})


def _sentences(cfg: Any, names: list[str]) -> list[str]:
    options = cfg.GLIPKNOW
    if not options.KNOWLEDGE_FILE:
        return names
    knowledge = read_knowledge(options.KNOWLEDGE_FILE)
    unknown = [name for name in names if name not in knowledge]
    if unknown:
        logger.warning(
            "%d of %d classes are not in %s and keep their bare names, the first: %r",
            len(unknown),
            len(names),
            options.KNOWLEDGE_FILE,
            unknown[0],
        )
    return class_sentences(names, knowledge, _sources(cfg), options.GPT3_NUM)


def _sources(cfg: Any) -> tuple[str, ...]:
    options = cfg.GLIPKNOW
    return knowledge_sources(options.KNOWLEDGE_TYPE, wiki_and_gpt3=options.WIKI_AND_GPT3)
