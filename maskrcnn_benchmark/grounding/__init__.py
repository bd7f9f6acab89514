"""What ties words to boxes: prompts and captions, phrase spans, token maps, chunks of classes, noun
phrases.
"""

from maskrcnn_benchmark.grounding.caption_forms import (
    CaptionRequest,
    read_request,
    request_query,
    split_names,
)
from maskrcnn_benchmark.grounding.knowledge import (
    class_sentences,
    knowledge_sources,
    read_knowledge,
)
from maskrcnn_benchmark.grounding.names import clean_name
from maskrcnn_benchmark.grounding.noun_phrases import Span, find_noun_phrases
from maskrcnn_benchmark.grounding.prompts import NamePrompt, join_names, prompts_by_category
from maskrcnn_benchmark.grounding.queries import Query, build_queries, token_count
from maskrcnn_benchmark.grounding.random_source import RandomSource, mix_seed
from maskrcnn_benchmark.grounding.token_alignment import TokenAlignment
from maskrcnn_benchmark.grounding.token_maps import (
    MAX_TOKENS,
    create_greenlight_map,
    create_od_label_map,
    create_positive_map,
    label_to_tokens_from_positive_map,
    label_to_tokens_from_spans,
)
