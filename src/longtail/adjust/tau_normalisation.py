"""Tau-normalisation of a classifier (Kang et al., ICLR 2020, arXiv 1910.09217, eq. 9).

After ordinary training the rows of a classifier are longer for frequent classes. Dividing each by a
power of its length takes the preference away without any training: w_c / ||w_c||^tau. The bias is
dropped, as in the released code.
"""

import torch
from torch import Tensor


def tau_normalize(weight: Tensor, tau: float) -> Tensor:
    """Return the rows of a linear classifier divided by their norms to the power `tau`.

    Args:
        weight: [C, D], one row per class. Rows of zeros stay as they are.
        tau: 0 returns the weights bit for bit, 1 gives unit rows; 0.3 to 0.8 in the paper. The new
            norms are the old ones to the power 1 - tau.

    Returns:
        [C, D]. Logits are `features @ result.T`, without bias.
    """
    if tau == 0:
        return weight.clone()
    norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight / torch.where(norms > 0, norms, torch.ones_like(norms)) ** tau
