"""Learning a policy from comparisons, without a reward model."""

import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

        z = β · [(log π_c − log π_r) − (log ref_c − log ref_r)]        L = −(1 − ε) log σ(z) − ε log σ(−z)

    Args:
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: [N], log-probs of whole responses, in nats.
        label_smoothing: ε, the share of pairs believed to be labelled the wrong way round (conservative DPO).

    Returns:
        (loss, stats) with `accuracy` (share of pairs with z > 0) and `margin` (mean z).
    """
    z = beta * ((chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps))
    loss = (-(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)).mean()
    z = z.detach()
    return loss, {"accuracy": (z > 0).to(z.dtype).mean(), "margin": z.mean()}
