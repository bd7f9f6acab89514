"""Detection classes recast as captions: recorded captions draw by draw, and the rules."""

import json
import logging

import pytest

from maskrcnn_benchmark.grounding import NamePrompt, RandomSource
from maskrcnn_benchmark.grounding.od_to_grounding import (
    NameLengths,
    NegativeSampling,
    all_classes_caption,
    check_caption_fits,
    check_control_probabilities,
    full_caption,
    restrict_to_budget,
    without_background,
)


@pytest.fixture(scope="module")
def recorded(golden_dir):
    return json.loads((golden_dir / "glip/units/od_to_grounding.json").read_text())


@pytest.fixture(scope="module")
def class_tables(recorded):
    return {
        table: {int(label): name for label, name in names.items()}
        for table, names in recorded["class_maps"].items()
    }


@pytest.fixture(scope="module")
def lengths(bert_tokenizer):
    return NameLengths(bert_tokenizer)


def test_sampled_captions_equal_the_recorded_ones_draw_by_draw(recorded, class_tables, lengths):
    for case in recorded["sampled"]:
        rng = RandomSource(case["seed"])
        caption = full_caption(
            case["labels"],
            class_tables[case["classes"]],
            lengths,
            sampling=NegativeSampling(
                case["random_sample_negative"],
                tuple(case["control_probabilities"][:3]),
                case["max_num_labels"],
            ),
            separation_tokens=case["separation_tokens"],
            max_tokens=case["max_seq_length"],
            used_tokens=case["positive_caption_length"],
            add_detection_prompt=case["add_detection_prompt"],
            rng=rng,
        )
        assert caption.caption == case["caption"]
        spans = {str(label): list(span) for label, span in caption.label_to_span.items()}
        assert spans == case["label_to_positions"]
        assert [[spans[str(label)]] for label in case["labels"]] == case["tokens_positive"]
        assert [rng.python.random(), rng.numpy.rand()] == case["after"]


def test_overflowing_positives_equal_the_recorded_ones(recorded, class_tables, lengths):
    for case in recorded["overflow"]:
        kept, used = restrict_to_budget(
            case["labels"], class_tables["big"], lengths, 254, RandomSource(case["seed"])
        )
        assert [label for label in case["labels"] if label in kept] == case["kept_labels"]
        assert used == case["length"]


def test_simple_captions_equal_the_recorded_ones(recorded, class_tables):
    names = without_background(class_tables["small"])
    for case in recorded["simple"]:
        caption = all_classes_caption(
            names,
            separation_tokens=case["separation_tokens"],
            add_detection_prompt=case["add_detection_prompt"],
            shuffle=not case["disable_shuffle"],
            rng=RandomSource(case["seed"]),
        )
        assert caption.caption == case["caption"]


def test_simple_captions_with_prompts_equal_the_recorded_ones(recorded, class_tables):
    case = recorded["simple_with_prompt"]
    names = without_background(class_tables["small"])
    prompts = {label: NamePrompt(**entry) for label, entry in zip(sorted(names), case["prompt"])}

    caption = all_classes_caption(names, separation_tokens=". ", prompts=prompts)

    assert caption.caption == case["caption"]


def test_disabled_shuffle_drops_the_background_only(recorded, class_tables):
    case = recorded["shuffle_disabled"]

    caption = all_classes_caption(without_background(class_tables["small"]), separation_tokens=". ")

    assert caption.caption == case["caption"]
    assert 1 in all_classes_caption({1: "dog", 2: "cat"}, separation_tokens=". ").label_to_span


def test_a_blank_class_takes_up_its_place_in_the_caption():
    names = without_background({0: "__background__", 1: "  ", 2: "dog", 3: "traffic_light (x)"})

    caption = all_classes_caption(names, separation_tokens=". ")

    assert caption.caption == " . dog. traffic light "
    assert caption.label_to_span == {1: (0, 1), 2: (3, 6), 3: (8, 22)}


def test_shuffled_prompts_are_refused():
    with pytest.raises(ValueError, match="DISABLE_SHUFFLE"):
        all_classes_caption(
            {1: "dog"}, separation_tokens=". ", prompts={1: NamePrompt("", "dog", "")}, shuffle=True
        )


def test_a_class_list_that_does_not_fit_names_the_first_class_lost(bert_tokenizer):
    names = {1: "dog", 2: "cat", 3: "horse", 4: "cow"}
    caption = all_classes_caption(names, separation_tokens=". ")

    check_caption_fits(caption, names, bert_tokenizer, 9, "my set")
    with pytest.raises(ValueError, match=r"my set: .* class 4 \('cow'\)"):
        check_caption_fits(caption, names, bert_tokenizer, 8, "my set")


class TestControlProbabilities:
    def test_four_probabilities_are_taken(self):
        assert check_control_probabilities((0.1, 0.2, 0.5, 0.0)) == (0.1, 0.2, 0.5)

    def test_a_fourth_entry_is_reported_and_ignored(self, caplog):
        with caplog.at_level(logging.WARNING):
            assert check_control_probabilities((0.05, 0.05, 0.5, 0.2)) == (0.05, 0.05, 0.5)
        assert "fourth entry" in caplog.text

    @pytest.mark.parametrize("values", [(), (0.5, 0.5), (0.9, 0.9, 0.0, 0.0), (-0.1, 0, 0, 0)])
    def test_anything_else_is_refused(self, values):
        with pytest.raises(ValueError, match="CONTROL_PROB"):
            check_control_probabilities(values)
