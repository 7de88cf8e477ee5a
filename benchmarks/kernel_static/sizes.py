"""The sizes of the model that is compiled and counted: the default ones."""

from twotower.data.features import FeatureSpec, FieldSpec
from twotower.model.config import ModelConfig


def default_config() -> ModelConfig:
    """A model of the default sizes, with one categorical and one numeric feature of items and of events."""
    spec = FeatureSpec(
        fields=(FieldSpec(name="event_type", kind="categorical"), FieldSpec(name="price", kind="numeric", edges=(0.0, 1.0)))
    )
    return ModelConfig(item_spec=spec, context_spec=spec)
