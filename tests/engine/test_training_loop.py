"""One iteration in all its variants, bad batches, bad numbers, progress and validation."""

import logging
import math
import signal

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.engine.hooks import Hook, Validation
from maskrcnn_benchmark.engine.loss_history import MOST_OVERFLOWS, NonFiniteLossError
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import CheckpointFolder
from maskrcnn_benchmark.utils.checkpoint_files import CheckpointError, read_checkpoint
from tests.engine.tiny_run import (
    KillAt,
    Record,
    TinyModel,
    TinyOptions,
    as_result,
    make_trainer,
    run,
)
from tests.process_tools import run_world

PLAIN = {"noisy": False, "batch_norm": False, "use_ema": False}


def weights(trainer) -> torch.Tensor:
    return nn.utils.parameters_to_vector(trainer.model.parameters()).detach().clone()


def test_training_lowers_the_loss(tmp_path):
    record = Record()
    run(tmp_path, TinyOptions(max_iter=150, save_period=1000, validation_period=1000), (record,))
    losses = [values["loss"] for _, values in record.losses]
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


class GradientsOfFirstStep(Hook):
    """Keeps the gradients that the first update was made from."""

    def after_iteration(self, trainer, losses):
        if trainer.iteration == 1:
            self.gradients = [p.grad.clone() for p in trainer.model.parameters()]


def first_gradients(folder, options):
    hook = GradientsOfFirstStep()
    run(folder, options, (hook,))
    return hook.gradients


def test_two_processes_with_batch_1_have_the_gradients_of_one_with_batch_2(tmp_path):
    alone = first_gradients(tmp_path / "1", TinyOptions(max_iter=1, batch_size=2, **PLAIN))
    pair = run_world(
        2,
        first_gradients,
        tmp_path / "2",
        TinyOptions(max_iter=1, batch_size=1, **PLAIN),
        folder=tmp_path / "out",
    )
    for mine, first, second in zip(alone, *pair):
        torch.testing.assert_close(first, mine)
        assert torch.equal(first, second)


def test_accumulation_has_the_gradients_of_the_whole_batch(tmp_path):
    whole = first_gradients(tmp_path / "1", TinyOptions(max_iter=1, batch_size=4, **PLAIN))
    parts = first_gradients(
        tmp_path / "2", TinyOptions(max_iter=1, batch_size=2, accumulation=2, **PLAIN)
    )
    for mine, other in zip(whole, parts):
        torch.testing.assert_close(other, mine)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_computes_low_and_keeps_weights_in_float32(tmp_path, dtype):
    seen = []
    trainer = make_trainer(tmp_path, TinyOptions(max_iter=2, amp_dtype=dtype))
    trainer.model.first.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    trainer.hooks = []
    trainer.train()
    assert set(seen) == {dtype}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert trainer.step.scaler.is_enabled() == (dtype is torch.float16)


def test_a_batch_of_images_without_boxes_is_passed_over_named_and_counted(tmp_path, caplog):
    options = TinyOptions(
        max_iter=4, batch_size=2, length=2, empty=(0, 1), validation_period=100, **PLAIN
    )
    trainer = make_trainer(tmp_path, options)
    before = weights(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert torch.equal(weights(trainer), before)
    assert (trainer.iteration, trainer.num_unusable) == (4, 4)
    assert "iteration 4: 2 of 2 images have no boxes" in caplog.text
    assert "(4 so far): sample" in caplog.text
    assert (tmp_path / "model_final.pth").is_file()


def test_a_share_of_empty_images_up_to_the_limit_is_learnt_from(tmp_path):
    options = TinyOptions(max_iter=1, batch_size=12, empty=(3,), **PLAIN)
    trainer = make_trainer(tmp_path, options)
    trainer.train()
    assert trainer.num_unusable == 0


def counts_of_run(folder, options):
    trainer = run(folder, options)
    return trainer.num_unusable, trainer.history.num_skipped, weights(trainer)


def test_a_batch_that_one_process_cannot_use_leaves_nobody_waiting(tmp_path):
    options = TinyOptions(
        max_iter=6,
        batch_size=1,
        length=4,
        empty=(0, 1),
        save_period=99,
        validation_period=99,
        **PLAIN,
    )
    first, second = run_world(2, counts_of_run, tmp_path / "run", options, folder=tmp_path / "out")
    assert first[0] + second[0] == 6
    assert torch.equal(first[2], second[2])


def test_a_bad_number_on_one_process_skips_the_update_on_all(tmp_path):
    options = TinyOptions(
        max_iter=6, batch_size=1, length=4, bad=(0,), save_period=99, validation_period=99, **PLAIN
    )
    first, second = run_world(2, counts_of_run, tmp_path / "run", options, folder=tmp_path / "out")
    assert first[1] == second[1] == 3
    assert torch.equal(first[2], second[2])
    assert first[2].isfinite().all()


def test_a_bad_loss_names_term_iteration_and_image_and_changes_nothing(tmp_path, caplog):
    options = TinyOptions(max_iter=1, batch_size=1, length=1, bad=(0,), **PLAIN)
    trainer = make_trainer(tmp_path, options)
    before = weights(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert torch.equal(weights(trainer), before)
    assert (
        "iteration 1: update left out (1 in a row, 1 in all): process 0: "
        "loss_square is nan, loss_absolute is nan (sample 0)" in caplog.text
    )


def test_too_many_bad_losses_in_a_row_stop_the_run_with_its_state_saved(tmp_path):
    options = TinyOptions(
        max_iter=20, batch_size=1, length=1, bad=(0,), non_finite_patience=3, **PLAIN
    )
    with pytest.raises(
        NonFiniteLossError, match="3 updates in a row were not finite, the last at iteration 3"
    ):
        run(tmp_path, options)
    saved = read_checkpoint(tmp_path / "model_0000003.pth")
    assert saved["iteration"] == 3
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_good_updates_between_bad_ones_reset_the_count(tmp_path):
    options = TinyOptions(
        max_iter=20, batch_size=1, length=2, bad=(0,), non_finite_patience=3, **PLAIN
    )
    assert run(tmp_path, options).history.num_skipped == 10


def test_an_overflow_of_gradients_under_float16_is_ordinary(tmp_path):
    trainer = make_trainer(
        tmp_path, TinyOptions(max_iter=12, amp_dtype=torch.float16, non_finite_patience=1, **PLAIN)
    )
    trainer.step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    trainer.train()
    assert trainer.history.num_skipped == 0
    assert trainer.step.scaler.get_scale() < 2.0**40


def test_gradients_that_overflow_at_every_scale_stop_the_run(tmp_path):
    options = TinyOptions(amp_dtype=torch.float16, max_iter=60, save_period=99, **PLAIN)
    trainer = make_trainer(tmp_path, options)
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NonFiniteLossError, match="5 updates in a row"):
        trainer.train()
    assert trainer.iteration == MOST_OVERFLOWS + 5 - 1
    again = make_trainer(tmp_path, options)
    again.load_state_dict(again.checkpoints.latest().contents)
    assert again.history.overflows_in_a_row == trainer.history.overflows_in_a_row


def test_progress_lines_have_time_left_losses_rates_and_memory(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run(tmp_path, TinyOptions(max_iter=10))
    lines = [r.message for r in caplog.records if r.message.startswith("eta:")]
    assert len(lines) == 2
    for part in (
        "iter: 10/10",
        "loss: ",
        "loss_square: ",
        "grad_norm: ",
        "lr: 0.0",
        "wd: ",
        "max mem: ",
    ):
        assert part in lines[-1]


class Scalars:
    """Collects what would go to TensorBoard."""

    def __init__(self):
        self.values = []

    def add_scalar(self, tag, value, step):
        self.values.append((tag, step))

    def close(self):
        self.closed = True


def test_curves_have_one_point_per_iteration(tmp_path):
    scalars, firsts = Scalars(), []

    def prepare(trainer):
        trainer.hooks[1].make_writer = lambda first: firsts.append(first) or scalars

    run(tmp_path, TinyOptions(max_iter=7), prepare=prepare)
    assert [step for tag, step in scalars.values if tag == "loss"] == [1, 2, 3, 4, 5, 6, 7]
    assert [step for tag, step in scalars.values if tag == "val/AP"] == [5, 7]
    assert firsts == [1]
    assert scalars.closed


def test_losses_are_read_only_now_and_then_where_reading_means_waiting(tmp_path):
    record = Record()
    reads = []

    class Reads(Hook):
        def after_iteration(self, trainer, losses):
            reads.append(len(losses))

    def prepare(trainer):
        trainer.read_period = 4

    run(tmp_path, TinyOptions(max_iter=10), (record, Reads()), prepare)
    assert reads == [0, 0, 0, 4, 0, 0, 0, 4, 0, 2]
    assert [iteration for iteration, _ in record.losses] == list(range(1, 11))


def test_the_best_weights_are_kept_and_do_not_become_the_ones_to_continue_from(tmp_path):
    values = iter([0.1, 0.5, 0.5, 0.3])

    def prepare(trainer):
        trainer.hooks[0].evaluate = lambda: as_result(next(values))

    trainer = run(tmp_path, TinyOptions(max_iter=20, validation_period=5), prepare=prepare)
    best = read_checkpoint(tmp_path / "model_best.pth")
    assert (best["iteration"], best["eval_result"]) == (15, {"AP": 0.5})
    assert "optimizer" not in best
    assert "model_ema" in best
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert (trainer.hooks[0].best, trainer.hooks[0].below_best) == (0.5, 1)


def test_the_run_ends_after_patience_results_below_the_best(tmp_path):
    values = iter([0.5, 0.5, 0.3, 0.5, 0.4, 0.3, 0.2])

    def prepare(trainer):
        trainer.hooks[0].evaluate = lambda: as_result(next(values))

    trainer = run(
        tmp_path, TinyOptions(max_iter=20, validation_period=1, patience=2), prepare=prepare
    )
    assert trainer.iteration == 6
    assert "auto termination at iteration 6" in trainer.terminated
    assert (tmp_path / "model_final.pth").is_file()


def test_validation_sees_the_average_where_asked_and_leaves_the_weights_alone(tmp_path):
    trainer = make_trainer(tmp_path, TinyOptions(max_iter=6, validation_period=6, noisy=False))
    seen = []
    trainer.hooks = [
        Validation(
            lambda: seen.append(weights(trainer)) or as_result(0.0),
            period=6,
            use_ema=True,
        )
    ]
    trainer.train()
    averages = nn.utils.parameters_to_vector(
        trainer.ema.state_dict()[name] for name, _ in trainer.model.named_parameters()
    )
    assert torch.equal(seen[0], averages)
    assert not torch.equal(weights(trainer), averages)


def test_the_model_trains_again_after_a_validation(tmp_path):
    modes = []

    class Mode(Hook):
        def before_train(self, trainer):
            trainer.model.register_forward_pre_hook(
                lambda module, inputs: modes.append(module.training)
            )

    run(tmp_path, TinyOptions(max_iter=4, validation_period=2), (Mode(),))
    assert modes == [True, True, False, True, True, False]


def test_a_checkpoint_of_another_model_is_not_continued(tmp_path):
    trainer = make_trainer(tmp_path, TinyOptions())
    state = trainer.state_dict()
    state["model"] = TinyModel(batch_norm=False).state_dict()
    with pytest.raises(CheckpointError, match=r"use another OUTPUT_DIR[\s\S]*norm\.weight"):
        trainer.load_state_dict(state)


def test_an_average_that_is_switched_on_later_begins_with_the_loaded_weights(tmp_path, caplog):
    run(tmp_path, TinyOptions(max_iter=4, use_ema=False))
    trainer = make_trainer(tmp_path, TinyOptions(max_iter=8))
    trainer.load_state_dict(trainer.checkpoints.latest().contents)
    assert "no average of weights" in caplog.text
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(trainer.ema.state_dict()[name], value)


@pytest.mark.parametrize("kinds", [("SGD", "ADAMW"), ("ADAMW", "SGD")])
def test_another_optimizer_does_not_continue(tmp_path, kinds):
    options = [TinyOptions(max_iter=2, optimizer=kind, base_lr=0.001) for kind in kinds]
    run(tmp_path, options[0])
    with pytest.raises(CheckpointError, match=r"set SOLVER\.OPTIMIZER as the earlier run"):
        run(tmp_path, options[1])


def latest_of_own_folder(folder) -> str:
    own = CheckpointFolder(folder / str(comm.get_rank()))
    try:
        return str(own.latest())
    except CheckpointError as error:
        return str(error)


def test_processes_that_see_different_checkpoints_name_them(tmp_path):
    CheckpointFolder(tmp_path / "0").save("model_0000004", {})
    errors = run_world(2, latest_of_own_folder, tmp_path, folder=tmp_path / "out")
    assert all("process 0: model_0000004.pth; process 1: nothing)" in error for error in errors)


def test_a_checkpoint_of_the_original_layout_is_continued(tmp_path):
    """Prefixed names, one optimizer group per parameter, no random states."""
    trainer = make_trainer(tmp_path, TinyOptions())
    original = torch.optim.AdamW([{"params": [p]} for p in trainer.model.parameters()])
    sum(p.sum() for p in trainer.model.parameters()).backward()
    original.step()
    state = {
        "model": {f"module.{k}": v.clone() for k, v in trainer.model.state_dict().items()},
        "model_ema": {f"module.{k}": v.clone() for k, v in trainer.model.state_dict().items()},
        "optimizer": original.state_dict(),
        "scheduler": {"last_epoch": 9, "base_lrs": [0.1]},
        "iteration": 9,
    }
    trainer.load_state_dict(state)
    assert (trainer.iteration, trainer.schedule.iteration) == (9, 9)
    assert len(trainer.step.optimizer.state) == len(list(trainer.model.parameters()))


def test_only_the_last_checkpoints_are_kept_during_a_run(tmp_path):
    run(tmp_path, TinyOptions(max_iter=10, save_period=2, keep_last=2))
    numbered = sorted(p.name for p in tmp_path.glob("model_0*.pth"))
    assert numbered == ["model_0000008.pth", "model_0000010.pth"]


def test_signals_work_as_before_after_training(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path, TinyOptions(max_iter=1))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_interrupt_ends_the_run_at_once(tmp_path):
    class TwoInterrupts(KillAt):
        def after_iteration(self, trainer, losses):
            super().after_iteration(trainer, losses)
            super().after_iteration(trainer, losses)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, TinyOptions(), (TwoInterrupts(2, signal.SIGINT),))


def test_loss_rows_are_means_over_processes(tmp_path):
    first, second = run_world(2, rows_of_run, tmp_path / "run", folder=tmp_path / "out")
    assert first == second
    assert len(first) == 2 and all(math.isfinite(values["loss"]) for _, values in first)


def rows_of_run(folder):
    record = Record()
    run(folder, TinyOptions(max_iter=2, batch_size=1, batch_norm=False), (record,))
    comm.synchronize()
    return record.losses


def test_a_validation_set_without_annotations_is_refused(tmp_path):
    def prepare(trainer):
        trainer.hooks[0].evaluate = lambda: as_result(math.nan)

    with pytest.raises(ValueError, match="validation set has no annotations"):
        run(tmp_path, TinyOptions(validation_period=1), prepare=prepare)


def test_a_loader_that_ends_early_is_an_error(tmp_path):
    trainer = make_trainer(tmp_path, TinyOptions(max_iter=10))
    trainer.max_iter = 12
    with pytest.raises(RuntimeError, match="no batch for iteration 11 of 12"):
        trainer.train()
