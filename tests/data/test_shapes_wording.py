"""Other words for the shapes world: what is said changes, what is shown does not."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.data.shapes import (
    COLOURS,
    SHAPES,
    SplitPlan,
    Wording,
    all_kinds,
    read_with_one_attribute,
    write_split,
)
from maskrcnn_benchmark.data.shapes.attributes import PLURALS, SIZES, TEXTURES
from maskrcnn_benchmark.data.shapes.captions import (
    Description,
    caption_of_scene,
    relational_scene,
)
from maskrcnn_benchmark.data.shapes.scene import random_scene

REPOSITORY = Path(__file__).resolve().parents[2]
SAY = {"red": "scarlet", "diamond": "rhombus", "circle": "disc", "small": "umber"}
NUMBERS = {"two": 2, "three": 3, "four": 4}


def words_of(plan: SplitPlan, folder: Path) -> dict:
    return json.loads(write_split(plan, folder, 1).read_text())


def back(phrase: str) -> str:
    """A phrase in the words of the world."""
    own = {new: old for old, new in SAY.items()} | {"rhombuses": "diamonds", "discs": "circles"}
    return " ".join(own.get(word, word) for word in phrase.split())


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "an umber scarlet rhombus"), (3, "three umber scarlet rhombuses")],
)
def test_a_phrase_says_the_new_words_with_the_right_article_and_plural(number, words):
    description = Description("diamond", "red", "plain", "small")
    assert description.words(number, wording=Wording(SAY)) == words


@pytest.mark.parametrize(
    ("noun", "plural"),
    [("rhombus", "rhombuses"), ("disc", "discs"), ("box", "boxes"), ("lady", "ladies")],
)
def test_plurals_of_new_words_follow_their_ending(noun, plural):
    assert Wording({"star": noun}).plural("star") == plural
    assert Wording({"star": noun}).plural("cross") == "crosses"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    new=st.sets(st.sampled_from((*SHAPES, *COLOURS, *TEXTURES, *SIZES)), max_size=8),
    letters=st.lists(st.text("bdgouxyz", min_size=5, max_size=9), min_size=8, max_size=8),
    relational=st.booleans(),
)
def test_spans_hold_their_phrase_whatever_is_said(seed, new, letters, relational):
    # No word of the world has a q; the last letter keeps the new ones apart.
    said = {
        old: f"{word}q{'abcdefgh'[i]}" for i, (old, word) in enumerate(zip(sorted(new), letters))
    }
    wording = Wording(said)

    def sentence(spoken):
        rng = np.random.default_rng(seed)
        kinds = all_kinds(held_out=False)
        if not relational:
            return caption_of_scene(rng, random_scene(rng, kinds, 6), spoken)
        found = relational_scene(rng, kinds, 2, spoken)
        return found and found.caption

    own, other = sentence(Wording()), sentence(wording)
    if own is None:
        assert other is None
        return
    assert [members for _, members in other.phrases] == [members for _, members in own.phrases]
    for (own_span, members), (span, _) in zip(own.phrases, other.phrases, strict=True):
        own_words = own.text[slice(*own_span)].split()
        words = other.text[slice(*span)].split()
        plurals = {PLURALS[shape]: wording.plural(shape) for shape in SHAPES}
        expected = [plurals.get(w, wording.word(w)) for w in own_words[1:]]
        assert words[1:] == expected
        assert wording.says_new(" ".join(words)) == (own_words[1:] != expected)
        if len(members) == 1:
            assert words[0] == ("an" if words[1][0] in "aeiou" else "a")
        else:
            assert NUMBERS[words[0]] == len(members)


@pytest.mark.parametrize("form", ["detection", "sized", "grounding", "expression"])
def test_the_pictures_and_boxes_stay_the_same(tmp_path, form):
    plan = SplitPlan("same", 4, held_out=False, format=form, seed=5)
    own = words_of(plan, tmp_path / "own")
    said = words_of(replace(plan, say=SAY), tmp_path / "said")
    assert [a["bbox"] for a in own["annotations"]] == [a["bbox"] for a in said["annotations"]]
    for picture in (tmp_path / "own" / "same").iterdir():
        assert picture.read_bytes() == (tmp_path / "said" / "same" / picture.name).read_bytes()
    for mine, other in zip(own["images"], said["images"], strict=True):
        assert back(other.get("caption", "")).replace("an ", "a ") == mine.get(
            "caption", ""
        ).replace("an ", "a ")


@pytest.mark.parametrize("form", ["detection", "sized"])
def test_names_of_classes_and_their_attributes_change_together(tmp_path, form):
    plan = SplitPlan("names", 4, held_out=True, format=form)
    own = words_of(plan, tmp_path / "own")
    said = words_of(replace(plan, say=SAY), tmp_path / "said")
    for mine, other in zip(own["categories"], said["categories"], strict=True):
        assert back(other["name"]) == mine["name"]
        assert {k: back(v) for k, v in other["attributes"].items()} == mine["attributes"]
        assert set(other["attributes"].values()) <= set(other["name"].split())
        assert other["id"] == mine["id"]
    first = read_with_one_attribute(own, "colour")
    assert read_with_one_attribute(said, "colour") == first


def test_class_names_alone_with_a_new_word_leave_every_picture(tmp_path):
    plan = SplitPlan("only", 6, held_out=False, format="detection", say={"red": "scarlet"})
    whole = words_of(plan, tmp_path / "whole")
    only = words_of(replace(plan, only_said=True), tmp_path / "only")
    assert only["images"] == whole["images"]
    assert {c["attributes"]["colour"] for c in only["categories"]} == {"scarlet"}
    assert len(only["categories"]) == 18  # six shapes wear it in training, in three textures
    name_of = {c["id"]: c["name"] for c in whole["categories"]}
    scarlet = [a["bbox"] for a in whole["annotations"] if "scarlet" in name_of[a["category_id"]]]
    assert scarlet
    assert [a["bbox"] for a in only["annotations"]] == scarlet


@pytest.mark.parametrize("form", ["grounding", "expression"])
def test_phrases_alone_with_a_new_word_are_asked_for(tmp_path, form):
    plan = SplitPlan("asked", 12, held_out=False, format=form, say={"red": "scarlet"})
    whole = words_of(plan, tmp_path / "whole")
    only = words_of(replace(plan, only_said=True), tmp_path / "only")
    captions = [image["caption"] for image in only["images"]]
    assert captions == [i["caption"] for i in whole["images"] if "scarlet" in i["caption"]]
    assert captions
    caption_of = {image["id"]: image["caption"] for image in only["images"]}
    for annotation in only["annotations"]:
        ((begin, end),) = annotation["tokens_positive"]
        assert "scarlet" in caption_of[annotation["image_id"]][begin:end]
    if form == "grounding":
        asked = {
            (image["id"], number)
            for image in only["images"]
            for number, _ in enumerate(image["tokens_positive_eval"])
        }
        assert {(a["image_id"], a["phrase"]) for a in only["annotations"]} == asked


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["crimson=scarlet"], "called 'crimson'"),
        (["red=blue"], "'blue', to be said for 'red', already means something else"),
        (["red=stars"], "'stars', to be said for 'red', already means"),
        (["red=left"], "'left', to be said for 'red', already means"),
        (["red=red"], "'red', to be said for 'red', already means"),
        (["red=scarlet", "orange=scarlet"], "'scarlet', to be said for 'red', already means"),
        (["circle=disc", "ring=discs"], "'discs', to be said for 'circle', already means"),
        (["red=scarlet", "red=crimson"], "two words are given for 'red': 'scarlet' and 'crimson'"),
        (["red=Dark red"], "'Dark red', to be said for 'red', is no word"),
        (["red="], "'', to be said for 'red', is no word"),
        (["scarlet"], "'scarlet' is no pair of words"),
    ],
)
def test_words_that_would_be_unclear_are_refused(pairs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Wording.parse(pairs)


def test_a_plan_refuses_unclear_words_and_new_words_only_without_any():
    with pytest.raises(ValueError, match="already means"):
        SplitPlan("x", 4, held_out=False, format="detection", say={"red": "blue"})
    with pytest.raises(ValueError, match=r"split 'x' .* none are given"):
        SplitPlan("x", 4, held_out=False, format="detection", only_said=True)


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(
        "make_shapes", REPOSITORY / "tools" / "make_shapes.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(tool, monkeypatch, capsys, folder, *options):
    command = ["make_shapes.py", "--output", str(folder), "--scale", "0.01", "--workers", "1"]
    monkeypatch.setattr("sys.argv", [*command, "--only", "grounding_unseen", *options])
    tool.main()
    return capsys.readouterr().out


def test_the_tool_writes_a_split_again_when_other_words_are_asked_for(
    tool, monkeypatch, capsys, tmp_path
):
    path = tmp_path / "grounding_unseen.json"
    make(tool, monkeypatch, capsys, tmp_path)
    plan = json.loads(path.read_text())["info"]["plan"]
    # As annotation files were before there were other words.
    assert set(plan) == {"name", "num_images", "held_out", "format", "relational", "seed"}
    assert "already there" in make(tool, monkeypatch, capsys, tmp_path)

    say = ("--say", "red=scarlet", "heart=core")
    assert "already there" not in make(tool, monkeypatch, capsys, tmp_path, *say)
    text = " ".join(image["caption"] for image in json.loads(path.read_text())["images"])
    assert "heart" not in text
    assert "already there" in make(tool, monkeypatch, capsys, tmp_path, *say)
    assert "already there" not in make(tool, monkeypatch, capsys, tmp_path, *say, "--only-said")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--say", "red=blue"], "--say: 'blue', to be said for 'red'"),
        (["--only-said"], "--only-said needs the words of --say"),
    ],
)
def test_the_tool_says_what_is_wrong_with_the_words(
    tool, monkeypatch, capsys, tmp_path, options, message
):
    with pytest.raises(SystemExit) as stopped:
        make(tool, monkeypatch, capsys, tmp_path, *options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
