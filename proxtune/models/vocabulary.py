"""Log-probs of chosen tokens, a few tokens at a time, so that the logits of a batch never exist at once.

The gradient of log p(y) with respect to the hidden state is a vector of its size, and the coefficient it will be
weighted with is not needed to compute it: where the head is frozen, the forward pass leaves that vector and forgets the
logits, and the backward pass is one product. Where the head is trained, the backward pass computes the logits again.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = 2**23  # 32 MiB in float32; fewer would not be faster


class Head(NamedTuple):
    """logits = cap · tanh((W h + b) / cap) / temperature, without the cap where it is None."""

    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    cap: float | None = None
    temperature: float = 1.0

    def logits(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """([n, V] in float32 or wider, d logits / d (W h + b) · temperature where it is not 1)."""
        raw = F.linear(hidden, self.weight, self.bias)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        if self.cap is None:
            return raw.div_(self.temperature) if self.temperature != 1 else raw, None
        bent = torch.tanh(raw / self.cap)
        return bent * (self.cap / self.temperature), 1 - bent**2


def token_logprobs(hidden: Tensor, chosen: Tensor, head: Head, *, entropy: bool = False) -> tuple[Tensor, Tensor]:
    """Log softmax(logits)[chosen], and the entropy of each distribution in nats (zeros unless asked for).

    Args:
        hidden: [N, H]; chosen: [N] token ids.

    Returns:
        ([N], [N]), both with their gradients.
    """
    hidden = hidden.to(head.weight.dtype)  # under autocast a trunk may end in bfloat16
    return _TokenLogprobs.apply(hidden, head.weight, head.bias, chosen, head.cap, head.temperature, entropy)  # type: ignore[no-untyped-call]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        chosen: Tensor,
        cap: float | None,
        temperature: float,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        head = Head(weight, bias, cap, temperature)
        trains_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        keeps = ctx.needs_input_grad[0] and not trains_head
        logprobs, entropies, slopes, bends = [], [], [], []
        for states, ids in _parts(head, hidden, chosen):
            logits, bent = head.logits(states)
            picked = logits.gather(-1, ids[:, None])
            p, top, total = _exponentials(logits, keep=entropy)
            logprobs.append((picked - top - total.log())[:, 0])
            if keeps:
                slope = _chosen_slope(head, ids, bent) - _through(head, p, bent) / total
                slopes.append(slope.to(states.dtype))
            if entropy:
                logits -= total.log()
                p /= total
                entropies.append(_entropy(p, logits))
            if keeps and entropy:
                bends.append(_through(head, _entropy_slope(p, logits, entropies[-1]), bent))
        ctx.head, ctx.trains_head, ctx.entropy = head, trains_head, entropy
        ctx.device = device = hidden.device.type
        ctx.autocast = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}
        saved = (hidden, chosen) if trains_head else ()
        ctx.save_for_backward(*saved, *(torch.cat(x) for x in (slopes, bends) if x))
        found = torch.cat(logprobs)
        return found, torch.cat(entropies) if entropy else torch.zeros_like(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logprobs: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(ctx.device, **ctx.autocast):  # the logits are to be those of the forward pass
            return _gradients(ctx, of_logprobs, of_entropy)


def _gradients(ctx: Any, of_logprobs: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
    """Those of the hidden states, and of the head's weights where it is trained."""
    head: Head = ctx.head
    if not ctx.trains_head:
        slopes, *bends = ctx.saved_tensors
        grad = of_logprobs[:, None].to(slopes.dtype) * slopes
        if bends:
            grad += of_entropy[:, None].to(slopes.dtype) * bends[0]
        return grad, None, None, None, None, None, None
    hidden, chosen = ctx.saved_tensors
    grads = [torch.zeros_like(head.weight), None if head.bias is None else torch.zeros_like(head.bias)]
    of_hidden, begin = [], 0
    for states, ids in _parts(head, hidden, chosen):
        part = slice(begin, begin := begin + len(ids))
        logits, bent = head.logits(states)
        p, _, total = _exponentials(logits, keep=ctx.entropy)
        p /= total
        bend: Tensor | float = 0.0
        if ctx.entropy:
            logits -= total.log()
            bend = of_entropy[part, None] * _entropy_slope(p, logits, _entropy(p, logits))
        slope = _logprob_slope(p, ids).mul_(of_logprobs[part, None]).add_(bend)
        raw = (slope if bent is None else slope * bent).div_(head.temperature).to(states.dtype)
        of_hidden.append(raw @ head.weight)
        grads[0].addmm_(raw.T, states)  # type: ignore[union-attr]
        if grads[1] is not None:
            grads[1] += raw.sum(0)
    return torch.cat(of_hidden), grads[0], grads[1], None, None, None, None


def _parts(head: Head, hidden: Tensor, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(64, LOGITS_AT_ONCE // len(head.weight))
    return zip(hidden.split(size), chosen.split(size), strict=True)


def _exponentials(logits: Tensor, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(exp(logits − top), top, their sum), in place of the logits unless these are kept, less top."""
    top = logits.amax(-1, keepdim=True)
    logits -= top
    p = logits.exp() if keep else logits.exp_()
    return p, top, p.sum(-1, keepdim=True)


def _logprob_slope(p: Tensor, ids: Tensor) -> Tensor:
    """D log p(y) / d logits = 1[y] − p, in place of p."""
    return p.neg_().scatter_add_(-1, ids[:, None], torch.ones_like(p[:, :1]))


def _entropy(p: Tensor, logprobs: Tensor) -> Tensor:
    return -(p * torch.where(p == 0, 0, logprobs)).sum(-1)  # 0 · −inf is NaN, its limit 0


def _entropy_slope(p: Tensor, logprobs: Tensor, entropy: Tensor) -> Tensor:
    """D entropy / d logits = −p (log p + entropy)."""
    return -p * (torch.where(p == 0, 0, logprobs) + entropy[:, None])


def _chosen_slope(head: Head, ids: Tensor, bent: Tensor | None) -> Tensor:
    """D logit(y) / d hidden state, [n, H]."""
    rows = head.weight[ids] / head.temperature
    return rows if bent is None else rows * bent.gather(-1, ids[:, None])


def _through(head: Head, slope: Tensor, bent: Tensor | None) -> Tensor:
    """A slope with respect to the logits -> one with respect to the hidden state, [n, H]."""
    raw = slope if bent is None else slope * bent
    return (raw / head.temperature if head.temperature != 1 else raw).to(head.weight.dtype) @ head.weight
