"""Detection annotations recast as grounding: a caption of class names, each box tied to the span of
its class.

Two conversions exist. The full one writes the classes present plus sampled absent ones, within a
token budget (Objects365, LVIS, any large class list). The simple one writes all classes (COCO,
ODinW). Random draws follow the original call by call, so that equal seeds give equal captions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding.names import clean_name
from maskrcnn_benchmark.grounding.prompts import DETECTION_PREFIX, NamePrompt, join_names
from maskrcnn_benchmark.grounding.random_source import RandomSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

BACKGROUND_NAME = "__background__"

_SAMPLE_CLASSES = (
    "Set DATASETS.SPECIAL_SAFEGUARD_FOR_COCO_GROUNDING True with DATASETS.RANDOM_SAMPLE_NEG and "
    "DATASETS.DISABLE_SHUFFLE False to train on sampled classes."
)


@dataclass(frozen=True)
class DetectionCaption:
    """A caption that names classes.

    Attributes:
        caption: the text.
        label_to_span: label -> (begin, end) characters of its name, in caption order.
    """

    caption: str
    label_to_span: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class NegativeSampling:
    """How many classes that an image lacks are written into its caption.

    Attributes:
        num_negatives: full number (DATASETS.RANDOM_SAMPLE_NEG); -1: none.
        control_probabilities: chances of "one", "none" and "the full number"; otherwise a uniform
            number up to the full one is drawn (DATASETS.CONTROL_PROB).
        max_num_labels: cap on positives and negatives together; 0 or less: no cap.
    """

    num_negatives: int = -1
    control_probabilities: tuple[float, float, float] = (0.0, 0.0, 0.5)
    max_num_labels: int = -1


def check_control_probabilities(values: Sequence[float]) -> tuple[float, float, float]:
    """The first three entries of DATASETS.CONTROL_PROB.

    The fourth was meant for dropping positives, which no code does: a non-zero one is reported and
    ignored, its share falls to the uniform draw.

    Raises:
        ConfigError: not four numbers, a negative one, or a sum above one.
    """
    if len(values) != 4:
        raise ConfigError(
            "DATASETS.CONTROL_PROB must hold four probabilities, for example (0.0, 0.0, 0.5, "
            f"0.0); got {tuple(values)}"
        )
    if min(values) < 0 or sum(values[:3]) > 1 + 1e-9:
        raise ConfigError(
            "DATASETS.CONTROL_PROB must hold probabilities that sum to at most one; got "
            f"{tuple(values)}"
        )
    if values[3] != 0:
        logger.warning(
            "DATASETS.CONTROL_PROB: the fourth entry (%s) has no meaning and is taken as 0",
            values[3],
        )
    return (values[0], values[1], values[2])


class NameLengths:
    """Number of tokens of each class name with its separator, counted once per name."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._tokenizer = tokenizer
        self._cache: dict[str, int] = {}

    def of_name(self, name: str) -> int:
        """Tokens of the cleaned name followed by ". ", without special tokens."""
        return self.of_text(clean_name(name) + ". ")

    def of_text(self, text: str) -> int:
        """Tokens of any text, without special tokens."""
        if text not in self._cache:
            self._cache[text] = len(self._tokenizer.tokenize(text))
        return self._cache[text]


def restrict_to_budget(
    labels: Sequence[int],
    names: Mapping[int, str],
    lengths: NameLengths,
    budget: int,
    rng: RandomSource,
) -> tuple[set[int], int]:
    """Choose which present classes may stay when their names exceed the token budget.

    Args:
        labels: label of every box, in box order.
    Returns:
        the labels kept, and the number of tokens used up, which includes the first label that did
        not fit.
    """
    # The order of a set before the shuffle is part of the random stream: do not sort.
    present = list(set(labels))
    rng.python.shuffle(present)
    kept, used = set(), 0
    for label in present:
        used += lengths.of_name(names[label])
        if used > budget:
            break
        kept.add(label)
    return kept, used


def full_caption(
    labels: Sequence[int],
    names: Mapping[int, str],
    lengths: NameLengths,
    *,
    sampling: NegativeSampling,
    separation_tokens: str,
    max_tokens: int,
    used_tokens: int,
    rng: RandomSource,
    add_detection_prompt: bool = False,
) -> DetectionCaption:
    """Caption of the classes present and of sampled absent ones, in random order.

    Args:
        labels: label of every box, in box order (after `restrict_to_budget`).
        names: class table in the order of its file; absent classes are drawn from all of it.
        max_tokens: token budget of the caption without special tokens.
        used_tokens: what the present classes use of it.
    """
    positives = set(labels)
    num_negatives = _draw_num_negatives(len(positives), len(names), sampling, rng)
    negatives = set()
    if num_negatives >= 0:
        drawn = rng.numpy.choice(list(names), size=num_negatives, replace=False)
        negatives = {label for label in drawn.tolist() if label not in positives}

    positive_list, negative_list = list(positives), list(negatives)
    rng.python.shuffle(positive_list)
    rng.python.shuffle(negative_list)
    fitting = _take_while_fitting(negative_list, names, lengths, max_tokens - used_tokens)
    chosen = fitting + positive_list
    rng.python.shuffle(chosen)
    return _write(chosen, names, separation_tokens, add_detection_prompt)


def all_classes_caption(
    names: Mapping[int, str],
    *,
    separation_tokens: str,
    add_detection_prompt: bool = False,
    prompts: Mapping[int, NamePrompt] | None = None,
    shuffle: bool = False,
    rng: RandomSource | None = None,
) -> DetectionCaption:
    """Caption of every class, in the order of the labels or shuffled.

    Raises:
        ValueError: shuffling is asked for without a generator, or together with prompts, whose
            wording may lean on the order of the classes.
    """
    labels = sorted(names)
    if shuffle:
        if prompts is not None:
            raise ConfigError("Captions with prompts need DATASETS.DISABLE_SHUFFLE True.")
        if rng is None:
            raise ValueError("Shuffling the classes needs a random source.")
        rng.python.shuffle(labels)
    return _write(labels, names, separation_tokens, add_detection_prompt, prompts)


def check_caption_fits(
    caption: DetectionCaption,
    names: Mapping[int, str],
    tokenizer: PreTrainedTokenizerFast,
    max_tokens: int,
    source: str,
    cure: str | None = None,
) -> None:
    """Refuse a class list that the text encoder would cut off.

    Args:
        max_tokens: limit with special tokens.
        source: what to name in the message (data set or file).
        cure: end of the message; None: how to sample classes.
    Raises:
        ConfigError: naming the first class that would be lost.
    """
    encoding = tokenizer(caption.caption, truncation=False, verbose=False)
    if len(encoding["input_ids"]) <= max_tokens:
        return
    kept_end = encoding.encodings[0].offsets[max_tokens - 2][1]
    lost = next(label for label, (_, end) in caption.label_to_span.items() if end > kept_end)
    raise ConfigError(
        f"{source}: the caption of all {len(caption.label_to_span)} classes has "
        f"{len(encoding['input_ids'])} tokens, more than {max_tokens}; from class {lost} "
        f"({names[lost]!r}) on they would be cut off. {cure or _SAMPLE_CLASSES}"
    )


def without_background(names: Mapping[int, str]) -> dict[int, str]:
    """The class table without entries named `__background__`."""
    return {label: name for label, name in names.items() if name != BACKGROUND_NAME}


def _draw_num_negatives(
    num_positives: int, num_classes: int, sampling: NegativeSampling, rng: RandomSource
) -> int:
    full = sampling.num_negatives
    if sampling.max_num_labels > 0:
        full = max(min(sampling.max_num_labels - num_positives, full), 0)
    full = min(full, num_classes)
    one, none, all_of_them = sampling.control_probabilities
    draw = rng.python.random()
    if draw < one:
        return 1
    if draw < one + none:
        return 0
    if draw < one + none + all_of_them:
        return full
    # The two draws around the integer decide nothing; they keep the stream equal to the original's.
    rng.python.random()
    number = int(rng.numpy.choice(max(1, full))) + 1
    rng.python.random()
    return number


def _take_while_fitting(
    labels: Sequence[int], names: Mapping[int, str], lengths: NameLengths, remaining: int
) -> list[int]:
    fitting = []
    for label in labels:
        remaining -= lengths.of_name(names[label])
        if remaining <= 0:
            break
        fitting.append(label)
    return fitting


def _write(
    labels: Sequence[int],
    names: Mapping[int, str],
    separation_tokens: str,
    add_detection_prompt: bool,
    prompts: Mapping[int, NamePrompt] | None = None,
) -> DetectionCaption:
    wording = join_names(
        [names[label] for label in labels],
        separation_tokens,
        start=DETECTION_PREFIX if add_detection_prompt else "",
        prompts=[prompts[label] for label in labels] if prompts else None,
    )
    return DetectionCaption(wording.caption, dict(zip(labels, wording.spans, strict=True)))
