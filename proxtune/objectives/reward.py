"""Learning a score from comparisons, or from ratings."""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """−log σ(s_chosen − s_rejected − margin), averaged over pairs.

    Bradley & Terry 1952; the margin is that of Llama 2 (arXiv 2307.09288).

    Args:
        chosen, rejected: [N] scores; margin: [N], how much better the chosen one was judged.

    Returns:
        (loss, stats) with `accuracy`, the share of pairs whose chosen score is the higher,
        and `margin`, the mean difference.
    """
    difference = chosen - rejected
    loss = -F.logsigmoid(difference if margin is None else difference - margin).mean()
    difference = difference.detach()
    return loss, {"accuracy": (difference > 0).to(chosen.dtype).mean(), "margin": difference.mean()}


def rating_loss(scores: Tensor, ratings: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """½ (s − R)², averaged over answers: the score learns the mean of what people gave.

    Args:
        scores, ratings: [N], the ratings on the scores' own scale (mean 0, standard deviation 1).

    Returns:
        (loss, stats) with `error`, the mean of |s − R|.
    """
    difference = scores - ratings
    return 0.5 * (difference**2).mean(), {"error": difference.detach().abs().mean()}
