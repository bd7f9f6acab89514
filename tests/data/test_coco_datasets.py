"""COCO-style data as detection targets and as grounding targets."""

import logging

import pytest
import torch

from maskrcnn_benchmark.data.datasets import COCODataset, CocoGrounding, CopiedDataset
from maskrcnn_benchmark.data.datasets.concat import ConcatDataset, single_dataset
from maskrcnn_benchmark.data.datasets.detection_captions import (
    AllClassesCaptioner,
    SampledClassesCaptioner,
)
from maskrcnn_benchmark.data.datasets.grounding_target import GroundingTargetBuilder
from maskrcnn_benchmark.data.image_files import (
    BrokenSampleError,
    Outline,
    UnreadableImageError,
)
from maskrcnn_benchmark.data.sample_key import SampleKey
from maskrcnn_benchmark.data.transforms import Compose, RandomHorizontalFlip, Resize, ToTensor
from maskrcnn_benchmark.grounding.od_to_grounding import NegativeSampling

TRANSFORMS = Compose([Resize((30, 40), 90), RandomHorizontalFlip(0.5), ToTensor()])
PLAIN = Compose([ToTensor()])


def detection(folder, transforms=PLAIN, **options):
    return COCODataset(folder.images, folder.annotations, transforms, **options)


def grounding(folder, tokenizer, transforms=PLAIN, make_captioner=None, **options):
    def all_classes(names):
        return AllClassesCaptioner(
            names, tokenizer, separation_tokens=". ", max_tokens=256, source="test", shuffle=False
        )

    return CocoGrounding(
        folder.images,
        folder.annotations,
        transforms,
        make_captioner=make_captioner or all_classes,
        targets=GroundingTargetBuilder(tokenizer, 256, "test"),
        **options,
    )


class TestDetection:
    def test_a_sample_is_image_boxes_and_contiguous_labels(self, coco_folder):
        image, target, index = detection(coco_folder)[1]

        assert image.shape == (3, 60, 40)
        assert target.mode == "xyxy"
        assert target.bbox.tolist() == [[3, 3, 22, 12], [3, 3, 22, 13]]
        assert target.get_field("labels").tolist() == [2, 3]
        assert index == 1

    def test_ids_and_categories_lead_back_to_the_file(self, coco_folder):
        dataset = detection(coco_folder)

        assert dataset.id_to_img_map[1] == dataset.image_id(1) == 20
        assert dataset.categories() == {1: "dog", 2: "cat", 3: "hot_dog"}
        assert dataset.contiguous_category_id_to_json_id == {1: 1, 2: 2, 3: 4}
        assert dataset.get_img_info(1) == {"height": 60, "width": 40}

    def test_boxes_are_clipped_and_those_left_empty_dropped(self, coco_folder):
        first = [a for a in coco_folder.content["annotations"] if a["image_id"] == 20]
        first[0]["bbox"] = [30, 50, 100, 100]
        first[1]["bbox"] = [5, 5, 1, 1]
        coco_folder.save()

        _, target, _ = detection(coco_folder)[1]

        assert target.bbox.tolist() == [[30, 50, 39, 59]]

    def test_crowd_regions_are_targets_only_on_request(self, coco_folder):
        coco_folder.content["annotations"][1]["iscrowd"] = 1
        coco_folder.save()

        assert len(detection(coco_folder)[1][1]) == 1
        assert len(detection(coco_folder, use_crowd=True)[1][1]) == 2

    def test_images_without_boxes_are_tested_on_but_not_trained_on(self, coco_folder):
        coco_folder.content["annotations"] = coco_folder.content["annotations"][:1]
        coco_folder.save()

        everything = detection(coco_folder)
        _, target, _ = everything[3]

        assert len(everything) == 6
        assert len(target) == 0
        assert target.get_field("labels").dtype == torch.int64
        assert len(detection(coco_folder, only_valid=True)) == 1

    def test_the_number_of_boxes_can_be_capped(self, coco_folder):
        capped = detection(coco_folder, max_box=1)
        halved = detection(coco_folder, sample_ratio=0.5)

        assert len(capped[1][1]) == len(halved[1][1]) == 1

    def test_few_shot_seeds_choose_different_images(self, coco_folder):
        chosen = {
            seed: detection(coco_folder, few_shot=1, shuffle_seed=seed).ids for seed in (0, 5)
        }

        assert chosen[0] == [10, 20]
        assert chosen[5] != chosen[0]


class TestGrounding:
    def test_the_caption_names_all_classes_and_boxes_point_to_theirs(
        self, coco_folder, bert_tokenizer
    ):
        _, target, _ = grounding(coco_folder, bert_tokenizer)[1]

        assert target.get_field("caption") == "dog. cat. hot dog"
        assert target.get_field("tokens_positive") == [[(5, 8)], [(10, 17)]]
        tokens = [row.nonzero().flatten().tolist() for row in target.get_field("positive_map")]
        assert tokens == [[3], [5, 6]]
        assert target.get_field("greenlight_map").nonzero().flatten().tolist() == [3, 5, 6]
        assert target.get_field("labels").tolist() == [2, 3]
        assert target.get_field("image_id").tolist() == [20]
        assert target.get_field("orig_size").tolist() == [60, 40]

    def test_token_maps_have_a_row_for_every_box_also_when_boxes_are_dropped(
        self, coco_folder, bert_tokenizer
    ):
        coco_folder.content["annotations"][1]["bbox"] = [5, 5, 1, 1]
        coco_folder.content["annotations"][2]["bbox"] = [300, 300, 10, 10]
        coco_folder.save()

        _, target, _ = grounding(coco_folder, bert_tokenizer)[1]

        assert len(target) == len(target.get_field("boxes")) == 0
        assert target.get_field("positive_map").shape == (0, 256)

    def test_shuffled_captions_keep_boxes_with_their_words(self, coco_folder, bert_tokenizer):
        def shuffled(names):
            return AllClassesCaptioner(
                names, bert_tokenizer, separation_tokens=". ", max_tokens=256, source="test"
            )

        dataset = grounding(coco_folder, bert_tokenizer, make_captioner=shuffled)
        samples = [dataset[SampleKey(1, seed)][1] for seed in range(8)]

        assert len({sample.get_field("caption") for sample in samples}) > 1
        for sample in samples:
            caption = sample.get_field("caption")
            words = [caption[b:e] for ((b, e),) in sample.get_field("tokens_positive")]
            assert words == ["cat", "hot dog"]

    def test_sampled_captions_stay_within_the_token_budget(self, coco_folder, bert_tokenizer):
        for category in coco_folder.content["categories"]:
            category["name"] = " ".join([category["name"]] * 30)
        coco_folder.save()

        def sampled(names):
            return SampledClassesCaptioner(
                names,
                bert_tokenizer,
                sampling=NegativeSampling(2, (0.0, 0.0, 1.0)),
                separation_tokens=". ",
                max_tokens=70,
            )

        dataset = grounding(coco_folder, bert_tokenizer, make_captioner=sampled)
        for seed in range(10):
            _, target, _ = dataset[SampleKey(1, seed)]
            assert len(bert_tokenizer(target.get_field("caption"))["input_ids"]) <= 70
            assert (target.get_field("positive_map").sum(dim=1) > 0.99).all()
            assert len(target) == len(target.get_field("tokens_positive"))

    def test_a_class_list_that_does_not_fit_is_refused_at_the_start(
        self, coco_folder, bert_tokenizer
    ):
        coco_folder.content["categories"][2]["name"] = "very " * 300 + "hot dog"
        coco_folder.save()

        with pytest.raises(ValueError, match=r"class 3 .* would be cut off"):
            grounding(coco_folder, bert_tokenizer)

    def test_captions_can_be_kept_out_of_masked_language_modelling(
        self, coco_folder, bert_tokenizer
    ):
        _, target, _ = grounding(coco_folder, bert_tokenizer, masking_allowed=False)[0]

        assert (target.get_field("greenlight_map") == -1).all()

    def test_one_hot_maps_have_one_column_per_class(self, coco_folder, bert_tokenizer):
        _, target, _ = grounding(coco_folder, bert_tokenizer, one_hot_offset=-1)[1]

        assert target.get_field("positive_map").argmax(dim=1).tolist() == [1, 2]
        assert target.get_field("text_mask").sum() == 3

    def test_the_same_key_gives_the_same_sample_and_another_seed_another(
        self, coco_folder, bert_tokenizer
    ):
        dataset = grounding(coco_folder, bert_tokenizer, TRANSFORMS)
        images = [dataset[SampleKey(0, seed)][0] for seed in (1, 1, 2, 3, 4)]

        assert torch.equal(images[0], images[1])
        assert any(
            image.shape != images[0].shape or not torch.equal(image, images[0])
            for image in images[2:]
        )


class TestBrokenPictures:
    def test_a_missing_file_is_named_with_its_dataset(self, coco_folder):
        (coco_folder.images / "picture2.png").unlink()

        with pytest.raises(FileNotFoundError, match=r"picture2\.png of dataset pets"):
            detection(coco_folder, name="pets", skip_broken=True)[2]

    def test_an_undecodable_picture_is_an_error_that_names_it(self, coco_folder):
        (coco_folder.images / "picture2.png").write_bytes(b"no picture")

        with pytest.raises(UnreadableImageError, match=r"picture2\.png"):
            detection(coco_folder)[2]

    @pytest.mark.parametrize("content", [b"", b"text", None])
    def test_on_request_the_next_picture_takes_its_place_and_it_is_counted(
        self, coco_folder, caplog, content
    ):
        broken = coco_folder.images / "picture2.png"
        broken.write_bytes(broken.read_bytes()[:200] if content is None else content)
        dataset = detection(coco_folder, skip_broken=True)

        with caplog.at_level(logging.WARNING):
            index = [dataset[2][2] for _ in range(3)]

        assert index == [3, 3, 3]
        assert dataset.broken == {2}
        assert caplog.text.count("broken sample no. 1") == 1

    def test_a_set_of_broken_pictures_only_is_an_error(self, coco_folder):
        for picture in coco_folder.images.iterdir():
            picture.write_bytes(b"no picture")

        with pytest.raises(BrokenSampleError, match="not one sample"):
            detection(coco_folder, skip_broken=True)[0]


class TestKnownPictures:
    def test_marked_pictures_are_left_unread_and_their_targets_are_the_same(
        self, coco_folder, bert_tokenizer
    ):
        dataset = grounding(coco_folder, bert_tokenizer, TRANSFORMS)
        picture, expected, index = dataset[SampleKey(1, 7)]

        known = dataset.skip_known_pictures()
        known[1] = True
        outline, target, same_index = dataset[SampleKey(1, 7)]

        assert known.tolist() == [False, True, *[False] * (len(dataset) - 2)]
        assert outline.blank().shape == picture.shape
        assert torch.equal(target.bbox, expected.bbox)
        assert target.get_field("caption") == expected.get_field("caption")
        assert index == same_index
        assert isinstance(dataset[SampleKey(2, 7)][0], torch.Tensor)
        assert isinstance(dataset.picture(1), torch.Tensor)

    def test_a_broken_picture_still_gives_way_to_the_next(self, coco_folder):
        (coco_folder.images / "picture2.png").write_bytes(b"no picture")
        dataset = detection(coco_folder, skip_broken=True)
        known = dataset.skip_known_pictures()
        known[dataset[2][2]] = True

        outline, _, index = dataset[2]

        assert isinstance(outline, Outline)
        assert index == 3

    def test_samples_of_one_set_have_numbers_of_their_own(self, coco_folder):
        dataset = detection(coco_folder)

        assert single_dataset(dataset) is dataset
        assert single_dataset(CopiedDataset(dataset, 2)) is dataset
        assert single_dataset(ConcatDataset([dataset, dataset])) is None


class TestJoining:
    def test_copies_share_the_ids_of_their_pictures(self, coco_folder):
        dataset = detection(coco_folder)
        copied = CopiedDataset(dataset, 2)
        assert copied.image_id(len(dataset)) == dataset.image_id(0)

    def test_copies_repeat_the_samples_and_keep_their_index(self, coco_folder):
        copied = CopiedDataset(detection(coco_folder), 3)

        assert len(copied) == 18
        assert copied[13][2] == 1
        assert copied[SampleKey(13, 5)][2] == 1
        assert copied.sizes().shape == (18, 2)
        assert copied.categories() == {1: "dog", 2: "cat", 3: "hot_dog"}

    def test_joined_sets_answer_with_the_index_of_their_own(self, coco_folder):
        first, second = detection(coco_folder), CopiedDataset(detection(coco_folder), 2)
        joined = ConcatDataset([first, second])

        assert len(joined) == 18
        assert joined.locate(6) == (1, 0)
        assert joined[5][2] == 5
        assert joined[6][2] == 0
        assert joined.get_img_info(7) == {"height": 60, "width": 40}
        with pytest.raises(IndexError):
            joined[18]

    def test_the_seed_of_a_sample_survives_joining(self, coco_folder, bert_tokenizer):
        dataset = grounding(coco_folder, bert_tokenizer, TRANSFORMS)
        joined = ConcatDataset([detection(coco_folder), CopiedDataset(dataset, 2)])

        direct = dataset[SampleKey(2, 77)][0]
        nested = joined[SampleKey(6 + 6 + 2, 77)][0]

        assert torch.equal(direct, nested)
