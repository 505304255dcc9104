"""The contrast set of supervised contrastive losses with a momentum queue: who is compared with whom.

Anchors are the queries of a batch. They are compared with all queries, all keys and the queue:

    V = [q; k; Q]  in R^{(B + B + K) x d},   labels Y = [y; y; l]
    s_ij = q_i . V_j / temperature
    A(i) = all j but the anchor itself; P(i) = {j in A(i): Y_j = y_i}

An anchor's own key always stays, so P(i) is never empty. Entries of the queue with a label below 0 are
empty places and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from longtail.core.precision import at_least_float32


@dataclass(frozen=True)
class Contrast:
    """Similarities of anchors to the contrast set.

    Attributes:
        similarity: s, [B, M] with M = 2 B' + K; -inf where j is not in A(i).
        positive: 1 where j is in P(i), float [B, M].
        usable: Whether j is in A(i), bool [B, M].
    """

    similarity: Tensor
    positive: Tensor
    usable: Tensor


def contrast(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    labels: Tensor,
    queue_labels: Tensor,
    temperature: float,
    *,
    others: tuple[Tensor, Tensor, Tensor] | None = None,
    first: int = 0,
) -> Contrast:
    """Compare the anchors with everything, in at least float32.

    Args:
        queries: Unit rows, [B, d]; also part of the contrast set, with gradient.
        keys: Unit rows, [B, d], constants.
        queue: [K, d], constants.
        labels: int64 [B].
        queue_labels: int64 [K]; below 0 for an empty place.
        temperature: Of the similarities, above 0.
        others: Queries, keys and labels of the joint batch of several processes, if anchors are
            compared with these; in them the anchors begin at row `first`.
        first: See `others`.
    """
    all_queries, all_keys, all_labels = others or (queries, keys, labels)
    with torch.autocast(queries.device.type, enabled=False):
        anchors = at_least_float32(queries)
        rows = torch.cat(
            [at_least_float32(all_queries), at_least_float32(all_keys), queue.to(anchors.dtype)]
        )
        similarity = anchors @ rows.T / temperature
    row_labels = torch.cat([all_labels, all_labels, queue_labels])  # [M]
    usable = (row_labels >= 0).expand(len(anchors), -1).clone()
    own = torch.arange(len(anchors), device=anchors.device)
    usable[own, first + own] = False
    positive = (labels[:, None] == row_labels) & usable
    return Contrast(
        similarity.masked_fill(~usable, -torch.inf), positive.to(similarity.dtype), usable
    )
