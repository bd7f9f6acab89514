"""How class names become caption text."""

import json

import pytest

from maskrcnn_benchmark.errors import ConfigError
from maskrcnn_benchmark.grounding import NamePrompt, clean_name, join_names, prompts_by_category


def test_cleaned_names_equal_the_recorded_ones(golden_dir):
    recorded = json.loads((golden_dir / "glip/units/clean_name.json").read_text())

    assert {name: clean_name(name) for name in recorded} == recorded


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("a (b) c (d)", "a "),
        ("__background__", " background "),
        ("  ", " "),
        ("traffic_light (x)", "traffic light "),
        ("Big Ben", "Big Ben"),
    ],
)
def test_brackets_underscores_and_pairs_of_blanks_are_cleaned_and_nothing_else(name, cleaned):
    assert clean_name(name) == cleaned


def test_every_span_is_the_cleaned_name_and_separators_stand_between_names():
    caption, spans = join_names(["person", "hot_dog", "bat_(animal)"], ". ")

    assert caption == "person. hot dog. bat "
    assert [caption[begin:end] for begin, end in spans] == ["person", "hot dog", "bat "]


def test_prefix_and_suffix_of_a_prompt_lie_outside_the_span():
    prompts = [NamePrompt("x ", "A_1", " y"), NamePrompt("", "B", ""), NamePrompt("", "C", "!")]

    caption, spans = join_names(["a", "b", "c"], ". ", prompts=prompts)

    assert caption == "x A 1 y. B. C!"
    assert spans == [(2, 5), (9, 10), (12, 13)]


def test_prompts_belong_to_categories_in_the_order_of_their_ids():
    prompts = prompts_by_category([{"name": "two"}, {"name": "seven", "suffix": "!"}], [7, 2])

    assert prompts == {2: NamePrompt("", "two", ""), 7: NamePrompt("", "seven", "!")}


def test_prompts_can_be_read_from_a_yaml_file(tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text("- {prefix: 'some ', name: dogs, suffix: ''}\n")

    assert prompts_by_category(str(file), [3]) == {3: NamePrompt("some ", "dogs", "")}


def test_a_missing_prompt_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        prompts_by_category(str(tmp_path / "nowhere.yaml"), [1])


def test_another_number_of_prompts_than_classes_is_refused():
    with pytest.raises(ValueError, match="1 entries for 2 classes"):
        prompts_by_category([{"name": "dog"}], [1, 2])


def test_a_malformed_prompt_is_named_by_its_number():
    with pytest.raises(ValueError, match="entry 1"):
        prompts_by_category([{"name": "dog"}, {"nam": "cat"}], [1, 2])


def test_a_prompt_file_that_is_no_yaml_is_a_mistaken_setting(tmp_path):
    file = tmp_path / "prompts.yaml"
    file.write_text("- name: [")
    with pytest.raises(ConfigError, match=r"prompts\.yaml is not valid YAML"):
        prompts_by_category(str(file), [1])
