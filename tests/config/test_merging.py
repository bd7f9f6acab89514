"""Merging files and KEY VALUE pairs into the tree."""

import pytest

from maskrcnn_benchmark.config import CfgNode, ConfigError, default_config


@pytest.fixture
def config() -> CfgNode:
    return default_config()


@pytest.fixture
def write_file(tmp_path):
    def write(text: str, name: str = "task.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_later_sources_win(config, write_file):
    config.merge_from_file(write_file("SOLVER: {BASE_LR: 0.1, MAX_EPOCH: 5, GAMMA: 0.5}", "a.yaml"))
    config.merge_from_file(write_file("SOLVER: {BASE_LR: 0.2, MAX_EPOCH: 6}", "b.yaml"))
    config.merge_from_list(["SOLVER.BASE_LR", "0.3"])
    assert (config.SOLVER.BASE_LR, config.SOLVER.MAX_EPOCH, config.SOLVER.GAMMA) == (0.3, 6, 0.5)


@pytest.mark.parametrize(
    ("key", "word", "value"),
    [
        ("SOLVER.STEPS", "(0.67,0.89)", (0.67, 0.89)),
        ("SOLVER.STEPS", "[1, 2]", (1, 2)),
        ("DATASETS.TRAIN_DATASETNAME_SUFFIX", "_grounding", "_grounding"),
        ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "full", "full"),
        ("SOLVER.TUNING_HIGHLEVEL_OVERRIDE", "None", None),
        ("DATASETS.TEST", '("coco_2017_val",)', ("coco_2017_val",)),
        ("DATASETS.SEPARATION_TOKENS", ". ", ". "),
        ("DATASETS.SEPARATION_TOKENS", "...", "..."),
        ("OUTPUT_DIR", "'10'", "10"),
        ("SOLVER.BASE_LR", "1e-4", 1e-4),
        ("DATASETS.CAPTION_PROMPT", "prompts.yaml", "prompts.yaml"),
        (
            "DATASETS.CAPTION_PROMPT",
            "[{'prefix': ' ', 'name': 'fish', 'suffix': ''},]",
            [{"prefix": " ", "name": "fish", "suffix": ""}],
        ),
    ],
)
def test_words_are_python_literals_or_texts(config, key, word, value):
    config.merge_from_list([key, word])
    assert config.leaves()[key] == value


def test_an_integer_serves_where_a_float_is_expected(config):
    config.merge_from_list(["SOLVER.BASE_LR", "1", "SOLVER.MODEL_EMA", "0"])
    assert config.SOLVER.BASE_LR == 1.0
    assert isinstance(config.SOLVER.BASE_LR, float)
    assert isinstance(config.SOLVER.MODEL_EMA, float)


@pytest.mark.parametrize(
    ("key", "word", "expected", "got"),
    [
        ("SOLVER.BIAS_LR_FACTOR", "1.0", "an int (such as 2)", "a float: 1.0"),
        ("SOLVER.USE_AMP", "1", "a bool (such as False)", "an int: 1; write True or False"),
        ("SOLVER.BASE_LR", "True", "a float", "a bool: True"),
        (
            "DATASETS.TRAIN",
            "('a')",
            "a tuple",
            "a str: 'a'; a tuple of one entry is written ('a',)",
        ),
        ("OUTPUT_DIR", "10", "a str (such as 'OUTPUT')", "an int: 10; to keep it a text, quote"),
        ("SOLVER.MAX_ITER", "many", "an int", "a str: 'many'"),
    ],
)
def test_a_value_of_another_type_says_what_was_expected_and_what_came(
    config, key, word, expected, got
):
    with pytest.raises(ConfigError) as error:
        config.merge_from_list([key, word])
    message = str(error.value)
    assert f"the command line: {key} expected {expected}" in message
    assert f"got {got}" in message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("solver.base_lr", "SOLVER.BASE_LR"),
        ("DATASET.CAPTION_PROMPT", "DATASETS.CAPTION_PROMPT"),
        ("MODELS.ATSS.NUM_CLASSES", "MODEL.ATSS.NUM_CLASSES"),
        ("MODEL.USE_DYFUSE", "MODEL.DYHEAD.USE_DYFUSE"),
        ("EVAL_TASK", "TEST.EVAL_TASK"),
        ("SOLVR", "SOLVER"),
    ],
)
def test_an_unknown_key_names_the_nearest_valid_one(config, key, nearest):
    with pytest.raises(ConfigError) as error:
        config.merge_from_list([key, "1"])
    message = str(error.value)
    assert f"unknown key {key}; nearest valid keys: " in message
    assert nearest in message.partition("nearest valid keys: ")[2].split(", ")


def test_errors_in_a_file_name_the_file_and_the_whole_key(config, write_file):
    path = write_file("MODEL:\n  DYHEAD:\n    USE_DYFUS: True\n")
    with pytest.raises(ConfigError, match="USE_DYFUSE") as error:
        config.merge_from_file(path)
    assert str(error.value).startswith(f"{path}: unknown key MODEL.DYHEAD.USE_DYFUS")
    path = write_file("SOLVER:\n  MAX_ITER: soon\n")
    with pytest.raises(ConfigError) as error:
        config.merge_from_file(path)
    assert str(error.value).startswith(f"{path}: SOLVER.MAX_ITER expected an int")


def test_a_file_with_an_error_changes_nothing(config, write_file):
    path = write_file("SOLVER: {BASE_LR: 0.5, NO_SUCH_KEY: 1}")
    with pytest.raises(ConfigError):
        config.merge_from_file(path)
    assert config == default_config()


def test_parts_of_the_tree_stay_the_same_objects(config):
    solver = config.SOLVER
    config.merge_from_list(["SOLVER.BASE_LR", "0.5"])
    config.merge_from_other_cfg({"SOLVER": {"GAMMA": 0.5}})
    assert (solver.BASE_LR, solver.GAMMA) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n- b\n", "must hold a mapping"),
        ("MODEL: {", "is not valid YAML"),
        ("SOLVER: 3", "SOLVER is a section of settings"),
        ("SOLVER: {BASE_LR: {x: 1}}", "cannot hold a dict"),
    ],
)
def test_a_file_of_another_form_is_refused(config, write_file, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        config.merge_from_file(write_file(text))


def test_a_binary_file_is_refused(config, tmp_path):
    weights = tmp_path / "model.pth"
    weights.write_bytes(b"\x80\x02\xff\xfe")
    with pytest.raises(ConfigError, match="not a text file"):
        config.merge_from_file(weights)


def test_a_missing_file_is_named(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.yaml"):
        config.merge_from_file(tmp_path / "gone.yaml")


def test_an_empty_file_or_section_changes_nothing(config, write_file):
    config.merge_from_file(write_file(""))
    config.merge_from_file(write_file("SOLVER:\n"))
    assert config == default_config()


def test_a_key_without_a_value_is_refused(config):
    with pytest.raises(ConfigError, match="pairs KEY VALUE, but 3 words"):
        config.merge_from_list(["SOLVER.BASE_LR", "0.1", "OUTPUT_DIR"])


def test_a_frozen_tree_is_not_merged_into(config):
    config.freeze()
    with pytest.raises(AttributeError, match="frozen"):
        config.merge_from_list(["SOLVER.BASE_LR", "0.1"])
    with pytest.raises(AttributeError, match="frozen"):
        config.merge_from_other_cfg({"SOLVER": {"BASE_LR": 0.1}})
    clone = config.clone()
    clone.defrost()
    clone.merge_from_list(["SOLVER.BASE_LR", "0.1"])
    assert config.SOLVER.BASE_LR == 0.001


class TestRegisteredDatasets:
    entry = "DATASETS: {REGISTER: {mine: {img_dir: a, ann_file: b}}}"

    def test_a_file_may_add_entries(self, config, write_file):
        config.merge_from_file(write_file(self.entry))
        assert config.DATASETS.REGISTER.mine == {"img_dir": "a", "ann_file": "b"}

    def test_an_entry_may_be_changed_but_takes_no_further_keys(self, config, write_file):
        config.merge_from_file(write_file(self.entry))
        config.merge_from_list(["DATASETS.REGISTER.mine.ann_file", "c"])
        assert config.DATASETS.REGISTER.mine.ann_file == "c"
        with pytest.raises(ConfigError, match=r"unknown key DATASETS\.REGISTER\.mine\.annfile"):
            config.merge_from_file(write_file("DATASETS: {REGISTER: {mine: {annfile: c}}}"))

    def test_the_command_line_adds_none(self, config):
        with pytest.raises(ConfigError, match=r"unknown key DATASETS\.REGISTER\.a\.ann_file"):
            config.merge_from_list(["DATASETS.REGISTER.a.ann_file", "b"])

    def test_entries_survive_dump_and_freeze(self, config, write_file):
        config.merge_from_file(write_file(self.entry))
        again = default_config()
        again.merge_from_file(write_file(config.dump(), "config.yml"))
        again.freeze()
        assert again.DATASETS.REGISTER.mine.img_dir == "a"
        with pytest.raises(AttributeError):
            again.DATASETS.REGISTER.mine.img_dir = "c"
