"""The order of the samples, its exact resumption, and its independence of the number of
processes.
"""

import itertools
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskrcnn_benchmark.data.samplers import (
    EvaluationBatchSampler,
    TrainingBatchSampler,
    aspect_groups,
    full_batches,
    group_batches,
)


def indices(batches):
    return [[key.index for key in batch] for batch in batches]


def flat(batches):
    return [index for batch in indices(batches) for index in batch]


class TestGrouping:
    def test_square_and_higher_images_are_one_group(self):
        sizes = np.array([[75, 100], [100, 100], [150, 100]])

        assert aspect_groups(sizes).tolist() == [0, 1, 1]

    def test_batches_hold_one_group_and_follow_their_first_sample(self):
        groups = np.array([0, 1, 0, 1, 1, 0, 0])

        batches = full_batches(np.arange(7), groups, 2)

        assert batches.tolist() == [[0, 2], [1, 3], [5, 6]]

    def test_incomplete_batches_are_kept_on_request(self):
        groups = np.array([0, 1, 0, 1, 1, 0, 0])

        batches = group_batches(np.arange(7), groups, 2)

        assert [batch.tolist() for batch in batches] == [[0, 2], [1, 3], [4], [5, 6]]

    def test_no_samples_give_no_batches(self):
        assert group_batches(np.arange(0), None, 2) == []
        assert full_batches(np.arange(0), None, 2).shape == (0, 2)

    @given(
        groups=st.lists(st.integers(0, 2), min_size=1, max_size=40),
        batch_size=st.integers(1, 5),
        seed=st.integers(0, 9),
    )
    def test_every_sample_is_in_one_batch_of_its_group(self, groups, batch_size, seed):
        groups = np.array(groups)
        order = np.random.default_rng(seed).permutation(len(groups))

        batches = group_batches(order, groups, batch_size)

        assert sorted(np.concatenate(batches).tolist()) == list(range(len(groups)))
        assert all(len(set(groups[batch].tolist())) == 1 for batch in batches)
        assert all(len(batch) <= batch_size for batch in batches)


class TestTraining:
    def make(self, num_samples=10, images=2, num_batches=20, **kwargs):
        return TrainingBatchSampler(num_samples, images, num_batches, **{"seed": 3, **kwargs})

    def test_a_run_has_exactly_the_asked_number_of_batches(self):
        sampler = self.make(num_batches=7)

        assert len(sampler) == 7
        assert [len(batch) for batch in sampler] == [2] * 7

    def test_a_pass_shows_every_sample_once_and_the_next_another_order(self):
        batches = list(self.make(num_batches=10))
        first, second = flat(batches[:5]), flat(batches[5:])

        assert sorted(first) == sorted(second) == list(range(10))
        assert first != second

    @pytest.mark.parametrize("start", [0, 1, 4, 5, 13, 20])
    def test_starting_in_the_middle_gives_what_an_undisturbed_run_gets(self, start):
        groups = np.arange(10) % 2
        options = {"groups": groups, "rank": 1, "world_size": 2, "images": 1}

        resumed = list(self.make(**options, start=start))

        assert resumed == list(self.make(**options))[start:]

    def test_seeds_of_a_sample_differ_between_passes_and_samples_but_not_between_runs(self):
        first, second = list(self.make()), list(self.make())
        seeds = [key.seed for batch in first for key in batch]

        assert first == second
        assert len(set(seeds)) == len(seeds)

    def test_another_base_seed_gives_another_order(self):
        assert indices(self.make(seed=3)) != indices(self.make(seed=4))

    @pytest.mark.parametrize(("world_size", "accumulation"), [(1, 2), (2, 1), (2, 2), (4, 1)])
    def test_a_step_has_the_same_samples_however_it_is_shared_out(self, world_size, accumulation):
        whole = [sorted(batch) for batch in self.make(num_samples=22, images=4, num_batches=12)]
        ranks = [
            list(
                self.make(
                    num_samples=22,
                    images=4 // (world_size * accumulation),
                    num_batches=12 * accumulation,
                    rank=rank,
                    world_size=world_size,
                    accumulation_steps=accumulation,
                )
            )
            for rank in range(world_size)
        ]
        for step in range(12):
            parts = [rank[step * accumulation : (step + 1) * accumulation] for rank in ranks]
            shared = [key for rank in parts for batch in rank for key in batch]
            assert sorted(shared) == whole[step]

    def test_processes_never_share_a_sample_within_a_pass(self):
        groups = np.arange(13) % 2
        ranks = [self.make(13, 1, 6, rank=r, world_size=2, groups=groups) for r in range(2)]

        seen = [set(flat(rank)) for rank in ranks]

        assert not seen[0] & seen[1]

    def test_too_few_samples_for_a_batch_are_an_error_that_says_what_to_do(self):
        with pytest.raises(ValueError, match="GENERAL_COPY"):
            self.make(num_samples=3, images=2, world_size=2)

    def test_groups_that_never_fill_a_batch_are_reported(self, caplog):
        with caplog.at_level(logging.WARNING):
            self.make(num_samples=5, groups=np.array([0, 0, 0, 0, 1]))

        assert "1 sample(s) of one aspect ratio" in caplog.text


class TestEvaluation:
    @given(num_samples=st.integers(0, 30), images=st.integers(1, 4), world_size=st.integers(1, 5))
    def test_all_processes_together_see_every_sample_once(self, num_samples, images, world_size):
        seen = [
            index
            for rank in range(world_size)
            for batch in EvaluationBatchSampler(
                num_samples, images, rank=rank, world_size=world_size
            )
            for index in batch
        ]

        assert sorted(seen) == list(range(num_samples))

    @given(
        pictures=st.lists(st.integers(0, 5), max_size=20),
        images=st.integers(1, 4),
        world_size=st.integers(1, 3),
    )
    def test_samples_of_one_picture_follow_each_other_in_one_process(
        self, pictures, images, world_size
    ):
        shares = [
            [
                index
                for batch in EvaluationBatchSampler(
                    len(pictures),
                    images,
                    rank=rank,
                    world_size=world_size,
                    pictures=np.array(pictures, dtype=np.int64),
                )
                for index in batch
            ]
            for rank in range(world_size)
        ]

        assert sorted(index for share in shares for index in share) == list(range(len(pictures)))
        shown = [[pictures[index] for index in share] for share in shares]
        runs = [picture for share in shown for picture, _ in itertools.groupby(share)]
        assert len(runs) == len(set(runs))

    def test_order_is_that_of_the_dataset(self):
        assert list(EvaluationBatchSampler(5, 2)) == [[0, 1], [2, 3], [4]]
