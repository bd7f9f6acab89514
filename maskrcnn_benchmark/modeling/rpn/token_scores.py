"""From probabilities of tokens to scores of the labels whose names the tokens spell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.errors import ConfigError

METHODS = ("MEAN", "MAX", "POWER", "ONEHOT")


class TokenAggregator:
    """Turns token probabilities into one score per label, for the labels of one caption.

    =========  ================================================================================
    MEAN       mean over the tokens of the label
    MAX        largest of them
    POWER      their geometric mean
    ONEHOT     token column ``i`` *is* label ``i + 1``, for as many columns as there are labels
    =========  ================================================================================

    A label without tokens (its name vanished in tokenisation) has no score and so no detection. A
    token listed twice counts twice.

    Args:
        label_to_tokens: label (1 or more) to the positions of its tokens, or to one position.
        num_tokens: width of the logits that the positions index.
        method: one of ``METHODS`` (``MODEL.DYHEAD.SCORE_AGG``).

    Attributes:
        labels: the ``L`` labels that have tokens, in the order of the mapping.
        tokens: the ``U`` token positions that matter, ascending.

    Raises:
        ValueError: for an unknown method, a label below 1, or a position outside the text.
    """

    def __init__(
        self,
        label_to_tokens: Mapping[int, Sequence[int] | int],
        num_tokens: int,
        method: str = "MEAN",
    ) -> None:
        if method not in METHODS:
            raise ConfigError(
                f"MODEL.DYHEAD.SCORE_AGG must be one of {', '.join(METHODS)}, not {method!r}"
            )
        self.method = method
        named = {int(label): _as_list(tokens) for label, tokens in label_to_tokens.items()}
        if method == "ONEHOT":
            named = {column + 1: [column] for column in range(len(named))}
        _validate(named, num_tokens)
        named = {label: tokens for label, tokens in named.items() if tokens}
        self.labels = list(named)
        self.tokens = sorted({token for tokens in named.values() for token in tokens})
        column = {token: index for index, token in enumerate(self.tokens)}
        # The map as pairs: member i is token column self._columns[i] of label self._rows[i].
        self._rows = [row for row, tokens in enumerate(named.values()) for _ in tokens]
        self._columns = [column[token] for tokens in named.values() for token in tokens]
        self._lengths = [len(tokens) for tokens in named.values()]

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Scores of ``self.labels``.

        Args:
            probabilities: ``[N, U]``, the columns ``self.tokens`` of the token probabilities.

        Returns:
            ``[N, L]``, NaN where a probability in the row is NaN (which no threshold lets pass).
        """
        num_labels = len(self.labels)
        device = probabilities.device
        rows = torch.tensor(self._rows, dtype=torch.int64, device=device)
        columns = torch.tensor(self._columns, dtype=torch.int64, device=device)
        if self.method in ("MEAN", "ONEHOT"):
            lengths = probabilities.new_tensor(self._lengths)
            weights = probabilities.new_zeros(len(self.tokens), num_labels)
            weights.index_put_((columns, rows), 1 / lengths[rows], accumulate=True)
            return probabilities @ weights
        members = probabilities[:, columns]
        index = rows.expand_as(members)
        scores = probabilities.new_ones(len(probabilities), num_labels)
        if self.method == "MAX":
            return scores.scatter_reduce(1, index, members, "amax", include_self=False)
        product = scores.scatter_reduce(1, index, members, "prod")
        return product ** (1 / probabilities.new_tensor(self._lengths))


def aggregate_token_scores(
    probabilities: Tensor,
    label_to_tokens: Mapping[int, Sequence[int] | int],
    num_classes: int,
    method: str = "MEAN",
) -> Tensor:
    """Scores in one column per class of a fixed vocabulary, zero for classes without tokens.

    The post-processor works on the labels present alone; this is the plain form of the same.

    Args:
        probabilities: ``[..., T]`` token probabilities.
        label_to_tokens: as for :class:`TokenAggregator`.
        num_classes: columns of the result; label ``j`` owns column ``j - 1``.
        method: as for :class:`TokenAggregator`.

    Returns:
        ``[..., num_classes]``.

    Raises:
        ValueError: as :class:`TokenAggregator`, or if a label exceeds ``num_classes``.
    """
    aggregator = TokenAggregator(label_to_tokens, probabilities.shape[-1], method)
    largest = max(aggregator.labels, default=0)
    if largest > num_classes:
        raise ValueError(f"label {largest} has no column among {num_classes} classes")
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    scores = flat.new_zeros(len(flat), num_classes)
    if aggregator.labels:
        columns = [label - 1 for label in aggregator.labels]
        scores[:, columns] = aggregator(flat[:, aggregator.tokens])
    return scores.view(*probabilities.shape[:-1], num_classes)


def _as_list(tokens: Sequence[int] | int) -> list[int]:
    if isinstance(tokens, Tensor):
        tokens = tokens.tolist()
    if isinstance(tokens, (list, tuple, range)) or hasattr(tokens, "__iter__"):
        return [int(token) for token in tokens]
    return [int(tokens)]


def _validate(named: Mapping[int, Sequence[int]], num_tokens: int) -> None:
    for label, tokens in named.items():
        if label < 1:
            raise ValueError(f"labels of a positive map start at 1, got {label}")
        outside = [token for token in tokens if not 0 <= token < num_tokens]
        if outside:
            raise ConfigError(
                f"label {label} names token {outside[0]} of a text that has {num_tokens} tokens; "
                "split the classes over several captions (TEST.CHUNKED_EVALUATION)"
            )
