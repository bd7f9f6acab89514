"""Captions that ask for a list of classes at test time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn_benchmark.errors import DataError
from maskrcnn_benchmark.grounding.names import clean_name
from maskrcnn_benchmark.grounding.prompts import (
    NamePrompt,
    Wording,
    join_names,
    prompts_by_category,
)
from maskrcnn_benchmark.grounding.token_alignment import TokenAlignment
from maskrcnn_benchmark.grounding.token_maps import MAX_TOKENS, label_to_tokens_from_spans

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """One caption for the model and how to read its token scores.

    Attributes:
        caption: the text.
        label_to_tokens: label -> positions of its tokens. A class without any token is absent.
        spans: label -> (begin, end) characters of its name in the caption.
    """

    caption: str
    label_to_tokens: dict[int, list[int]]
    spans: dict[int, tuple[int, int]]


def build_queries(
    categories: Mapping[int, str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    separation_tokens: str,
    chunk_size: int = -1,
    caption_prompt: Sequence[Mapping[str, str]] | str | Path | None = None,
    suppress: Sequence[str] = (),
    max_tokens: int = MAX_TOKENS,
) -> list[Query]:
    """Caption(s) naming all `categories`, in the order of their ids.

    Nothing is ever truncated: a chunk whose caption exceeds `max_tokens` is split further.

    Args:
        categories: label -> class name. Labels are those that the detections will carry.
        separation_tokens: text between two names (DATASETS.SEPARATION_TOKENS).
        chunk_size: at most this many classes per caption (TEST.CHUNKED_EVALUATION); 0 or less: as
            many as fit.
        caption_prompt: see `prompts_by_category`; prompts belong to classes, also when those are
            split.
        suppress: names added to every caption that carry no label (DATASETS.SUPRESS_QUERY).
        max_tokens: longest caption in tokens, special tokens included.
    Raises:
        DataError: no category, or a class that does not fit on its own (it is named).
    """
    if not categories:
        raise DataError("There is no class to ask for: the list of categories is empty.")
    labels = sorted(categories)
    prompts = prompts_by_category(caption_prompt, labels)
    builder = _QueryBuilder(
        categories, tokenizer, separation_tokens, prompts, tuple(suppress), max_tokens
    )
    size = chunk_size if chunk_size > 0 else len(labels)
    queries = []
    for begin in range(0, len(labels), size):
        queries += builder.split_to_fit(labels[begin : begin + size])
    _report_unreachable(categories, queries)
    return queries


def token_count(caption: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """Number of tokens of the whole caption, special tokens included."""
    return len(_encode(tokenizer, caption)["input_ids"])


class _QueryBuilder:
    """Builds the caption of a run of labels and cuts runs that are too long."""

    def __init__(
        self,
        categories: Mapping[int, str],
        tokenizer: PreTrainedTokenizerFast,
        separation_tokens: str,
        prompts: Mapping[int, NamePrompt] | None,
        suppress: tuple[str, ...],
        max_tokens: int,
    ):
        self.categories = categories
        self.tokenizer = tokenizer
        self.separation_tokens = separation_tokens
        self.prompts = prompts
        self.suppress = suppress
        self.max_tokens = max_tokens

    def split_to_fit(self, labels: Sequence[int]) -> list[Query]:
        """Queries for the labels, each as long as the token limit allows."""
        queries = []
        while labels:
            count = len(labels)
            while (query := self._build(labels[:count])) is None:
                if count == 1:
                    name = self.categories[labels[0]]
                    raise DataError(
                        f"Class {labels[0]} ({name!r}) alone needs more than {self.max_tokens} "
                        "tokens: shorten its name or prompt, or name fewer classes in "
                        "SUPRESS_QUERY."
                    )
                count = self._estimate(labels[:count])
            queries.append(query)
            labels = labels[count:]
        return queries

    def _word(self, labels: Sequence[int]) -> Wording:
        wording = join_names(
            [self.categories[label] for label in labels],
            self.separation_tokens,
            prompts=[self.prompts[label] for label in labels] if self.prompts else None,
        )
        suppressed = "".join(self.separation_tokens + clean_name(name) for name in self.suppress)
        return Wording(wording.caption + suppressed, wording.spans)

    def _build(self, labels: Sequence[int]) -> Query | None:
        wording = self._word(labels)
        encoding = _encode(self.tokenizer, wording.caption)
        if len(encoding["input_ids"]) > self.max_tokens:
            return None
        spans = dict(zip(labels, wording.spans, strict=True))
        tokens = label_to_tokens_from_spans(
            encoding, {label: [span] for label, span in spans.items()}
        )
        return Query(wording.caption, tokens, spans)

    def _estimate(self, labels: Sequence[int]) -> int:
        """How many of the labels may fit, judged on the tokens of the too long caption.

        At least one and fewer than given, so that repeated trying ends.
        """
        wording = self._word(labels)
        encoding = _encode(self.tokenizer, wording.caption)
        overhang = len(encoding["input_ids"]) - self.max_tokens
        last_tokens = TokenAlignment.from_encoding(encoding).token_ranges(wording.spans)[:, 1]
        # What follows the last name (suppressed names, closing special tokens) stays when names are
        # cut away.
        fitting = int((last_tokens <= last_tokens.max() - overhang).sum())
        return min(max(fitting, 1), len(labels) - 1)


def _encode(tokenizer: PreTrainedTokenizerFast, caption: str) -> BatchEncoding:
    # verbose=False: a caption longer than the model allows is expected here and handled by
    # splitting.
    return tokenizer(caption, truncation=False, padding=False, verbose=False)


def _report_unreachable(categories: Mapping[int, str], queries: Sequence[Query]) -> None:
    reachable = {label for query in queries for label in query.label_to_tokens}
    lost = {label: name for label, name in categories.items() if label not in reachable}
    if lost:
        logger.warning(
            "These classes have no token in the caption and can never be detected: %s", lost
        )
