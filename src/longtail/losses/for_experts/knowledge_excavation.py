"""What experts learn from each other in SHIKE (Jin et al., CVPR 2023): one teacher that excels off the label.

    z_t   teacher: largest logit of the experts of each class, of the hardest one their mean, of the label 0
    q_e   softmax of z_e with the label at -30, so that it is left out
    H     sum_e KL( softmax(z_t) || q_e )                              hard-class mining
    M     sum over e and j != e of KL( softmax(z_j) || softmax(z_e) )  mutual distillation

The hardest class is the one of largest mean logit beside the label. To say it is unlikely, the teacher has
the mean of the experts there, less than their largest. No side is held fast. The released code divides
divergences by the number of images and of classes (its framework's `mean`), a hundredth of their mean over
images on CIFAR-100.
"""

from typing import Literal

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32

Share = Literal["element", "image"]
LABEL = -30.0  # logit of a class that is left out


def knowledge_excavation(
    logits: Tensor, labels: Tensor, share: Share = "element"
) -> tuple[Tensor, Tensor]:
    """Return H and M, scalars in at least float32.

    Args:
        logits: z, of the experts, [B, E, C].
        labels: int64 [B].
        share: What divergences are a mean over: elements of [B, C], as released, or images.
    """
    z = at_least_float32(logits)
    own = torch.zeros_like(z[:, 0], dtype=torch.bool).scatter(1, labels[:, None], True)  # [B, C]
    mean = z.mean(dim=1)
    others = mean.masked_fill(own, LABEL)
    hardest = torch.zeros_like(own).scatter(1, others.argmax(dim=1, keepdim=True), True)
    teacher = torch.where(hardest, others, z.amax(dim=1).masked_fill(own, 0.0))
    told = teacher.log_softmax(dim=1)[:, None]  # [B, 1, C]
    student = z.masked_fill(own[:, None], LABEL).log_softmax(dim=2)
    mined = (told.exp() * (told - student)).sum(dim=(1, 2)).mean()
    log_p = z.log_softmax(dim=2)
    of, to = log_p[:, :, None], log_p[:, None]
    mutual = (of.exp() * (of - to)).sum(dim=(1, 2, 3)).mean()  # 0 for an expert and itself
    parts = z.shape[2] if share == "element" else 1
    return mined / parts, mutual / parts
