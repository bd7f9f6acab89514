"""Sentences of classes from what is known about them."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.errors import ConfigError, DataError
from maskrcnn_benchmark.grounding import class_sentences, knowledge_sources, read_knowledge
from maskrcnn_benchmark.grounding.knowledge import SOURCES

FISH = {
    "name": "fish_a",
    "clean_name": "fish",
    "def_wiki": "A cold-blooded animal. ",
    "def_wn": None,
    "path_wn": ["fish", "animal", "entity"],
    "path_wn3": "fish, animal, entity",
    "gpt3": [" It swims.", None, " It has gills.", "", " It is wet."],
}
KNOWN = {"fish_a": FISH}


def say(*sources: str, names=("fish_a",), knowledge=KNOWN, limit: int = 5) -> list[str]:
    return class_sentences(names, knowledge, sources, limit)


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        (("def_wiki",), "fish: A cold-blooded animal."),
        (("path_wn",), "fish: fish animal entity"),
        (("path_wn3",), "fish: fish, animal, entity"),
        (("gpt3",), "fish: It swims. It has gills. It is wet."),
        (
            ("def_wiki", "gpt3"),
            "fish: A cold-blooded animal. It swims. It has gills. It is wet.",
        ),
        (("def_wn",), "fish"),
        (("path_wn10",), "fish"),
        (("def_wn", "path_wn3"), "fish: fish, animal, entity"),
    ],
)
def test_the_sentence_is_the_clean_name_and_what_the_sources_say(sources, sentence):
    assert say(*sources) == [sentence]


def test_lists_are_cut_and_texts_are_not():
    assert say("gpt3", limit=2) == ["fish: It swims. It has gills."]
    assert say("def_wiki", "gpt3", limit=0) == ["fish: A cold-blooded animal."]


def test_a_class_that_is_not_known_is_its_bare_name():
    assert say("def_wiki", names=("sea_star", "fish_a")) == [
        "sea_star",
        "fish: A cold-blooded animal.",
    ]


def test_an_entry_without_clean_name_keeps_the_name_of_the_class():
    assert say("gpt3", knowledge={"fish_a": {"gpt3": ["It swims."]}}) == ["fish_a: It swims."]


field = st.one_of(st.none(), st.text(), st.lists(st.one_of(st.none(), st.text())))
entries = st.fixed_dictionaries(
    {}, optional={"clean_name": st.none() | st.text(), **dict.fromkeys(SOURCES, field)}
)


@given(
    st.dictionaries(st.text(), entries, max_size=4),
    st.lists(st.text(), max_size=4),
    st.lists(st.sampled_from(SOURCES), min_size=1, max_size=2),
    st.integers(0, 6),
)
def test_whatever_is_known_every_class_has_a_sentence_that_begins_with_its_name(
    knowledge, others, sources, limit
):
    names = [*knowledge, *others]

    sentences = class_sentences(names, knowledge, sources, limit)

    assert len(sentences) == len(names)
    for name, sentence in zip(names, sentences):
        clean = knowledge.get(name, {}).get("clean_name") or name
        assert sentence == clean or sentence.startswith(clean + ": ")
        assert name in knowledge or sentence == name


@pytest.mark.parametrize("kind", SOURCES)
def test_a_single_source_is_its_field(kind):
    assert knowledge_sources(kind) == (kind,)


@pytest.mark.parametrize("kind", ["", "gpt3", "gpt3_and_wiki"])
def test_wiki_and_gpt3_is_both_whatever_the_kind(kind):
    assert knowledge_sources(kind, wiki_and_gpt3=True) == ("def_wiki", "gpt3")
    assert knowledge_sources("gpt3_and_wiki") == ("def_wiki", "gpt3")


@pytest.mark.parametrize(("kind", "both"), [("", False), ("wiki", False), ("wiki", True)])
def test_an_unknown_kind_is_refused_with_the_choices(kind, both):
    with pytest.raises(ConfigError, match=r"KNOWLEDGE_TYPE is .* def_wiki, .*, gpt3_and_wiki"):
        knowledge_sources(kind, wiki_and_gpt3=both)


def test_a_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "knowledge.yaml"
    path.write_text(yaml.safe_dump(KNOWN))
    assert read_knowledge(path) == KNOWN


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must map class names to their texts, got None"),
        ("- fish", "must map class names"),
        ("fish: {gpt3: [", "is not valid YAML"),
        ("fish: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("7: {}", "the class name 7 is not a text: write it in quotes"),
        ("fish: wet", "'fish' must be a mapping"),
        ("fish: {clean_name: 7}", "'fish': 'clean_name' must be a text, got 7"),
        ("fish: {gpt3: [wet, 7]}", "'fish': 'gpt3' must be a text or a list of texts"),
        ("fish: {def_wiki: {a: b}}", "'fish': 'def_wiki' must be a text"),
    ],
)
def test_a_malformed_file_is_an_error_that_names_file_and_key(tmp_path, content, message):
    path = tmp_path / "knowledge.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_knowledge(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named_with_its_setting(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"GLIPKNOW.KNOWLEDGE_FILE names .*none.yaml"):
        read_knowledge(tmp_path / "none.yaml")
