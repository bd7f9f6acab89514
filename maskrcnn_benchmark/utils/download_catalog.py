"""Where published data and weights are, and where this project looks for them."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from maskrcnn_benchmark.utils.download import HUB

_GLIP = f"{HUB}/GLIPModel/GLIP/resolve/main"
_DESCO = f"{HUB}/harold/DesCo/resolve/main"
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
_COCO = "http://images.cocodataset.org"
_ENTITIES = "https://github.com/BryanPlummer/flickr30k_entities/raw/master"

ODINW = [
    "AerialMaritimeDrone",
    "AmericanSignLanguageLetters",
    "Aquarium",
    "BCCD",
    "ChessPieces",
    "CottontailRabbits",
    "DroneControl",
    "EgoHands",
    "HardHatWorkers",
    "MaskWearing",
    "MountainDewCommercial",
    "NorthAmericaMushrooms",
    "OxfordPets",
    "PKLot",
    "Packages",
    "PascalVOC",
    "Raccoon",
    "ShellfishOpenImages",
    "ThermalCheetah",
    "UnoCards",
    "VehiclesOpenImages",
    "WildfireSmoke",
    "boggleBoards",
    "brackishUnderwater",
    "dice",
    "openPoetryVision",
    "pistols",
    "plantdoc",
    "pothole",
    "selfdrivingCar",
    "thermalDogsAndPeople",
    "vector",
    "websiteScreenshots",
]


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        url: where it is.
        path: where it goes, relative to the root (DATASET or MODEL).
        unpack_to: folder, relative to the root, that its content goes to; None: it is no archive.
        sha256: where it is known.
    """

    url: str
    path: str
    unpack_to: str | None = None
    sha256: str | None = None


Catalog = dict[str, tuple[RemoteFile, ...]]


def odinw_archive(name: str, folder: str = "odinw", root: str = f"{_GLIP}/odinw_35") -> RemoteFile:
    """The archive of one ODinW set; its content lies in a folder of that name."""
    path = str(PurePosixPath(folder, f"{name}.zip"))
    return RemoteFile(f"{root}/{name}.zip", path, unpack_to=folder)


def _mdetr(*names: str) -> tuple[RemoteFile, ...]:
    folder = "mdetr_annotations"
    return tuple(RemoteFile(f"{_GLIP}/{folder}/{n}.json", f"{folder}/{n}.json") for n in names)


def _coco(*archives: str) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(f"{_COCO}/{archive}", f"coco/{archive.rpartition('/')[2]}", unpack_to="coco")
        for archive in archives
    )


def _refcoco(name: str, *splits: str) -> tuple[RemoteFile, ...]:
    return _mdetr(*(f"finetune_{name}_{split}" for split in splits))


DATA: Catalog = {
    "coco2017_train": _coco("zips/train2017.zip"),
    "coco2017_val": _coco("zips/val2017.zip"),
    "coco2017_test": _coco("zips/test2017.zip", "annotations/image_info_test2017.zip"),
    "coco2017_annotations": _coco("annotations/annotations_trainval2017.zip"),
    "coco2014_train": _coco("zips/train2014.zip"),
    "lvis_minival": (
        RemoteFile(
            f"{_GLIP}/lvis_v1_minival_inserted_image_name.json",
            "coco/annotations/lvis_v1_minival_inserted_image_name.json",
        ),
    ),
    "lvis_val": (RemoteFile(f"{_GLIP}/lvis_od_val.json", "coco/annotations/lvis_od_val.json"),),
    "mixed_no_coco": _mdetr("final_mixed_train_no_coco"),
    "mixed": _mdetr("final_mixed_train"),
    "flickr30k_annotations": _mdetr(
        *(f"final_flickr_separateGT_{split}" for split in ("train", "val", "test"))
    ),
    "flickr30k_entities": (
        RemoteFile(
            f"{_ENTITIES}/annotations.zip",
            "flickr30k/flickr30k/annotations.zip",
            unpack_to="flickr30k/flickr30k",
        ),
        *(
            RemoteFile(f"{_ENTITIES}/{split}.txt", f"flickr30k/flickr30k/{split}.txt")
            for split in ("train", "val", "test")
        ),
    ),
    "gqa_images": (
        RemoteFile(
            "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
            "gqa/images.zip",
            unpack_to="gqa",
        ),
    ),
    "gqa_annotations": _mdetr("final_gqa_val"),
    "phrasecut": _mdetr("finetune_phrasecut_train"),
    "refexp": _mdetr("final_refexp_val"),
    "refcoco": _refcoco("refcoco", "train", "val", "testA", "testB"),
    "refcoco+": _refcoco("refcoco+", "train", "val", "testA", "testB"),
    "refcocog": _refcoco("refcocog", "train", "val", "test"),
    **{f"odinw/{name}": (odinw_archive(name),) for name in ODINW},
}

DATA_GROUPS: dict[str, tuple[str, ...]] = {
    "odinw": tuple(f"odinw/{name}" for name in ODINW),
    "odinw_13": tuple(
        f"odinw/{name}"
        for name in [
            "AerialMaritimeDrone",
            "Aquarium",
            "CottontailRabbits",
            "EgoHands",
            "NorthAmericaMushrooms",
            "Packages",
            "PascalVOC",
            "Raccoon",
            "ShellfishOpenImages",
            "VehiclesOpenImages",
            "pistols",
            "pothole",
            "thermalDogsAndPeople",
        ]
    ),
    "coco2017": ("coco2017_train", "coco2017_val", "coco2017_annotations"),
    "lvis": ("lvis_minival", "lvis_val"),
    "goldg": (
        "mixed_no_coco",
        "flickr30k_annotations",
        "flickr30k_entities",
        "coco2014_train",
        "gqa_images",
    ),
}

BY_HAND: dict[str, str] = {
    "flickr30k_images": (
        "the pictures are given on request by their authors "
        "(https://shannon.cs.illinois.edu/DenotationGraph/); put them into "
        "flickr30k/flickr30k_images"
    ),
    "objects365": (
        "version 1 is handed out by OpenDataLab (https://opendatalab.com/OpenDataLab/"
        "Objects365_v1) after a login; tools/convert_dataset.py turns its COCO JSON into TSV"
    ),
}


def _weights(root: str, *names: str, **checksums: str) -> Catalog:
    known = {name: checksums.get(name.partition(".")[0]) for name in names}
    return {
        name.partition(".")[0]: (RemoteFile(f"{root}/{name}", name, sha256=known[name]),)
        for name in names
    }


def _hub_model(name: str, *files: str) -> tuple[RemoteFile, ...]:
    short = name.rpartition("/")[2]
    return tuple(RemoteFile(f"{HUB}/{name}/resolve/main/{f}", f"{short}/{f}") for f in files)


_TOKENIZER = ("config.json", "tokenizer.json", "tokenizer_config.json")

WEIGHTS: Catalog = {
    **_weights(
        _GLIP,
        "glip_a_tiny_o365.pth",
        "glip_a_tiny_o365_knowledge.pth",
        "glip_tiny_model_o365.pth",
        "glip_tiny_model_o365_goldg.pth",
        "glip_tiny_model_o365_goldg_cc_sbu.pth",
        "glip_tiny_model_o365_goldg_cc_sbu_lvisbest.pth",
        "glip_large_model.pth",
        "glip_large_model_lvisbest.pth",
        glip_tiny_model_o365_goldg=(
            "4274770c817b966621097df306c5ae857a2bdf3dfc242afc402382d9604382d3"
        ),
        glip_tiny_model_o365_goldg_cc_sbu=(
            "3bec0a3dea804fcb278d7106c5438de5116ee888e49dfae46270e7ad7bc4ccbf"
        ),
        glip_tiny_model_o365_goldg_cc_sbu_lvisbest=(
            "246ea2b91b9b3e20c1478a6cc6e0831ae1c4f75502cf885225a99caa2e8b996a"
        ),
    ),
    **_weights(_DESCO, "desco_glip_tiny.pth", "desco_fiber_base.pth"),
    **_weights(
        _SWIN,
        "swin_tiny_patch4_window7_224.pth",
        "swin_base_patch4_window12_384_22k.pth",
        "swin_large_patch4_window12_384_22k.pth",
    ),
    "bert-base-uncased": _hub_model(
        "google-bert/bert-base-uncased", *_TOKENIZER, "vocab.txt", "model.safetensors"
    ),
    "roberta-base": _hub_model(
        "FacebookAI/roberta-base", *_TOKENIZER, "vocab.json", "merges.txt", "model.safetensors"
    ),
}

WEIGHT_GROUPS: dict[str, tuple[str, ...]] = {
    "glip_tiny": ("glip_tiny_model_o365_goldg_cc_sbu", "bert-base-uncased"),
    "pretrain_tiny": ("swin_tiny_patch4_window7_224", "bert-base-uncased"),
}
