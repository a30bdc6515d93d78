"""What guided search as a decoder is told."""

from dataclasses import dataclass, field, replace
from typing import Literal

from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.rules.repetition import check_repetition
from coopgen_jax.search.config import SearchConfig


@dataclass(frozen=True)
class MCTSConfig(DecoderSettings):
    """How the search writes; static under `jit`.

    temperature: of the prior, softmax(penalised logits / temperature).
    repetition_penalty: CTRL's, over the text so far; 1 for none.
    no_repeat_ngram: n-grams of this length are never written twice; 0 for no such rule.
    penalise_prompt: whether the prompt's tokens count as text.
    alpha: value = p(c|x)^alpha * L^(1 - alpha) (PPL-MCTS, section 3.2); 1 is the discriminator
      alone.
    likelihood: L is the "mean" prior of a node's tokens below the root (geometric), or the paper's
      raw "product"; of nodes that are kept when the root moves it becomes that below the new one.
    width: exponent of p(c|x v) in a candidate's prior, p(v|x) p(c|x v)^width normalised over the
      vocabulary, by which a node's candidates are chosen too; L is that of these priors. It needs
      a discriminator that judges a node's children before they are read. 0 for none.
    kl: beta, the price of leaving a reference language model: going on by a token a earns -beta *
      (log p(a) - log p_reference(a)) under the plain models, and a text is worth its value and what
      was earned on the way to it (PPO-MCTS; Liu et al., COLM 2024, arXiv 2309.15028), so that
      values may leave [0, 1]. 0 for none: then a reference is not read.
    visit_temperature: above 0, tokens are drawn from visits^(1 / visit_temperature) and
      `log_proposal` is the draw's log-probability. What halving visits is its schedule and no
      proposal: the two exclude each other. 0 for none: without draws the most visited token is
      written, or the one that halving ends with.
    anneal: whether visit_temperature falls linearly over the text, to 1/T of it at the last token
      (PPO-MCTS; Liu et al., COLM 2024, arXiv 2309.15028).
    value_power: above 0, tokens are drawn from p(v|x) Q(v)^value_power over the whole vocabulary
      instead, p the language model's own and Q what the search says that a text with the token is
      worth (`search.mcts.value_logits`); a halved root will do too. Q is the discriminator's alone
      (alpha 1). Temperature, penalty and n-gram rule shape what is searched, not p. 0 for none.
    full_share: share epsilon of the language model's own distribution in what every token is drawn
      from, (1 - epsilon) * the search's draw + epsilon * p over the whole vocabulary;
      `log_proposal` is that of the mixture (`decoding.mcts.proposal`). 0 for none, 1 for plain
      sampling. A proposal that is to be weighted has to be able to write every text, and none too
      rarely.
    rollout: tokens sampled behind a leaf before it is judged, at most; 0 for none.
    rollout_confidence: a roll-out ends as soon as a class has this probability; None for a fixed
      length.
    search: budget, shape and selection rule of the search.
    """

    temperature: float = 1.0
    repetition_penalty: float = 1.2
    no_repeat_ngram: int = 0
    penalise_prompt: bool = True
    alpha: float = 1.0
    likelihood: Literal["mean", "product"] = "mean"
    width: float = 0.0
    kl: float = 0.0
    visit_temperature: float = 0.0
    anneal: bool = False
    value_power: float = 0.0
    full_share: float = 0.0
    rollout: int = 0
    rollout_confidence: float | None = None
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}: a prior needs more than 0")
        check_repetition(self.repetition_penalty, self.no_repeat_ngram)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}: give a weight from 0 to 1")
        if self.likelihood not in ("mean", "product"):
            raise ValueError(f'likelihood is {self.likelihood!r}: use "mean" or "product"')
        if not 0 <= self.width < float("inf"):
            raise ValueError(f"width is {self.width}: give an exponent of 0 (none) or more")
        if not 0 <= self.kl < float("inf"):
            raise ValueError(f"kl is {self.kl}: give a price of 0 (none) or more")
        if not 0 <= self.visit_temperature < float("inf"):
            raise ValueError(f"visit_temperature is {self.visit_temperature}: give 0 or more")
        if self.anneal and not self.visit_temperature:
            raise ValueError("anneal lowers visit_temperature, which is 0: give it above 0")
        if not 0 <= self.value_power < float("inf"):
            raise ValueError(f"value_power is {self.value_power}: give an exponent of 0 or more")
        if self.value_power and self.visit_temperature:
            raise ValueError(
                f"value_power is {self.value_power} and visit_temperature is "
                f"{self.visit_temperature}: tokens are drawn by values or by visits, give 0 for one"
            )
        if self.value_power and self.kl:
            raise ValueError(
                f"value_power is {self.value_power} and kl is {self.kl}, which may make values "
                "negative: a power of them is no probability, give 0 for one"
            )
        if self.value_power and self.alpha < 1:
            raise ValueError(
                f"value_power is {self.value_power} and alpha is {self.alpha}: draws by values "
                "weigh likelihood themselves, and a root has none to compare, give alpha 1"
            )
        if not 0 <= self.full_share <= 1:
            raise ValueError(f"full_share is {self.full_share}: give a share from 0 (none) to 1")
        if self.full_share and not self.draws:
            raise ValueError(
                "full_share mixes two distributions to draw from, and visit_temperature 0 draws "
                "nothing: give it, or value_power, above 0"
            )
        if self.rollout < 0:
            raise ValueError(f"rollout is {self.rollout}: give 0 (none) or more tokens")
        if self.rollout and self.kl:
            raise ValueError(
                f"rollout is {self.rollout} and kl is {self.kl}: no reference reads what "
                "is rolled out, which would leave it free of charge: give rollout 0 or kl 0"
            )
        if self.visit_temperature > 0 and self.search.considered:
            raise ValueError(
                f"visit_temperature is {self.visit_temperature} and considered is "
                f"{self.search.considered}: halving's visits are nothing to draw from, give "
                "considered 0 (the preset puct), or value_power in place of visit_temperature"
            )

    @property
    def guided(self) -> bool:
        """Whether the method needs a discriminator and a target: always."""
        return True

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a prompt are bound to be the same text."""
        return self.samples > 1 and not self.draws and self.rollout == 0

    @property
    def engine(self) -> SearchConfig:
        """How the search runs: to its end where stopping would change what is drawn from."""
        return replace(self.search, early_stop=False) if self.draws else self.search

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn, with a known probability."""
        return self.visit_temperature > 0 or self.value_power > 0

    @property
    def covers(self) -> bool:
        """Whether every token can be drawn, those outside the tree too."""
        return self.full_share > 0 or self.value_power > 0

    @property
    def nodes(self) -> int:
        """Node slots of a sample: the tree's, then scratch.

        That is for a wave's roll-outs or, after the search, for the token that was drawn.
        """
        scratch = max(self.search.wave * self.rollout, int(self.covers))
        return self.search.nodes + scratch

    @property
    def ahead(self) -> int:
        """Tokens that may be read behind a prompt."""
        return self.new_tokens + self.search.depth + self.rollout
