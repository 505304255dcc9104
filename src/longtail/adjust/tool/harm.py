"""Whether a correction helps, judged on val: a correction that does not is written on request only.

Never on test, which selects nothing. Where there is no val split, nothing is judged but what needs no labels.

    tau, logit-adjust, ncm, lws, crt    class-averaged accuracy, pair by pair, must rise
    temperature                         negative log-likelihood must fall, and the calibration error not rise
    balanced-temperature                negative log-likelihood of classes alike must fall
    both, chosen on val                 val must hold a mistake: without one, no temperature is too low
    prior, given                        negative log-likelihood must fall if val is weighted to that prior
    prior, estimated                    the same way of estimating must find the shares of val better than the
                                        assumed prior does
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longtail.adjust import estimate_prior
from longtail.adjust.tool.corrections import Corrected
from longtail.adjust.tool.evidence import Evidence
from longtail.evaluation.metrics import calibration_error, softmax

UNMOVED = 1e-6  # of logits
TEMPERATURES = ("temperature", "balanced-temperature")
ACCURACY = ("tau", "logit-adjust", "ncm", "lws", "crt")


def why_it_does_not_help(evidence: Evidence, name: str, corrected: Corrected) -> str | None:
    """Return in words why a correction should not be written, or None if nothing speaks against it.

    Args:
        evidence: Of the model before.
        name: Of the correction.
        corrected: The model after.
    """
    if not evidence.has_predictions():
        return None
    if name == "prior" and _same_for_all(corrected.offset):
        return (
            "the model's scores already assume this class distribution, so no prediction and no "
            "probability changes"
        )
    if (collapsed := _collapsed(evidence, corrected)) is not None:
        return collapsed
    if "val" not in evidence.splits:
        return None
    labels = evidence.outputs("val").labels
    before, after = evidence.logits("val").float(), corrected.logits(evidence, "val").float()
    if name in ACCURACY:
        old, new = (class_averaged(logits, labels) for logits in (before, after))
        if new <= old:
            return f"macro accuracy on val is {100 * old:.1f} % before and {100 * new:.1f} % after"
        return None
    if name == "prior" and corrected.transductive:
        return _misjudges(evidence, labels)
    fitted = name in TEMPERATURES and corrected.facts.get("chosen_on") == "val"
    if fitted and bool((before.argmax(dim=1) == labels).all()):
        return (
            "no prediction on val is wrong, so val cannot show how sure the model may be: the lower the "
            "temperature, the better it looks"
        )
    weights = torch.ones(before.shape[1])
    if name in ("balanced-temperature", "prior"):
        present = torch.bincount(labels, minlength=before.shape[1])
        wanted = (
            torch.ones(())
            if corrected.assumed is None or name != "prior"
            else corrected.assumed.float()
        )
        weights = torch.where(present > 0, wanted / present.clamp_min(1), 0.0)
    old, new = (
        float(F.cross_entropy(logits, labels, weight=weights)) for logits in (before, after)
    )
    if new >= old:
        return f"the negative log-likelihood on val is {old:.3f} before and {new:.3f} after"
    if name == "temperature":
        old, new = (calibration(logits, labels) for logits in (before, after))
        if new > old:
            return f"the calibration error on val is {100 * old:.1f} % before and {100 * new:.1f} % after"
    return None


def _same_for_all(offset: Tensor | float) -> bool:
    """Say whether an offset, [C] or a number, moves all logits alike, which changes no probability."""
    return isinstance(offset, float) or float(offset.max() - offset.min()) < UNMOVED


def _collapsed(evidence: Evidence, corrected: Corrected) -> str | None:
    """Say whether all images of a split become one class that were not before; needs no labels."""
    for split in ("test", "val"):
        if split in evidence.splits and len(evidence.outputs(split)) > 1:
            after = set(corrected.logits(evidence, split).argmax(dim=1).tolist())
            before = set(evidence.logits(split).argmax(dim=1).tolist())
            if len(after) == 1 < len(before):
                name = evidence.class_counts.names[after.pop()]
                return f"all images of {split} would be predicted as the same class, {name}"
    return None


def _misjudges(evidence: Evidence, labels: Tensor) -> str | None:
    """Compare what would be estimated on val with its true shares, in total variation."""
    assumed = evidence.known_prior()
    true = torch.bincount(labels, minlength=len(assumed)).double() / len(labels)
    found = estimate_prior(evidence.logits("val"), assumed)
    off, stays = (float((prior - true).abs().sum()) / 2 for prior in (found, assumed))
    if off > stays:
        return (
            f"on val, whose class shares are known, the estimate is off by {100 * off:.0f} % of the "
            f"images, and the distribution that the scores already assume is off by {100 * stays:.0f} "
            "%"
        )
    return None


def class_averaged(logits: Tensor, labels: Tensor) -> float:
    """Return the mean accuracy over the classes that occur, of logits [N, C] and int64 labels [N]."""
    right = (logits.argmax(dim=1) == labels).double()
    present = torch.bincount(labels, minlength=logits.shape[1])
    hits = torch.bincount(labels, weights=right, minlength=logits.shape[1])
    return float((hits[present > 0] / present[present > 0]).mean())


def calibration(logits: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error of logits [N, C] and int64 labels [N], in [0, 1]."""
    right = (logits.argmax(dim=1) == labels).numpy()
    return calibration_error(softmax(logits.numpy()).max(axis=1), right) or 0.0
