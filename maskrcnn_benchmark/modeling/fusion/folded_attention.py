"""Attention in both directions between many visual and few text tokens, in one blocked pass.

The core of the fast fusion path: it never holds more than a slice of the ``visual x text`` score
matrix, neither forward nor backward, and works on visual tokens as they are. The projections of
the visual tokens must already be folded into the text side, see ``bi_attention.py``.

With scores ``S_nt = v_n . k_t + b_t`` for every head (clamped where asked):

* visual <- text: ``P = softmax_t(S + mask)``, ``update_n = sum over heads and t of P_nt u_t``;
* text <- visual: ``W = softmax_n(S)``, ``context_t = sum_n W_nt v_n``, ``weight_t = sum_n W_nt``
  (1, unless dropout removes some of it).

The second softmax runs over the axis that is cut into blocks, so its maximum and its sum are
carried along and the context is rescaled whenever the maximum moves (the online softmax of
Milakov and Gimelshein, arXiv:1805.02867). The backward pass recomputes the scores block by block
from the saved log-sum-exp instead of storing them (as FlashAttention, arXiv:2205.14135, does).

The operators are registered with the dispatcher, so that ``torch.compile`` sees one node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Score elements held at a time. On a CPU a block should stay in the caches between the passes
# over it; on an accelerator it should be large enough to fill the device.
_BLOCK_ELEMENTS = {"cpu": 1 << 19}
_BLOCK_ELEMENTS_ELSEWHERE = 1 << 26

# Shorter rows than this fill no vector, and softmax on a CPU takes several times as long as its
# parts over all rows.
_SHORT_ROW = 8


def _keep_masks(
    shape: tuple[int, ...], dropout: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two independent Bernoulli(1 - dropout) masks; the rate is rounded to a multiple of 2^-16."""
    count = 2
    for size in shape:
        count *= size
    # Four decisions per drawn 64-bit number.
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    bits.random_(-(2**63), None, generator=generator)
    keep = bits.view(torch.int16)[:count] >= round(dropout * 65536) - 32768
    return keep.view(2, *shape).unbind(0)


def _keep_probability(dropout: float) -> float:
    return 1.0 - round(dropout * 65536) / 65536


@dataclass
class _Scores:
    """Scores of one batch, a slice of the visual tokens at a time, in reused buffers.

    Heads and tokens share one axis of ``num_heads * num_tokens`` columns.
    """

    visual: Tensor  # [B, N, C]
    keys: Tensor  # [B, H, T, C]
    key_bias: Tensor  # [B, H, T], accumulation dtype
    mask_bias: Tensor  # [B, T], accumulation dtype
    clamp_min: float
    clamp_max: float
    dropout: float
    seed: Tensor  # [] int64, on the CPU

    def __post_init__(self) -> None:
        batch, num_visual, _ = self.visual.shape
        _, self.heads, self.tokens, _ = self.keys.shape
        self.columns = self.heads * self.tokens
        self.dtype = self.key_bias.dtype
        self.exact = self.visual.dtype == self.dtype
        self.flat_keys = self.keys.flatten(1, 2)  # [B, HT, C]
        self.flat_bias = self.key_bias.reshape(batch, 1, self.columns)
        elements = _BLOCK_ELEMENTS.get(self.visual.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
        self.rows = min(num_visual, max(32, elements // max(1, batch * self.columns)))
        self.generator = None
        if self.dropout > 0.0:
            self.generator = torch.Generator(self.visual.device).manual_seed(int(self.seed))

    def buffer(self, dtype: torch.dtype | None = None) -> Tensor:
        """Room for one block of scores, ``[B, rows, HT]``."""
        shape = (self.visual.shape[0], self.rows, self.columns)
        return self.visual.new_empty(shape, dtype=dtype or self.dtype)

    def blocks(self) -> Iterator[slice]:
        num_visual = self.visual.shape[1]
        for start in range(0, num_visual, self.rows):
            yield slice(start, min(start + self.rows, num_visual))

    def fill(self, block: slice, out: Tensor) -> None:
        """Unclamped scores of the visual tokens of ``block``."""
        visual, keys = self.visual[:, block], self.flat_keys.transpose(1, 2)
        if self.exact:
            torch.baddbmm(self.flat_bias, visual, keys, out=out)
        else:
            torch.add(torch.bmm(visual, keys), self.flat_bias, out=out)

    @property
    def clamps(self) -> bool:
        return self.clamp_min > float("-inf") or self.clamp_max < float("inf")

    def clamp_(self, scores: Tensor) -> None:
        if self.clamps:
            scores.clamp_(self.clamp_min, self.clamp_max)

    def outside(self, scores: Tensor) -> Tensor | None:
        """Where unclamped scores leave the bounds; None if they are known not to."""
        if not self.clamps:
            return None
        if scores.device.type == "cpu":  # elsewhere asking would make the processor wait
            low, high = scores.aminmax()
            if low >= self.clamp_min and high <= self.clamp_max:
                return None
        return (scores < self.clamp_min) | (scores > self.clamp_max)

    def softmax_over_text(self, scores: Tensor, out: Tensor) -> None:
        """Softmax per head over the tokens; overwrites ``scores``."""
        per_head = (*scores.shape[:2], self.heads, self.tokens)
        scores.view(per_head).add_(self.mask_bias[:, None, None, :])
        scores, out = scores.view(per_head), out.view(per_head)
        if not 0 < self.tokens < _SHORT_ROW or scores.device.type != "cpu":
            torch.softmax(scores, dim=-1, out=out)
            return
        torch.sub(scores, scores.amax(-1, keepdim=True), out=out).exp_()
        out.div_(out.sum(-1, keepdim=True))

    def keep_masks(self, block: slice) -> tuple[Tensor, Tensor] | None:
        """Dropout masks of the two directions; the same for every pass over the blocks in order."""
        if self.generator is None:
            return None
        shape = (self.visual.shape[0], block.stop - block.start, self.columns)
        return _keep_masks(shape, self.dropout, self.generator)


@torch.library.custom_op("glip::folded_bi_attention", mutates_args=())
def _forward(
    visual: Tensor,
    keys: Tensor,
    key_bias: Tensor,
    values: Tensor,
    mask_bias: Tensor,
    clamp_min: float,
    clamp_max: float,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(visual.device.type, enabled=False):
        scores = _Scores(visual, keys, key_bias, mask_bias, clamp_min, clamp_max, dropout, seed)
        batch, _, channels = visual.shape
        columns, dtype = scores.columns, scores.dtype
        flat_values = values.flatten(1, 2)
        update = torch.empty_like(visual)
        context = visual.new_zeros((batch, columns, channels), dtype=dtype)
        largest = visual.new_full((batch, columns), float("-inf"), dtype=dtype)
        total = visual.new_zeros((batch, columns), dtype=dtype)
        kept = visual.new_zeros((batch, columns), dtype=dtype)
        score_buffer, weight_buffer = scores.buffer(), scores.buffer()
        for block in scores.blocks():
            rows = block.stop - block.start
            score, weight = score_buffer[:, :rows], weight_buffer[:, :rows]
            scores.fill(block, out=score)
            scores.clamp_(score)
            keep = scores.keep_masks(block)

            new_largest = torch.maximum(largest, score.amax(1))
            torch.sub(score, new_largest[:, None], out=weight).exp_()
            shrink = (largest - new_largest).exp_()
            total = total * shrink + weight.sum(1)
            if keep is not None:
                weight.mul_(keep[1])
                kept = kept * shrink + weight.sum(1)
            context.mul_(shrink[..., None])
            _accumulate(context, weight.transpose(1, 2), visual[:, block])
            largest = new_largest

            scores.softmax_over_text(score, out=weight)
            if keep is not None:
                weight.mul_(keep[0])
            torch.bmm(weight.to(visual.dtype), flat_values, out=update[:, block])
        if scores.generator is None:
            kept = total
        else:
            scale = 1.0 / _keep_probability(dropout)
            update.mul_(scale)
            context.mul_(scale)
            kept = kept * scale
        context.div_(total[..., None])
        per_head = (batch, scores.heads, scores.tokens)
        return (
            update,
            context.view(*per_head, channels),
            (kept / total).view(per_head),
            (largest + total.log()).view(per_head),
        )


def _accumulate(target: Tensor, left: Tensor, right: Tensor) -> None:
    """``target += left @ right``, where ``target`` may be of higher precision than ``right``."""
    if target.dtype == right.dtype:
        target.baddbmm_(left, right)
    else:
        target.add_(torch.bmm(left.to(right.dtype), right))


@_forward.register_fake
def _(visual, keys, key_bias, values, mask_bias, clamp_min, clamp_max, dropout, seed):
    batch, heads, tokens, channels = keys.shape
    return (
        torch.empty_like(visual),
        key_bias.new_empty((batch, heads, tokens, channels)),
        key_bias.new_empty((batch, heads, tokens)),
        key_bias.new_empty((batch, heads, tokens)),
    )


@torch.library.custom_op("glip::folded_bi_attention_backward", mutates_args=())
def _backward(
    grad_update: Tensor,
    grad_context: Tensor,
    grad_weight: Tensor,
    visual: Tensor,
    keys: Tensor,
    key_bias: Tensor,
    values: Tensor,
    mask_bias: Tensor,
    context: Tensor,
    weight: Tensor,
    log_total: Tensor,
    clamp_min: float,
    clamp_max: float,
    dropout: float,
    seed: Tensor,
    need_visual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(visual.device.type, enabled=False):
        scores = _Scores(visual, keys, key_bias, mask_bias, clamp_min, clamp_max, dropout, seed)
        batch, _, channels = visual.shape
        heads, tokens, columns, dtype = scores.heads, scores.tokens, scores.columns, scores.dtype
        low = visual.dtype
        scale = 1.0 / _keep_probability(dropout) if dropout > 0.0 else 1.0
        flat_keys, flat_values = scores.flat_keys, values.flatten(1, 2)
        flat_context_grad = grad_context.flatten(1, 2)  # [B, HT, C]
        flat_weight_grad = grad_weight.reshape(batch, 1, columns)
        log_total = log_total.reshape(batch, 1, columns)
        # sum_n W_nt dW_nt, known without a pass over n.
        correction = (flat_context_grad * context.flatten(1, 2)).sum(-1)
        correction = (correction + grad_weight.flatten(1) * weight.flatten(1))[:, None]
        low_context_grad = flat_context_grad.to(low)

        # What is not asked for comes back empty.
        grad_visual = torch.empty_like(visual) if need_visual else visual.new_empty(0)
        grad_keys = visual.new_zeros((batch, columns, channels), dtype=dtype)
        grad_values = torch.zeros_like(grad_keys)
        grad_bias = visual.new_zeros((batch, columns), dtype=dtype)
        buffers = [scores.buffer() for _ in range(4)]
        for block in scores.blocks():
            rows = block.stop - block.start
            score, probability, upstream, total_grad = (b[:, :rows] for b in buffers)
            per_head = (batch, rows, heads, tokens)
            visual_block, update_grad = visual[:, block], grad_update[:, block]
            scores.fill(block, out=score)
            outside = scores.outside(score)
            scores.clamp_(score)
            keep = scores.keep_masks(block)

            # text <- visual: dS = W (dW - correction); dW = keep * scale * (v . dcontext + dweight)
            torch.sub(score, log_total, out=probability).exp_()
            _product(visual_block, low_context_grad.transpose(1, 2), out=upstream)
            upstream.add_(flat_weight_grad)
            if keep is not None:
                upstream.mul_(keep[1]).mul_(scale)
            torch.sub(upstream, correction, out=total_grad)
            total_grad.mul_(probability)
            if need_visual:
                if keep is not None:
                    probability.mul_(keep[1]).mul_(scale)
                visual_grad = torch.bmm(probability.to(low), low_context_grad)

            # visual <- text: dS = P (dP - sum_t P dP); dP = keep * scale * (dupdate . u)
            scores.softmax_over_text(score, out=probability)
            _product(update_grad, flat_values.transpose(1, 2), out=upstream)
            if keep is not None:
                upstream.mul_(keep[0]).mul_(scale)
            upstream.mul_(probability)
            total_grad.add_(upstream)
            row_sum = upstream.view(per_head).sum(-1, keepdim=True)
            total_grad.view(per_head).addcmul_(probability.view(per_head), row_sum, value=-1.0)
            if keep is not None:
                probability.mul_(keep[0]).mul_(scale)
            _accumulate(grad_values, probability.transpose(1, 2), update_grad)

            if outside is not None:
                total_grad.masked_fill_(outside, 0.0)
            grad_bias += total_grad.sum(1)
            _accumulate(grad_keys, total_grad.transpose(1, 2), visual_block)
            if need_visual:
                torch.baddbmm(visual_grad, total_grad.to(low), flat_keys, out=grad_visual[:, block])
        shape = (batch, heads, tokens, channels)
        return (
            grad_visual,
            grad_keys.view(shape).to(keys.dtype),
            grad_bias.view(batch, heads, tokens),
            grad_values.view(shape).to(values.dtype),
        )


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """``out = left @ right``, where ``out`` may be of higher precision."""
    if out.dtype == left.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(torch.bmm(left, right))


@_backward.register_fake
def _(grad_update, grad_context, grad_weight, visual, keys, key_bias, values, *rest):
    need_visual = rest[-1]
    return (
        torch.empty_like(visual) if need_visual else visual.new_empty(0),
        *(tensor.new_empty(tensor.shape) for tensor in (keys, key_bias, values)),
    )


def _setup_context(ctx, inputs, output) -> None:
    visual, keys, key_bias, values, mask_bias, *ctx.settings, seed = inputs
    _, context, weight, log_total = output
    ctx.save_for_backward(
        visual, keys, key_bias, values, mask_bias, context, weight, log_total, seed
    )


def _backward_of_forward(ctx, grad_update, grad_context, grad_weight, _):
    *tensors, seed = ctx.saved_tensors
    # The visual tokens of the first layer come from a backbone that may be frozen.
    need_visual = ctx.needs_input_grad[0]
    grad_visual, *grads = _backward(
        grad_update, grad_context, grad_weight, *tensors, *ctx.settings, seed, need_visual
    )
    return (grad_visual if need_visual else None, *grads, None, None, None, None, None)


_forward.register_autograd(_backward_of_forward, setup_context=_setup_context)


def folded_bi_attention(
    visual: Tensor,
    keys: Tensor,
    key_bias: Tensor,
    values: Tensor,
    mask_bias: Tensor,
    *,
    clamp: tuple[float, float] = (float("-inf"), float("inf")),
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend in both directions, differentiably, with memory for one block of scores.

    Args:
        visual: ``[B, N, C]``, N of at least 1.
        keys: ``[B, H, T, C]`` in the dtype of ``visual``, already scaled.
        key_bias: ``[B, H, T]``, float32 (float64 where ``visual`` is): the accumulation dtype.
        values: ``[B, H, T, C]`` in the dtype of ``visual``, already projected to visual width.
        mask_bias: ``[B, T]`` in the accumulation dtype, added to the scores in the softmax over
            the text only.
        clamp: bounds of the scores; scores outside get no gradient.
        dropout: probability with which an attention weight is dropped, drawn independently for
            the two directions; the seed comes from torch's default CPU generator.

    Returns:
        update ``[B, N, C]`` in the dtype of ``visual``, summed over the heads; context
        ``[B, H, T, C]`` and weight ``[B, H, T]`` in the accumulation dtype.
    """
    if dropout > 0.0:
        seed = torch.randint(2**62, ())
    else:  # unread, and on the device: one tensor on the CPU keeps an operator out of CUDA graphs
        seed = visual.new_zeros((), dtype=torch.int64)
    update, context, weight, _ = _forward(
        visual, keys, key_bias, values, mask_bias, clamp[0], clamp[1], dropout, seed
    )
    return update, context, weight
