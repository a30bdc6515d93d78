"""How training texts are written: settings, openings, and what a file of them says of both."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from coopgen_jax.augmentation.filters import FilterSettings
from coopgen_jax.augmentation.memorisation import RUN
from coopgen_jax.augmentation.substitution import Private
from coopgen_jax.comparison.header import about_guide, about_model, settings_of
from coopgen_jax.data.labelled import Labelled
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.rules.watermark_key import WatermarkKey
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.text_judges import TextJudge
from coopgen_jax.models.pretrained.loaded_model import LoadedModel


@dataclass(frozen=True)
class AugmentationSettings:
    """How training texts are written.

    Attributes:
      per_class: Texts that are kept of each class.
      tries: Most texts that are written, for one that is asked for.
      opening_words: First words of a real text of the class that a text continues, and that are a
        part of it; 0 for none.
      opening_tokens: Where texts continue nothing: tokens that the language model samples in front,
        from a nucleus of `top_p`, before it is guided. They are a part of the text.
      top_p: Probability of the nucleus that these tokens are sampled from.
      decoder: How texts are written.
      filters: Which texts are kept.
      batch: Texts written at once.
      seed: Of everything random.
    """

    per_class: int = 500
    tries: int = 10
    opening_words: int = 4
    opening_tokens: int = 4
    top_p: float = 0.9
    decoder: DecoderSettings = field(default_factory=FudgeConfig)
    filters: FilterSettings = field(default_factory=FilterSettings)
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("per_class", "tries", "opening_tokens", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give 1 or more")
        if not 0 <= self.opening_words < RUN:
            raise UserError(
                f"opening_words is {self.opening_words}: give 0 to {RUN - 1}, for a text that "
                f"shares {RUN} words with an original is left out"
            )
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}: give 0 or more")
        if not self.decoder.guided:
            raise UserError("this decoder is not guided: take fudge or mcts")
        if self.decoder.weighted:
            raise UserError(
                "this decoder weighs several texts, and here each stands alone: take fudge"
            )
        if self.decoder.samples > 1:
            raise UserError("a text is written for every opening: leave samples at 1")

    @property
    def rounds(self) -> int:
        """The most batches of a class."""
        return -(-self.tries * self.per_class // self.batch)


@dataclass(frozen=True)
class Filter:
    """The classifier that filters.

    Attributes:
      judge: what judges texts.
      name: what files call it.
      weights: hash of its weights, by which another one of the same name is refused.
    """

    judge: TextJudge
    name: str
    weights: str | None = None


def check_classes(
    names: Sequence[str],
    originals: Labelled,
    guide: LoadedDiscriminator,
    judged_by: Filter | None,
) -> None:
    """Raises UserError where a class has no originals, or a guide or a filter does not know it."""
    for name in names:
        if name not in originals.classes:
            known = ", ".join(originals.classes)
            raise UserError(f"no original has the class {name!r}: there are {known}")
    parties = [("guide", guide.discriminator.classes)]
    parties += [("filter", judged_by.judge.classes)] if judged_by else []
    for party, classes in parties:
        for name in names:
            if name not in classes:
                raise UserError(
                    f"the {party} knows {', '.join(classes)}, and the originals have the class "
                    f"{name!r}: train one on them with coopgen train discriminator"
                )


def openings_of(
    originals: Labelled, name: str, settings: AugmentationSettings
) -> list[tuple[int, str]]:
    """Returns the openings of a class with the numbers of their originals, in a random order.

    An original that has no words beyond its opening gives none; without opening words there are
    none.

    Raises:
      UserError: no original of the class is long enough.
    """
    count = settings.opening_words
    if count == 0:
        return []
    label = originals.classes.index(name)
    found = []
    for number in np.flatnonzero(originals.labels == label).tolist():
        words = originals.texts[number].split()
        if len(words) > count:
            found.append((number, " ".join(words[:count])))
    if not found:
        raise UserError(
            f"no original of the class {name!r} has more than {count} words, which every text "
            "is to continue: give fewer opening_words"
        )
    order = np.random.default_rng((settings.seed, label)).permutation(len(found))
    return [found[place] for place in order]


def header_of_texts(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    originals: Labelled,
    settings: AugmentationSettings,
    *,
    names: Sequence[str],
    judged_by: Filter | None,
    private: Private | None,
    key: WatermarkKey | None,
    guide_name: str | None,
    guide_weights: str | None,
) -> dict[str, Any]:
    """Returns the first line of the file: all that the texts depend on."""
    written = settings_of(
        settings.decoder,
        target=list(names),
        seed=settings.seed,
        batch_size=settings.batch,
        dtype=model.config.dtype,
        chat=False,
    )
    own = ("per_class", "tries", "opening_words", "opening_tokens", "top_p")
    rows = list(zip(originals.texts, originals.labels.tolist(), strict=True))
    header = {
        "settings": written
        | {name: getattr(settings, name) for name in own}
        | {"substitute": private and private.identity, "watermark_key": key and key.identity},
        "filters": asdict(settings.filters),
        "filter": None if judged_by is None else {"name": judged_by.name},
        "model": about_model(model),
        "discriminator": about_guide(guide_name, guide),
        "originals": {"sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest()},
        "weights": {"discriminator": guide_weights, "filter": judged_by and judged_by.weights},
    }
    parsed: dict[str, Any] = json.loads(json.dumps(header, default=str))
    return parsed
