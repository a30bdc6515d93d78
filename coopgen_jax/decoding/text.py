"""One written text: its words, its scores and what it cost, read back from a batch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.rules.stop import StopStrings
from coopgen_jax.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """One text, as it was written.

    prompt: what it continues, or the source that it is written of; text: the continuation, or the
      whole target; tokens: its ids.
    number, sample: which prompt of the job, and which of its samples.
    target: the class asked for, or None.
    class_probabilities: the discriminator's p(class | text), empty without one.
    log_prob: natural log-probability of the continuation under the plain language model.
    perplexity: exp(-log_prob / tokens).
    log_proposal: log-probability with which the decoder drew the text, None where it chose.
    log_weight: natural logarithm of a particle's weight (`SMCConfig`) or of that of a text drawn
      without replacement (`StochasticBeamConfig`), 0 elsewhere.
    finished: whether the text came to its own end.
    simulations: evaluations spent on it; model_tokens: tokens that the language model read for
      it; deepest: depth of the deepest tree node.
    """

    prompt: str
    text: str
    tokens: list[int]
    number: int
    sample: int
    target: str | None
    class_probabilities: dict[str, float]
    log_prob: float
    perplexity: float
    log_proposal: float | None
    log_weight: float
    finished: bool
    simulations: int
    model_tokens: int
    deepest: int


def _cut(text: str, stop: StopStrings | tuple[str, ...]) -> str:
    """Returns a text up to the first of some strings in it."""
    strings = stop.strings if isinstance(stop, StopStrings) else stop
    return text[: min((text.find(string) for string in strings if string in text), default=None)]


def read_text(
    tokenizer: Tokenizer,
    classes: tuple[str, ...],
    generation: Generation,
    place: tuple[int, int],
    *,
    prompt: str,
    number: int,
    target: int | None,
    stop: StopStrings | tuple[str, ...] = (),
) -> Text:
    """Reads one text of a batch back.

    Args:
      tokenizer: that of the model that wrote it.
      classes: of the discriminator that judged it, none without one.
      generation: the batch's texts, in NumPy.
      place: row and sample of the text.
      prompt: what it continues.
      number: the prompt's number in the whole job.
      target: number of the class asked for, or None.
      stop: strings that the text is cut in front of.
    """

    def at(array: Any) -> Any:
        return array[place].item()

    tokens = generation.tokens[place][: at(generation.length)].tolist()
    log_class = generation.log_class[place]
    log_prob = at(generation.log_prob)
    log_proposal = at(generation.log_proposal)
    return Text(
        prompt=prompt,
        text=_cut(tokenizer.written(tokens), stop),
        tokens=tokens,
        number=number,
        sample=place[1],
        target=None if target is None else classes[target],
        class_probabilities={
            name: float(np.exp(log_p)) for name, log_p in zip(classes, log_class, strict=True)
        },
        log_prob=log_prob,
        perplexity=float(np.exp(-log_prob / max(len(tokens), 1))),
        log_proposal=None if np.isnan(log_proposal) else log_proposal,
        log_weight=at(generation.log_weight),
        finished=at(generation.finished),
        simulations=at(generation.simulations),
        model_tokens=at(generation.model_tokens),
        deepest=at(generation.deepest),
    )
