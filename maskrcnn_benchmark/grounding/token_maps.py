"""Maps between boxes, labels and token positions of a caption."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from maskrcnn_benchmark.grounding.token_alignment import NO_TOKEN, Encoded, TokenAlignment

MAX_TOKENS = 256
"""Width of every token map. The published models see at most this many tokens."""

Spans = Sequence[Sequence[int]]


def create_positive_map(
    encoding: Encoded, tokens_positive: Sequence[Spans], max_tokens: int = MAX_TOKENS
) -> torch.Tensor:
    """Which tokens each box is described by.

    Args:
        encoding: the tokenised caption (fast tokenizer) or its `TokenAlignment`.
        tokens_positive: per box its (begin, end) character spans, end exclusive.
    Returns:
        float32 (num_boxes, max_tokens). A row is shared out evenly over the box's tokens and sums
        to (almost) one; it is zero when none of its spans has a token, which happens past the
        truncation point.
    Raises:
        ValueError: a token lies at or behind `max_tokens` (the caption was tokenised without
            truncation).
    """
    alignment = TokenAlignment.from_encoding(encoding)
    positive = np.zeros((len(tokens_positive), max_tokens), dtype=np.float32)
    for row, spans in enumerate(tokens_positive):
        for first, last in alignment.token_ranges(spans).tolist():
            if first == NO_TOKEN:
                continue
            _check_width(last, max_tokens)
            positive[row, first : last + 1] = 1.0
    positive /= positive.sum(axis=1, keepdims=True) + np.float32(1e-6)
    return torch.from_numpy(positive)


def create_greenlight_map(
    encoding: Encoded, spans: Spans, max_tokens: int = MAX_TOKENS, *, masking_allowed: bool = True
) -> torch.Tensor:
    """Which tokens masked-language modelling may hide and score.

    Returns:
        float32 (max_tokens,): 1 on the tokens of `spans`, 0 elsewhere; all -1 when
        `masking_allowed` is False, which keeps the whole caption out of masked-language modelling.
    """
    if not masking_allowed:
        return torch.full((max_tokens,), -1.0)
    greenlight = torch.zeros(max_tokens)
    for first, last in TokenAlignment.from_encoding(encoding).token_ranges(spans).tolist():
        if first != NO_TOKEN:
            _check_width(last, max_tokens)
            greenlight[first : last + 1] = 1.0
    return greenlight


def create_od_label_map(
    encoding: Encoded, label_to_span: Mapping[int, Sequence[int]], max_tokens: int = MAX_TOKENS
) -> torch.Tensor:
    """Class id per token of a detection caption: float32 (max_tokens,), -1 where no class name
    stands.

    Where names share a token the later entry of `label_to_span` wins.
    """
    labels = torch.full((max_tokens,), -1.0)
    alignment = TokenAlignment.from_encoding(encoding)
    ranges = alignment.token_ranges(list(label_to_span.values())).tolist()
    for label, (first, last) in zip(label_to_span, ranges, strict=True):
        if first != NO_TOKEN:
            _check_width(last, max_tokens)
            labels[first : last + 1] = label
    return labels


def label_to_tokens_from_spans(
    encoding: Encoded, label_to_spans: Mapping[int, Spans]
) -> dict[int, list[int]]:
    """Token positions per label, for the score aggregation at test.

    A label none of whose spans has a token gets no entry (it can never be detected).
    """
    alignment = TokenAlignment.from_encoding(encoding)
    tokens = {label: alignment.tokens_of_spans(spans) for label, spans in label_to_spans.items()}
    return {label: positions for label, positions in tokens.items() if positions}


def label_to_tokens_from_positive_map(positive_map: torch.Tensor) -> dict[int, list[int]]:
    """Row i of a (num_phrases, num_tokens) positive map becomes label i + 1 with its non-zero
    columns.

    Empty rows keep their label with an empty list, so that labels go on counting phrases.
    """
    return {
        row + 1: torch.nonzero(mask).flatten().tolist() for row, mask in enumerate(positive_map)
    }


def _check_width(last_token: int, max_tokens: int) -> None:
    if last_token >= max_tokens:
        raise ValueError(
            f"Token {last_token} does not fit a map of {max_tokens} tokens: truncate the caption "
            "when it is tokenised, or split it (grounding.build_queries does)."
        )
