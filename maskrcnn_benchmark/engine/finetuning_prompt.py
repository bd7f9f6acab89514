"""The prompt of a task and its token map, in words, before training starts."""

from collections.abc import Sequence

from maskrcnn_benchmark.config import CfgNode
from maskrcnn_benchmark.grounding import Query, build_queries
from maskrcnn_benchmark.modeling.language_backbone import build_tokenizer

from .finetuning_data import SetReport


def describe_prompt(config: CfgNode, reports: Sequence[SetReport]) -> str:
    """The caption(s) of the class names and which tokens stand for which class.

    Args:
        reports: of the sets of the run; the first with classes names them.
    Returns:
        several lines; empty where no set was looked through.
    Raises:
        ValueError: a class that does not fit a caption, or prompts of another number.
    """
    report = next((report for report in reports if report.classes is not None), None)
    if report is None:
        return ""
    tokenizer = build_tokenizer(config)
    datasets = config.DATASETS
    queries = build_queries(
        report.classes.foreground,
        tokenizer,
        separation_tokens=datasets.SEPARATION_TOKENS,
        chunk_size=config.TEST.CHUNKED_EVALUATION,
        caption_prompt=datasets.CAPTION_PROMPT if datasets.USE_CAPTION_PROMPT else None,
        max_tokens=config.MODEL.LANGUAGE_BACKBONE.MAX_QUERY_LEN,
    )
    ids = report.classes.label_to_json
    lines = []
    for number, query in enumerate(queries, start=1):
        which = f" {number} of {len(queries)}" if len(queries) > 1 else ""
        lines.append(f"prompt{which}: {query.caption!r}")
        for label in query.spans:
            lines.append(f"  {_line(label, ids[label], report, query, tokenizer)}")
    return "\n".join(lines)


def _line(label: int, category: int, report: SetReport, query: Query, tokenizer) -> str:
    begin, end = query.spans[label]
    positions = query.label_to_tokens.get(label, [])
    ids = tokenizer(query.caption)["input_ids"]
    tokens = [tokenizer.convert_ids_to_tokens(ids[position]) for position in positions]
    text = (
        f"class {label} (category {category}, {report.classes.names[label]!r}): words "
        f"{query.caption[begin:end]!r}, tokens {_ranges(positions)} {' '.join(tokens)}, "
        f"{report.boxes_of[category]} boxes in {report.images_of[category]} images"
    )
    if not tokens:
        return f"{text}: NO TOKEN, it can never be detected"
    if tokenizer.unk_token in tokens:
        return f"{text}: the text encoder does not know this word"
    return text


def _ranges(positions: Sequence[int]) -> str:
    if not positions:
        return "-"
    first, last = min(positions), max(positions)
    return str(first) if first == last else f"{first}-{last}"
