"""What a student learns from a teacher's probabilities (Hinton et al., 2015, arXiv 1503.02531).

    KL( softmax(t / T) || softmax(z / T) )

without the factor T^2 that keeps its gradient as large as at T = 1: some papers have it, some do not.
"""

from torch import Tensor

from longtail.core.precision import at_least_float32


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the divergence of each image, [B]; no gradient reaches the teacher.

    Args:
        student: z, [B, C].
        teacher: t, [B, C].
        temperature: T, above 0.
    """
    log_q = (at_least_float32(student) / temperature).log_softmax(dim=1)
    log_p = (at_least_float32(teacher).detach() / temperature).log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
