"""Layer-wise learning rates: what lies further from the task's head changes less."""

from torch import nn

from proxtune.errors import ModelError
from proxtune.models.language_model import LanguageModel
from proxtune.models.trunk import blocks


def layer_factors(model: LanguageModel, decay: float) -> dict[nn.Parameter, float]:
    """What the learning rate of each trained weight is multiplied by (Howard and Ruder 2018, arXiv 1801.06146; Clark
    et al. 2020, arXiv 2003.10555).

        block i of L: decay^(L − 1 − i)   embeddings: decay^L   the head and what lies above the blocks: 1

    A head that is tied to the embeddings is one of them. Nothing is multiplied where decay = 1.

    Raises:
        ModelError: a model without blocks.
    """
    if decay == 1:
        return {}
    path, found = blocks(model.module)
    if not found:
        raise ModelError(
            f"optim.layer_decay={decay:g} lowers the learning rate from block to block, and "
            f"{type(model.module).__name__} has no blocks; set optim.layer_decay=1"
        )
    count, embeddings = len(found), _embeddings(model)
    factors = {}
    for name, weight in model.trained().items():
        if name.startswith(f"{path}."):
            factors[weight] = decay ** (count - 1 - int(name.removeprefix(f"{path}.").partition(".")[0]))
        else:
            factors[weight] = decay**count if weight in embeddings else 1.0
    return factors


def _embeddings(model: LanguageModel) -> set[nn.Parameter]:
    """The weights of every embedding layer, and of all in a part that is named for its embeddings, norms with them."""
    head = model.module.get_output_embeddings()
    return {
        weight
        for name, part in model.module.named_modules()
        if part is not head and (isinstance(part, nn.Embedding) or "embed" in name)
        for weight in part.parameters(recurse=False)
    }
