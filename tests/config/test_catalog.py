"""Dataset and model names, and where their files are looked for."""

import pytest

from maskrcnn_benchmark.config import ConfigError, default_config
from maskrcnn_benchmark.config.dataset_sources import (
    catalogue_of,
    copies_of,
    dataset_names,
    dataset_sources,
)
from maskrcnn_benchmark.config.dataset_types import dataset_class
from maskrcnn_benchmark.config.file_search import expand_braces, find_files, try_to_find
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog, ModelCatalog


@pytest.fixture
def data_root(tmp_path, monkeypatch):
    """An empty working folder and a data root beside it; returns a function that adds files."""
    work, root = tmp_path / "work", tmp_path / "data"
    work.mkdir()
    root.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("DATASET", str(root))

    def add(*names: str, folder=root):
        for name in names:
            path = folder / name
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("", encoding="utf-8")
        return folder

    return add


def register(**entries):
    config = default_config()
    config.merge_from_other_cfg({"DATASETS": {"REGISTER": entries}})
    return config


class TestFileSearch:
    def test_roots_are_searched_in_order(self, data_root, tmp_path):
        data_root("a.json")
        assert try_to_find("a.json") == str(tmp_path / "data" / "a.json")
        data_root("DATASET/a.json", folder=tmp_path / "work")
        assert try_to_find("a.json") == str(tmp_path / "data" / "a.json")
        data_root("a.json", folder=tmp_path / "work")
        assert try_to_find("a.json") == "a.json"

    @pytest.mark.parametrize("folder", ["DATASET", "OUTPUT", "data", "MODEL"])
    def test_usual_folders_are_searched(self, data_root, tmp_path, folder):
        data_root(f"{folder}/x/weights.pth", folder=tmp_path / "work")
        assert try_to_find("x/weights.pth") == f"{folder}/x/weights.pth"
        assert try_to_find("x/weights.pth", return_dir=True) == folder

    @pytest.mark.parametrize(
        "name", ["", "catalog://ImageNetPretrained/MSRA/R-50", "https://host/m.pth", "http://h/m"]
    )
    def test_names_that_are_no_paths_pass(self, name):
        assert try_to_find(name) == name

    def test_an_absolute_path_is_taken_as_it_is(self, data_root, tmp_path):
        data_root("a.json")
        assert try_to_find(str(tmp_path / "data" / "a.json")) == str(tmp_path / "data" / "a.json")

    def test_of_several_names_the_first_that_exists_is_taken(self, data_root, tmp_path):
        data_root("flat/")
        assert try_to_find(("flat/train", "flat")) == str(tmp_path / "data" / "flat")

    def test_a_missing_file_lists_the_places_searched(self, data_root, tmp_path):
        with pytest.raises(FileNotFoundError) as error:
            try_to_find("coco/val2017")
        message = str(error.value)
        assert "coco/val2017 not found" in message
        for place in ("./", str(tmp_path / "data"), "DATASET", "OUTPUT", "data", "MODEL"):
            assert place in message


class TestPackagedDatasets:
    def test_coco(self, data_root, tmp_path):
        data_root("coco/val2017/", "coco/annotations/instances_val2017.json")
        root = tmp_path / "data"
        assert DatasetCatalog.get("coco_2017_val") == {
            "factory": "COCODataset",
            "args": {
                "root": str(root / "coco/val2017"),
                "ann_file": str(root / "coco/annotations/instances_val2017.json"),
            },
        }

    def test_images_and_annotations_may_lie_below_different_roots(self, data_root, tmp_path):
        data_root("coco/val2017/")
        data_root("DATASET/coco/annotations/instances_val2017.json", folder=tmp_path / "work")
        args = DatasetCatalog.get("coco_2017_val")["args"]
        assert args["root"] == str(tmp_path / "data" / "coco/val2017")
        assert args["ann_file"] == "DATASET/coco/annotations/instances_val2017.json"

    @pytest.mark.parametrize(
        ("name", "files", "factory", "arguments"),
        [
            (
                "mixed_train_no_coco",
                [
                    "coco/train2014/",
                    "gqa/images/",
                    "mdetr_annotations/final_mixed_train_no_coco.json",
                ],
                "MixedDataset",
                {"img_folder_coco", "img_folder_vg", "ann_file"},
            ),
            (
                "flickr30k_train",
                [
                    "flickr30k/flickr30k_images/",
                    "mdetr_annotations/final_flickr_separateGT_train.json",
                ],
                "FlickrDataset",
                {"img_folder", "ann_file", "is_train"},
            ),
            (
                "object365_dt_train",
                ["Objects365/objects365_train_vgoiv6.cas2000.yaml"],
                "CocoDetectionTSV",
                {"name", "yaml_file"},
            ),
            (
                "objects365_odtsv_val",
                ["Objects365/val.yaml"],
                "ODTSVDataset",
                {"name", "yaml_file"},
            ),
            (
                "lvis_grounding_train",
                ["coco/annotations/lvis_od_train.json"],
                "CocoGrounding",
                {"img_folder", "ann_file"},
            ),
            (
                "refcoco+_testA",
                ["refcoco/train2014/", "mdetr_annotations/finetune_refcoco+_testA.json"],
                "RefExpDataset",
                {"img_folder", "ann_file"},
            ),
            (
                "refcocog_test",
                ["coco/train2014/", "mdetr_annotations/finetune_refcocog_test_corrected.json"],
                "RefExpDataset",
                {"img_folder", "ann_file"},
            ),
            (
                "bing_caption_7_train_no_coco",
                ["BingData/predict_yaml/dreamstime_com_Detection_Pretrain_NoCOCO_Packed125.7.yaml"],
                "CaptionTSV",
                {"yaml_file"},
            ),
        ],
    )
    def test_factory_and_arguments(self, data_root, name, files, factory, arguments):
        data_root(*files)
        found = DatasetCatalog.get(name)
        assert found["factory"] == factory
        assert set(found["args"]) == arguments

    def test_a_missing_file_names_the_dataset(self, data_root):
        with pytest.raises(FileNotFoundError, match=r"dataset coco_2017_val: coco/val2017"):
            DatasetCatalog.get("coco_2017_val")

    def test_an_unknown_name_gives_the_nearest_ones(self):
        with pytest.raises(ConfigError, match="nearest names: coco_2017_val"):
            DatasetCatalog.get("coco2017_val")

    def test_a_suffix_on_a_packaged_name_is_explained(self):
        with pytest.raises(ConfigError, match="SUFFIX is for registered sets"):
            DatasetCatalog.get("coco_2017_val_grounding")


class TestSetsOfFiles:
    def test_braces_stand_for_ranges_and_alternatives(self):
        assert expand_braces("{08..11}/{a,b}.tar") == [
            f"{number}/{letter}.tar" for number in ("08", "09", "10", "11") for letter in "ab"
        ]

    @pytest.mark.parametrize("pattern", ["web/{0..1}.tar", "web/*.tar", "web", "web/?.tar"])
    def test_every_way_to_name_shards_finds_them_in_order(self, data_root, pattern):
        root = data_root("web/1.tar", "web/0.tar", "web/0.tar.idx")
        assert find_files(pattern) == [str(root / "web/0.tar"), str(root / "web/1.tar")]

    def test_several_patterns_are_joined(self, data_root):
        root = data_root("a/0.tar", "b/0.tar")
        assert find_files(["b/0.tar", "a"]) == [str(root / "b/0.tar"), str(root / "a/0.tar")]
        assert find_files(str(root / "a/*.tar")) == [str(root / "a/0.tar")]

    def test_what_is_missing_is_named(self, data_root):
        data_root("web/0.tar")
        with pytest.raises(FileNotFoundError, match=r"2 of 3 files .*first: web/1\.tar"):
            find_files("web/{0..2}.tar")
        with pytest.raises(FileNotFoundError, match=r"none/\*\.tar names no file; searched in"):
            find_files("none/*.tar")


ENTRY = {"img_dir": "mine", "ann_file": "mine/a.json"}


class TestRegisteredDatasets:
    def test_suffixes_go_to_names_and_entries_alike(self, data_root, tmp_path):
        data_root("mine/a.json")
        config = register(train=ENTRY, val=ENTRY)
        config.merge_from_list(
            [
                *("DATASETS.TRAIN", "('train',)", "DATASETS.TEST", "('val',)"),
                *("DATASETS.TRAIN_DATASETNAME_SUFFIX", "_grounding"),
            ]
        )
        (train,) = dataset_sources(config, is_train=True)
        (test,) = dataset_sources(config, is_train=False)
        assert (train.name, train.factory) == ("train_grounding", "CocoGrounding")
        assert train.args["img_folder"] == str(tmp_path / "data" / "mine")
        assert (test.name, test.factory) == ("val", "COCODataset")
        assert test.args["root"] == str(tmp_path / "data" / "mine")

    def test_nothing_global_is_changed(self):
        before = dict(DatasetCatalog.DATASETS)
        catalogue_of(register(train=ENTRY), is_train=True)
        assert before == DatasetCatalog.DATASETS

    def test_a_registered_entry_hides_a_packaged_one(self):
        config = register(lvis_evaluation_val=ENTRY)
        catalogue = catalogue_of(config, is_train=False)
        assert catalogue["lvis_evaluation_val"]["ann_file"] == "mine/a.json"

    def test_files_of_entries_that_are_not_used_may_be_absent(self, data_root):
        data_root("mine/a.json")
        config = register(val=ENTRY, val_1_3={"img_dir": "no", "ann_file": "no"})
        config.merge_from_list(["DATASETS.TEST", "('val',)"])
        assert [source.name for source in dataset_sources(config, is_train=False)] == ["val"]

    def test_a_type_decides_whatever_the_name_says(self):
        assert dataset_class("my_flickr_cars", {**ENTRY, "type": "CocoGrounding"}) == (
            "CocoGrounding"
        )

    @pytest.mark.parametrize("name", ["my_mixed_cars", "x_dtest", "vocal", "a_caption"])
    def test_a_name_decides_only_where_the_files_fit(self, name):
        assert dataset_class(name, ENTRY) == "COCODataset"

    @pytest.mark.parametrize(
        ("entry", "kind"),
        [
            ({"shards": "web/*.tar"}, "CaptionShards"),
            ({"shards": "web/*.tar", "label_map": "map.json"}, "DetectionShards"),
            ({"img_dir": "mine", "ann_file": "a.jsonl"}, "CaptionJsonLines"),
            ({"img_dir": "mine", "ann_file": "a.jsonl", "label_map": "m"}, "DetectionJsonLines"),
        ],
    )
    def test_files_decide_before_names(self, entry, kind):
        assert dataset_class("my_flickr_mixed_grounding", entry) == kind

    def test_shards_are_found_below_the_data_root(self, data_root):
        root = data_root("web/0.tar", "web/1.tar", "map.json")
        config = register(web={"shards": "web/{0..1}.tar", "label_map": "map.json"})
        config.merge_from_list(["DATASETS.TRAIN", "('web',)"])
        (source,) = dataset_sources(config, is_train=True)
        assert source.factory == "DetectionShards"
        assert source.args == {
            "shards": [str(root / "web/0.tar"), str(root / "web/1.tar")],
            "label_map": str(root / "map.json"),
        }

    def test_an_unknown_type_lists_the_known_ones(self):
        with pytest.raises(ConfigError, match=r"unknown type 'coco'; known are .*COCODataset"):
            dataset_class("train", {**ENTRY, "type": "coco"})

    def test_an_entry_without_annotations_is_refused(self, data_root):
        config = register(train={"img_dir": "mine"})
        config.merge_from_list(["DATASETS.TRAIN", "('train',)"])
        with pytest.raises(ConfigError, match=r"dataset train \(COCODataset\) lacks ann_file"):
            dataset_sources(config, is_train=True)

    def test_an_attribute_that_nothing_reads_is_reported(self, data_root, caplog):
        data_root("mine/a.json")
        config = register(val={**ENTRY, "annfile": "b", "subset": 3})
        config.merge_from_list(["DATASETS.TEST", "('val',)"])
        dataset_sources(config, is_train=False)
        assert "annfile, subset ignored" in caplog.text

    def test_flickr_entries_know_whether_they_train(self, data_root):
        data_root("mine/a.json")
        config = register(my_flickr=ENTRY)
        config.merge_from_list(["DATASETS.TRAIN", "('my_flickr',)"])
        (source,) = dataset_sources(config, is_train=True)
        assert source.args["is_train"] is True


class TestListsOfDatasets:
    def test_caption_shards_are_listed_one_by_one_at_the_end(self):
        config = default_config()
        config.DATASETS.TRAIN = ("bing_caption_train", "flickr30k_train")
        config.DATASETS.BING_INDEX_LIST = [2, 5]
        assert dataset_names(config, is_train=True) == [
            "flickr30k_train",
            "bing_caption_2_train",
            "bing_caption_5_train",
        ]

    def test_groups_are_joined(self):
        config = default_config()
        config.DATASETS.TRAIN = (("a", "b"), ("c",))
        assert dataset_names(config, is_train=True) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("name", "is_train", "copies"),
        [
            ("flickr30k_train", True, 8),
            ("mixed_train_no_coco", True, 4),
            ("object365_dt_train", True, 1),
            ("object365_odinw_2copy_dt_train", True, 2),
            ("coco_grounding_train", True, 1),
        ],
    )
    def test_copies_of_glip_l(self, name, is_train, copies):
        config = default_config()
        config.merge_from_list(
            [
                "DATASETS.FLICKR_COPY",
                "8",
                "DATASETS.MIXED_COPY",
                "4",
                "DATASETS.OBJECT365_COPY",
                "2",
            ]
        )
        assert copies_of(name, config, is_train) == copies

    @pytest.mark.parametrize(
        ("name", "own_key"),
        [
            ("coco_grounding_train", "COCO_COPY"),
            ("coco_dt_train", "COCO_COPY"),
            ("lvis_grounding_train", "LVIS_COPY"),
            ("lvisv1_dt_train", "LVIS_COPY"),
        ],
    )
    @pytest.mark.parametrize(
        ("own", "general", "copies"),
        [(1, -1, 1), (1, 8, 8), (4, -1, 4), (4, 8, 4), (-1, 8, 1)],
    )
    def test_coco_and_lvis_follow_glips_setting_unless_fibers_is_given(
        self, name, own_key, own, general, copies
    ):
        config = default_config()
        config.DATASETS[own_key], config.DATASETS.GENERAL_COPY = own, general
        assert copies_of(name, config, is_train=True) == copies

    def test_other_sets_follow_the_general_copies(self):
        config = default_config()
        config.DATASETS.GENERAL_COPY, config.DATASETS.GENERAL_COPY_TEST = 16, 4
        assert copies_of("train_grounding", config, is_train=True) == 16
        assert copies_of("val", config, is_train=False) == 4
        config.DATASETS.GENERAL_COPY = 0
        with pytest.raises(ConfigError, match="GENERAL_COPY must be at least 1"):
            copies_of("train_grounding", config, is_train=True)


class TestCatalogueFile:
    def test_a_file_of_ones_own_replaces_the_packaged_entries(self, tmp_path):
        file = tmp_path / "catalog.py"
        file.write_text(
            "class DatasetCatalog:\n    DATASETS = {'mine': {'img_dir': 'a', 'ann_file': 'b'}}\n",
            encoding="utf-8",
        )
        config = default_config()
        config.PATHS_CATALOG = str(file)
        assert set(catalogue_of(config, is_train=True)) == {"mine"}

    def test_a_file_that_is_gone_is_the_packaged_one(self, caplog):
        config = default_config()
        config.PATHS_CATALOG = "/elsewhere/paths_catalog.py"
        assert "coco_2017_val" in catalogue_of(config, is_train=True)
        assert "/elsewhere/paths_catalog.py does not exist" in caplog.text

    def test_a_file_without_datasets_is_refused(self, tmp_path):
        file = tmp_path / "catalog.py"
        file.write_text("x = 1\n", encoding="utf-8")
        config = default_config()
        config.PATHS_CATALOG = str(file)
        with pytest.raises(ConfigError, match=r"must define DatasetCatalog\.DATASETS"):
            catalogue_of(config, is_train=True)


class TestModels:
    def test_a_name_gives_an_address(self):
        address = ModelCatalog.get("catalog://ImageNetPretrained/MSRA/R-50")
        assert address.endswith("/ImageNetPretrained/MSRA/R-50.pkl")
        assert ModelCatalog.get("ImageNetPretrained/MSRA/R-50") == address

    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(ConfigError, match="ImageNetPretrained/MSRA/R-101"):
            ModelCatalog.get("catalog://ImageNetPretrained/MSRA/R-18")
