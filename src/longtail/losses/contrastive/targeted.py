"""K-positive contrastive loss (KCL; Kang et al., ICLR 2021) and the targeted one (TSC; Li et al., CVPR 2022).

    s     similarities of a query to its own key, to all keys of the queue and to the targets, / temperature
    P     the own key and up to K keys of the query's class, drawn without replacement
    t     the target of its class
    L_i = - ( sum_{p in P} log p_ip + weight log p_it ) / (|P| + 1),   p_i = softmax(s_i)

Without targets (KCL) there is no t, and L_i = - sum log p_ip / |P|. Other keys of the class stay in the
denominator. With a fixed number of positives, frequent classes are not drawn together more than rare ones;
targets keep the classes apart, however rare they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32


def drawn_positives(labels: Tensor, queue_labels: Tensor, count: int) -> Tensor:
    """Draw up to `count` places of the queue for each label, without replacement, bool [B, Q].

    Args:
        labels: int64 [B].
        queue_labels: int64 [Q]; below 0 for a place without a class.
        count: K.
    """
    same = labels[:, None] == queue_labels
    order = torch.rand(same.shape, device=labels.device).masked_fill(~same, -1.0)
    chosen = order.topk(min(count, order.shape[1]), dim=1).indices
    return torch.zeros_like(same).scatter(1, chosen, True) & same


def targeted_contrastive(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    positives: Tensor,
    temperature: float,
    targets: Tensor | None = None,
    labels: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:
    """Return the loss of each query, [B], in at least float32.

    Args:
        queries: Unit rows, [B, d].
        keys: Of the other views, unit rows, [B, d], constants.
        queue: [Q, d], constants.
        positives: Places of the queue that count as positives, bool [B, Q].
        temperature: Above 0.
        targets: One for each class, unit rows, [C, d]; None for KCL.
        labels: int64 [B], needed with targets.
        weight: Of the target beside a key.
    """
    with torch.autocast(queries.device.type, enabled=False):
        q = at_least_float32(queries)
        own = (q * keys.to(q.dtype)).sum(dim=1, keepdim=True)
        rows = queue.to(q.dtype)
        if targets is not None:
            rows = torch.cat([rows, targets.to(q.dtype)])
        log_p = (torch.cat([own, q @ rows.T], dim=1) / temperature).log_softmax(dim=1)
    size = positives.shape[1]
    told = log_p[:, 0] + torch.where(positives, log_p[:, 1 : 1 + size], 0.0).sum(dim=1)
    count = 1 + positives.sum(dim=1)
    if targets is None:
        return -told / count
    assert labels is not None, "targets are of classes"
    aimed = log_p[:, 1 + size :].gather(1, labels[:, None])[:, 0]
    return -(told + weight * aimed) / (count + 1)
