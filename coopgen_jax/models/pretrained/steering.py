"""Which language models write together with a base model, by name or loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coopgen_jax.models.pretrained.combined_model import CombinedModel, check_reference, combined
from coopgen_jax.models.pretrained.loaded_model import LoadedModel

# Returns the language model of a name.
Load = Callable[[str], LoadedModel]
# What `combined` takes them to be where they are not given.
EXPERT_WEIGHT, GUIDANCE = 1.0, 1.5
# Fields in which {target} stands for the target's name.
NAMED = ("expert", "anti_expert", "negative_prompt", "control_code")


@dataclass(frozen=True)
class Steering:
    """What changes the logits of a base model; see `combined`.

    In names and texts {target} stands for the class that is written towards.

    Attributes:
      expert: Name or path of a model of texts as they are to be, or the model itself.
      anti_expert: The same of texts as they are not to be.
      expert_weight: Weight of the expert against the anti-expert; None for 1.
      negative_prompt: What the base reads in place of the prompt to be guided away from.
      guidance: How far away from it; None for 1.5.
      control_code: Stands in front of every prompt that the base reads.
    """

    expert: str | LoadedModel | None = None
    anti_expert: str | LoadedModel | None = None
    expert_weight: float | None = None
    negative_prompt: str | None = None
    guidance: float | None = None
    control_code: str | None = None

    @property
    def names_target(self) -> bool:
        """Whether which models write depends on the target."""
        fields = (getattr(self, name) for name in NAMED)
        return any(isinstance(field, str) and "{target}" in field for field in fields)

    def settings(self) -> dict[str, Any]:
        """Returns the settings in plain JSON, None where not asked, models by their names."""
        weight = EXPERT_WEIGHT if self.expert_weight is None else self.expert_weight
        guidance = GUIDANCE if self.guidance is None else self.guidance
        return {
            "expert": name_of(self.expert),
            "anti_expert": name_of(self.anti_expert),
            "expert_weight": weight if self.expert or self.anti_expert else None,
            "negative_prompt": self.negative_prompt,
            "guidance": None if self.negative_prompt is None else guidance,
            "control_code": self.control_code,
        }

    def combine(self, base: LoadedModel, load: Load, target: str | None = None) -> LoadedModel:
        """Returns the model that writes towards a target: the base, or it combined with others.

        An expert that is named twice is loaded once.
        """
        given = {name: value for name, value in self.settings().items() if value is not None}
        if not given:
            return base
        for name in set(NAMED) & set(given):
            given[name] = given[name].replace("{target}", target or "")
        loaded: dict[str, LoadedModel] = {}
        for role in ("expert", "anti_expert"):
            model = getattr(self, role)
            if isinstance(model, str):
                name = given[role]
                model = loaded[name] = loaded.get(name) or load(name)
            if model:
                given[role] = model
        return combined(base, **given)


def name_of(model: str | LoadedModel | None) -> str | None:
    """Returns the name of a model that is named or loaded."""
    return model if isinstance(model, str | None) else model.name


def load_reference(
    reference: str | LoadedModel, base: LoadedModel, writer: LoadedModel, load: Load
) -> LoadedModel:
    """Returns the model that a search is charged for leaving, with the tokens of `base`.

    The writer may be combined of several models and hold it already.
    """
    if not isinstance(reference, str):
        return reference
    for network in writer.networks if isinstance(writer, CombinedModel) else ():
        if network.name == reference:
            return network
    model = load(reference)
    if model is not base:
        check_reference(model, base)
    return model
