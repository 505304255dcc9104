"""The corrections by name: what each needs, how its strength is chosen, what comes out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longtail.adjust import (
    TAUS,
    NearestClassMean,
    Retraining,
    deployment_shift,
    distribution,
    estimate_prior,
    fit_temperature,
    in_use,
    learn_scales,
    nearest_class_mean,
    retrain_classifier,
    tau_curve,
    tau_normalize,
)
from longtail.adjust.tool.evidence import Classifier, Evidence
from longtail.core.errors import ConfigError
from longtail.data.sampling.samplers import class_probability
from longtail.evaluation.metrics import confusion_matrix, macro_accuracy

STRONGEST = 100  # strengths of published models are below 3


@dataclass(frozen=True)
class Corrected:
    """A corrected model: one of a new last layer, a change of every logit, or class means.

    Attributes:
        classifier: A new last layer.
        scale: Factor of every logit, [C] or a number.
        offset: Added to every logit after the factor, [C] or a number.
        means: Class means that replace the last layer.
        assumed: Class distribution that the corrected logits assume, float64 [C]; None if unknown.
        facts: Strength, where it was chosen, and the curve, as JSON.
        transductive: Whether inputs of the test split were used.
    """

    classifier: Classifier | None = None
    scale: Tensor | float = 1.0
    offset: Tensor | float = 0.0
    means: NearestClassMean | None = None
    assumed: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    transductive: bool = False

    def logits(self, evidence: Evidence, split: str) -> Tensor:
        """Return the corrected logits of a split, [N, C]."""
        if self.means is not None:
            return self.means.scores(evidence.features(split))
        if self.classifier is not None:
            return self.classifier(evidence.features(split))
        return self.scale * evidence.logits(split) + self.offset

    def folded(self, classifier: Classifier) -> Classifier | None:
        """Return the last layer that has the correction in it; None for class means."""
        if self.means is not None:
            return None
        if self.classifier is not None:
            return self.classifier
        scale = torch.as_tensor(self.scale).expand(len(classifier.bias)).to(classifier.weight)
        weight, bias = scale[:, None] * classifier.weight, scale * classifier.bias
        return Classifier(weight, bias + torch.as_tensor(self.offset).to(bias))


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        strength: Of tau or logit adjustment; chosen on val if not given.
        prior: Class distribution at deployment, [C]; estimated from the test inputs if not given.
        retraining: How LWS and cRT train.

    Raises:
        ConfigError: If the strength is not finite, or beyond anything that can be meant.
    """

    strength: float | None = None
    prior: Tensor | None = None
    retraining: Retraining = field(default_factory=Retraining)

    def __post_init__(self) -> None:
        if self.strength is not None and not math.isfinite(self.strength):
            raise ConfigError(f"--strength must be a finite number, but got {self.strength}.")
        if self.strength is not None and abs(self.strength) > STRONGEST:
            raise ConfigError(
                f"--strength must be between -{STRONGEST} and {STRONGEST}, but got {self.strength:g}."
            )


def fitting(name: str, epochs: int | None = None) -> Request:
    """Return how a correction is fitted where nothing else is asked for.

    Args:
        name: Of the correction.
        epochs: Of crt or lws; 10 and 5, as published, if not given.
    """
    return Request(retraining=Retraining(epochs=epochs or (5 if name == "lws" else 10)))


def tau_normalised(evidence: Evidence, request: Request) -> Corrected:
    """Divide the rows of the last layer by their norms to the power tau; the bias is dropped."""
    weight = evidence.known_classifier().weight
    facts: dict[str, Any] = {"strength": request.strength, "chosen_on": "given"}
    tau = request.strength
    if tau is None:
        curve = tau_curve(evidence.features("val"), evidence.outputs("val").labels, weight)
        tau = curve.best
        facts = _chosen(tau, zip(curve.taus, curve.accuracy, strict=True))
    return Corrected(Classifier(tau_normalize(weight, tau), torch.zeros(len(weight))), facts=facts)


def logit_adjusted(evidence: Evidence, request: Request) -> Corrected:
    """Subtract tau log pi from the logits (Menon et al., ICLR 2021, eq. 8)."""
    log_prior = evidence.class_counts.log_prior()
    tau = request.strength
    facts: dict[str, Any] = {"strength": tau, "chosen_on": "given"}
    if tau is None:
        labels = evidence.outputs("val").labels
        logits = evidence.logits("val")
        curve = [(t, _macro(logits - t * log_prior, labels)) for t in TAUS]
        tau = max(curve, key=lambda pair: (pair[1], -pair[0]))[0]
        facts = _chosen(tau, curve)
    before = evidence.prior()
    after = None if before is None else before.log() - tau * log_prior.double()
    known = None if after is None else distribution(after)
    return Corrected(offset=-tau * log_prior, assumed=known, facts=facts)


def class_means(evidence: Evidence, request: Request) -> Corrected:
    """Replace the last layer by the mean feature of every class, in the published form."""
    train = evidence.outputs("train")
    fitted = nearest_class_mean(
        evidence.features("train"), train.labels, len(evidence.class_counts)
    )
    return Corrected(means=fitted, facts={"fitted_on": "train"})


def scaled(evidence: Evidence, request: Request) -> Corrected:
    """Train one factor per class on class-balanced draws of the training logits (LWS)."""
    labels = evidence.outputs("train").labels
    scales = learn_scales(
        evidence.logits("train"), labels, evidence.class_counts, request.retraining
    )
    return Corrected(scale=scales, facts={"fitted_on": "train"})


def retrained(evidence: Evidence, request: Request) -> Corrected:
    """Train a new last layer on class-balanced draws of the training features (cRT)."""
    labels = evidence.outputs("train").labels
    features = evidence.features("train")
    counts, how = evidence.class_counts, request.retraining
    made = retrain_classifier(features, labels, counts, how)
    drawn = torch.from_numpy(class_probability(how.sampling, counts, how.epochs - 1, how.epochs))
    return Corrected(Classifier(*made), assumed=drawn, facts={"fitted_on": "train"})


def tempered(evidence: Evidence, request: Request, *, balanced: bool = False) -> Corrected:
    """Divide all logits by the temperature that fits val best; no prediction changes.

    It mends how sure the model is, not of which classes: the distribution that it assumes stays.

    Raises:
        ConfigError: If the temperature that is asked for is not above 0.
    """
    if request.strength is not None and request.strength <= 0:
        raise ConfigError(
            f"A temperature must be above 0, but got --strength {request.strength:g}."
        )
    logits, labels = evidence.logits("val"), evidence.outputs("val").labels
    temperature = request.strength or fit_temperature(logits, labels, balanced=balanced)
    where = "given" if request.strength else "val"
    return Corrected(
        scale=1 / temperature, assumed=evidence.prior(),
        facts={"strength": temperature, "chosen_on": where},
    )  # fmt: skip


def evenly_tempered(evidence: Evidence, request: Request) -> Corrected:
    """Divide all logits by the temperature that fits val best when every class counts alike."""
    return tempered(evidence, request, balanced=True)


def deployed(evidence: Evidence, request: Request) -> Corrected:
    """Move the predictions to the class distribution at deployment, given or estimated.

    Raises:
        ConfigError: If it is not known which distribution the logits assume.
    """
    assumed, prior, facts = evidence.known_prior(), request.prior, {"prior": "given"}
    if prior is None:
        prior = estimate_prior(evidence.logits("test"), assumed)
        facts = {"prior": "estimated from the images of the test split"}
    return Corrected(
        offset=deployment_shift(assumed, prior).float(),
        assumed=in_use(prior),
        facts={**facts, "deployed_prior": [round(float(p), 6) for p in prior]},
        transductive=request.prior is None,
    )


CORRECTIONS: dict[str, Callable[[Evidence, Request], Corrected]] = {
    "tau": tau_normalised,
    "logit-adjust": logit_adjusted,
    "ncm": class_means,
    "lws": scaled,
    "crt": retrained,
    "temperature": tempered,
    "balanced-temperature": evenly_tempered,
    "prior": deployed,
}
CHANGES_THE_PRIOR = ("tau", "logit-adjust", "ncm", "lws", "crt", "prior")  # the others keep it


def _macro(logits: Tensor, labels: Tensor) -> float:
    """Return the mean accuracy over the classes that occur."""
    confusion = confusion_matrix(labels.numpy(), logits.argmax(dim=1).numpy(), logits.shape[1])
    macro = macro_accuracy(confusion)
    assert macro is not None, "a split holds an image"
    return macro


def _chosen(strength: float, curve: Iterable[tuple[float, float]]) -> dict[str, Any]:
    rows = [{"strength": s, "macro_accuracy": round(a, 6)} for s, a in curve]
    return {"strength": strength, "chosen_on": "val", "curve": rows}
