"""Options of the sampler of a stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator

from longtail.config import Options
from longtail.core.stage import SamplerName, Sampling, epochs_of
from longtail.data.sampling.samplers import SAMPLERS


def _or_of_a_plugin(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401 - raw input
    return value if isinstance(value, str) and value in SAMPLERS else handler(value)


class SamplingOptions(Options):
    """How training images are drawn, from an epoch on (deferred re-sampling)."""

    name: Annotated[SamplerName, WrapValidator(_or_of_a_plugin), PlainSerializer(str)] = "instance"
    form: Literal["published", "multinomial"] = Field(
        "published",
        description="shuffled cycles through classes and images, as in the released code, or "
        "independent draws",
    )
    draws_per_class: int = Field(
        4, ge=1, description="consecutive images per class in the class-balanced cycle"
    )
    beta: float = Field(0.9999, ge=0, lt=1, description="beta of effective-number sampling")
    start: float = Field(
        0.0, ge=0, description="first epoch with this sampler; earlier epochs are instance-balanced"
    )

    def build(self, epochs: int) -> Sampling:
        """Return the sampling of a stage of `epochs` epochs."""
        return Sampling(
            name=self.name,
            form=self.form,
            draws_per_class=self.draws_per_class,
            beta=self.beta,
            switch_epoch=epochs_of(self.start, epochs) if self.start else None,
        )
