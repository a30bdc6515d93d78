"""One written text: its words, its scores and what it cost, read back from a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

import jax
import numpy as np

from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.job import Job
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
    strings = stop.strings if isinstance(stop, StopStrings) else stop
    return text[: min((text.find(string) for string in strings if string in text), default=None)]


def read_texts(
    tokenizer: Tokenizer,
    job: Job,
    generation: Generation,
    place: tuple[int, int],
    prompt: str | Sequence[int],
    target: int | None,
) -> list[Text]:
    """Reads the texts of one prompt back from a batch in NumPy.

    `place` is the prompt's row in the batch and its number in the whole job, `target` the number of
    the class asked for, None for none.
    """
    row, number = place
    classes = job.discriminator.classes if job.discriminator else ()
    texts = []
    for sample in range(job.config.samples):
        found = jax.tree.map(itemgetter((row, sample)), generation)
        tokens = found.tokens[: found.length].tolist()
        log_prob, probabilities = found.log_prob.item(), np.exp(found.log_class).tolist()
        texts.append(
            Text(
                prompt=prompt if isinstance(prompt, str) else tokenizer.decode(prompt),
                text=_cut(tokenizer.written(tokens), job.config.rules.stop),
                tokens=tokens,
                number=number,
                sample=sample,
                target=None if target is None else classes[target],
                class_probabilities=dict(zip(classes, probabilities, strict=True)),
                log_prob=log_prob,
                perplexity=float(np.exp(-log_prob / max(len(tokens), 1))),
                log_proposal=None if np.isnan(found.log_proposal) else found.log_proposal.item(),
                log_weight=found.log_weight.item(),
                finished=found.finished.item(),
                simulations=found.simulations.item(),
                model_tokens=found.model_tokens.item(),
                deepest=found.deepest.item(),
            )
        )
    return texts
