"""One method of a comparison, and what is known of it before it has written anything."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.discriminators.host.python_file import is_python, read_function
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import classes_of, folder_of
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.written_texts import Method, Written, steering_of
from coopgen_jax.models.pretrained.loaded_model import DEFAULT_MODEL, LoadedModel
from coopgen_jax.models.pretrained.steering import Steering, name_of
from coopgen_jax.tokenizer import Tokenizer


@dataclass(frozen=True)
class MethodRun:
    """One method of a comparison: what writes, and by which settings.

    Models and discriminators are names, or paths of their folders, or loaded already. A loaded
    discriminator has no folder that says which rows it was trained on: with a judge, name it.

    Attributes:
      name: What files and tables call the method; names within a comparison differ.
      config: Settings of the decoder.
      model: The language model.
      discriminator: What guides a guided decoder, and only judges the texts of others; None for
        nothing.
      steering: What is combined with the language model.
      reference: The language model that a search is charged `kl` for leaving.
      method: The decoder's name in the file's header, such as "greedy".
      preset: Name of the settings that those of a search began as, for the header alone.
      with_tokens: Returns the config once the tokenizer is there, for settings that depend on it,
        such as bad words; None for the config as it is.
    """

    name: str
    config: DecoderSettings
    model: str | LoadedModel = DEFAULT_MODEL
    discriminator: str | LoadedDiscriminator | None = None
    steering: Steering = field(default_factory=Steering)
    reference: str | LoadedModel | None = None
    method: str | None = None
    preset: str | None = None
    with_tokens: Callable[[Tokenizer], DecoderSettings] | None = None


def text_files(runs: Sequence[MethodRun], folder: Path) -> list[Path]:
    """Returns the file of every method's texts; raises UserError where two share a name."""
    paths: list[Path] = []
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise UserError(f"two methods are called {run.name}: give every method its own name")
        stem = re.sub(r"[^\w.-]+", "-", run.name)
        path = folder / f"{stem}.jsonl"
        if path in paths:
            # Names that differ in signs alone.
            path = folder / f"{stem}-{hashlib.sha256(run.name.encode()).hexdigest()[:6]}.jsonl"
        paths.append(path)
    return paths


def announced(runs: Sequence[MethodRun], targets: Sequence[str]) -> list[Method]:
    """Returns methods as far as they are known before they have written anything.

    With them `check_methods` refuses a judge or an oracle before anything is loaded.

    Raises:
      UserError: a target is no class of a method's discriminator.
    """
    methods = []
    for run in runs:
        if run.discriminator is not None:
            check_targets(run.discriminator, targets)
        model = name_of(run.model)
        texts = tuple(Written("", "", target) for target in targets)
        steering = steering_of(run.steering.settings() | {"target": list(targets)}, model)
        methods.append(Method(run.name, texts, guide_name(run), True, model, (), steering))
    return methods


def guide_name(run: MethodRun) -> str | None:
    """Returns what files call a method's discriminator, None where there is none."""
    guide = run.discriminator
    if isinstance(guide, str | None):
        return guide
    return str(guide.card.get("name", "a loaded discriminator"))


def check_targets(
    guide: str | LoadedDiscriminator, targets: Sequence[str], *, source: str = "--target"
) -> None:
    """Raises UserError where a target is no class of a guide, which need not be loaded.

    The sentence calls it by `source`.
    """
    if isinstance(guide, str) and is_python(guide):
        label, classes = guide, read_function(guide).classes
    elif isinstance(guide, str):
        label, folder = guide, folder_of(guide)
        try:
            classes = classes_of(folder)
        except UserError:
            return  # loading it will say what is wrong
    else:
        label, classes = guide.card.get("name", "the guide"), guide.discriminator.classes
    for target in targets:
        if target not in classes:
            raise UserError(
                f"{source} {target} is unknown to {label}: its classes are {', '.join(classes)}"
            )
