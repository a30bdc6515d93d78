"""The methods of a comparison with their networks, each of which is loaded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from coopgen_jax.comparison.method_run import MethodRun
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.models.pretrained.combined_model import network_of
from coopgen_jax.models.pretrained.loaded_model import LoadedModel, load
from coopgen_jax.models.pretrained.steering import load_reference
from coopgen_jax.models.prompt import make_prompt


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A method and what it writes with.

    Attributes:
      method: The method.
      config: Its settings, words in them as tokens.
      guide: Its discriminator, or None.
      writers: The model that writes by target; one, of any target, where all are the same.
      reference: The model that leaving is charged, or None.
    """

    method: MethodRun
    config: DecoderSettings
    guide: LoadedDiscriminator | None
    writers: dict[str, LoadedModel]
    reference: LoadedModel | None

    @property
    def models(self) -> list[LoadedModel]:
        """The models that write."""
        return list(self.writers.values())

    def check_prompts(self, reading: "Reading") -> None:
        """Raises UserError where the method cannot go on from a prompt."""
        for model in (*self.models, *([self.reference] if self.reference else [])):
            texts = {n: text for n, text in enumerate(reading.by(model)) if text is not None}
            make_prompt(
                model.tokenizer,
                list(texts.values()),
                numbers=list(texts),
                context=network_of(model).context,
                reserve=self.config.ahead,
            )


@dataclass(frozen=True)
class Reading:
    """How prompts are read.

    Attributes:
      prompts: As they were given, None for one that is left out.
      chat: Whether they are put into the chat template.
      control_strings: Whether control strings in them are control tokens in a chat too.
    """

    prompts: Sequence[str | None]
    chat: bool = False
    control_strings: bool = False

    def by(self, model: LoadedModel) -> list[str | list[int] | None]:
        """Returns what a model reads of each prompt."""
        if not self.chat:
            return list(self.prompts)
        return [
            None
            if text is None
            else model.tokenizer.chat_ids(text, control_strings=self.control_strings)
            for text in self.prompts
        ]


def load_runs(
    methods: Sequence[MethodRun], targets: Sequence[str], *, dtype: str
) -> list[LoadedRun]:
    """Loads what methods write with, by target; raises UserError where something cannot be."""

    @cache
    def loaded(name: str) -> LoadedModel:
        return load(name, dtype=dtype)

    @cache
    def loaded_guide(name: str, base: LoadedModel) -> LoadedDiscriminator:
        return load_discriminator(name, language_model=base)

    runs = []
    for method in methods:
        base = loaded(method.model) if isinstance(method.model, str) else method.model
        config = method.with_tokens(base.tokenizer) if method.with_tokens else method.config
        writers = {
            target: method.steering.combine(base, loaded, target)
            for target in (targets if method.steering.names_target else targets[:1])
        }
        reference, guide = None, method.discriminator
        if method.reference is not None and isinstance(config, MCTSConfig) and config.reference:
            reference = load_reference(method.reference, base, base, loaded)
        if isinstance(guide, str):
            guide = loaded_guide(guide, base)
        runs.append(LoadedRun(method, config, guide, writers, reference))
    return runs
