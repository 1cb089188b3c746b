"""The likelihood of given tokens."""

from torch import Tensor

from proxtune.objectives.masked import masked_mean


def sft_loss(
    logprobs: Tensor, mask: Tensor, *, count: Tensor | float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean negative log-likelihood of the counted tokens, in nats a token.

    Args:
        logprobs, mask: [B, T]; count: the counted tokens of the whole optimiser step.

    Returns:
        (loss, stats) with `likelihood`, the mean probability of a counted token.
    """
    return -masked_mean(logprobs, mask, count=count), {
        "likelihood": masked_mean(logprobs.detach().exp(), mask, count=count)
    }
