"""The settings of guided search as a decoder."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from coopgen_jax.decoding.decoder_settings import DecoderSettings, check_base_share
from coopgen_jax.decoding.flat_settings import changed
from coopgen_jax.decoding.rules.shaping import CTRL, Rules
from coopgen_jax.search.config import Halving, Puct, SearchConfig


@dataclass(frozen=True)
class Best:
    """Writes the root's best child: halving's finalist, or the most visited; no draw."""


@dataclass(frozen=True)
class ByVisits:
    """Draws a token from the visits n, in proportion to n^(1 / temperature).

    What halving visits is its schedule and no proposal, so that the root needs PUCT.

    Attributes:
      visit_temperature: tau, above 0; tokens are drawn from visits^(1 / tau).
      anneal: lets the visit temperature fall linearly over the text. At the last token it is 1/T of
        what it was (PPO-MCTS; Liu et al., COLM 2024, arXiv 2309.15028).
      mix_base: share of the language model's own distribution in every draw. Tokens come from (1 -
        epsilon) * the search's draw + epsilon * p over the whole vocabulary;
        `log_proposal` is that of the mixture (`decoding.mcts.proposal`). 0 for none, 1 for plain
        sampling. A proposal that is to be weighted must be able to write every text, and none too
        rarely.
    """

    selected_by: ClassVar[str] = "visit_temperature"

    visit_temperature: float = 1.0
    anneal: bool = False
    mix_base: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.visit_temperature < float("inf"):
            raise ValueError(
                f"visit_temperature is {self.visit_temperature}: give a temperature above 0"
            )
        check_base_share(self.mix_base)


@dataclass(frozen=True)
class ByValues:
    """Draws a token from p(v|x) Q(v)^power over the whole vocabulary.

    p is the language model's own distribution under the constraints, and Q what the search says
    that a text with the token is worth (`search.mcts.value_logits`); a halved root will do too. Q
    is the discriminator's alone. Shaping touches what is searched, not p.

    Attributes:
      value_power: exponent of Q, above 0; tokens are drawn from p(v|x) Q(v)^power.
      mix_base: as for `ByVisits`.
    """

    selected_by: ClassVar[str] = "value_power"

    value_power: float = 1.0
    mix_base: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.value_power < float("inf"):
            raise ValueError(f"value_power is {self.value_power}: give an exponent above 0")
        check_base_share(self.mix_base)


@dataclass(frozen=True)
class Value:
    """What a text is worth: p(c|x)^alpha * L^(1 - alpha) (PPL-MCTS, section 3.2).

    Attributes:
      alpha: weight of the discriminator against the likelihood in a value, from 0 to 1.
      likelihood: makes L the "mean" of the priors of a text's tokens below the root, or their
        "product". The mean is geometric, the product the paper's; of nodes that are kept when the
        root moves it becomes that below the new one.
    """

    alpha: float = 1.0
    likelihood: Literal["mean", "product"] = "mean"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}: give a weight from 0 to 1")
        if self.likelihood not in ("mean", "product"):
            raise ValueError(f'likelihood is {self.likelihood!r}: use "mean" or "product"')


@dataclass(frozen=True)
class Rollout:
    """Samples on behind a leaf before it is judged.

    Attributes:
      rollout: tokens sampled behind a leaf before it is judged, at most.
      rollout_confidence: class probability at which a roll-out ends. None for a fixed length.
    """

    selected_by: ClassVar[str] = "rollout"

    rollout: int = 8
    rollout_confidence: float | None = None

    def __post_init__(self) -> None:
        if self.rollout < 1:
            raise ValueError(f"rollout is {self.rollout}: give 1 token or more")
        confidence = self.rollout_confidence
        if confidence is not None and not 0 < confidence <= 1:
            raise ValueError(f"rollout_confidence is {confidence}: give a probability above 0")


@dataclass(frozen=True)
class Reference:
    """Charges the search for leaving a reference language model.

    Going on by a token a earns -kl * (log p(a) - log p_reference(a)) under the plain models, and a
    text is worth its value and what was earned on the way to it (PPO-MCTS; Liu et al., COLM 2024,
    arXiv 2309.15028), so that values may leave [0, 1].

    Attributes:
      kl: beta, above 0, the price of a nat that a token leaves the reference by.
    """

    selected_by: ClassVar[str] = "kl"

    kl: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.kl < float("inf"):
            raise ValueError(f"kl is {self.kl}: give a price above 0")


BEST, BY_DISCRIMINATOR, PPL_MCTS = Best(), Value(), SearchConfig()


@dataclass(frozen=True)
class MCTSConfig(DecoderSettings):
    """Searches a tree of continuations under the discriminator's guidance (PPL-MCTS).

    The rules shape the priors: a candidate's is softmax(shaped logits). `log_proposal` is NaN
    unless tokens are drawn.

    Attributes:
      choice: which child of the root is written.
      value: what a text is worth.
      foresight_power: exponent of p(c|x v) in a candidate's prior; 0 for none. The prior is p(v|x)
        p(c|x v)^power normalised over the vocabulary, by which a node's candidates are chosen too;
        L is that of these priors.
        It needs a discriminator that judges a node's children before they are read.
      rollout: how leaves are rolled out before they are judged, None for not at all.
      reference: the price of leaving a reference language model, None for none.
      search: budget, shape and selection rule of the search.
    """

    rules: Rules = CTRL
    choice: Best | ByVisits | ByValues = BEST
    value: Value = BY_DISCRIMINATOR
    foresight_power: float = 0.0
    rollout: Rollout | None = None
    reference: Reference | None = None
    search: SearchConfig = PPL_MCTS

    always_guided: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.foresight_power < float("inf"):
            raise ValueError(
                f"foresight_power is {self.foresight_power}: give an exponent of 0 (none) or more"
            )
        if isinstance(self.choice, ByVisits) and isinstance(self.search.root, Halving):
            raise ValueError(
                f"visit_temperature is {self.choice.visit_temperature} and considered is "
                f"{self.search.root.considered}: halving's schedule is no distribution to draw "
                "from, give considered 0 (the preset puct), or value_power in place of "
                "visit_temperature"
            )
        if isinstance(self.choice, ByValues):
            self._check_by_values(self.choice)
        if self.rollout and self.reference:
            raise ValueError(
                f"rollout is {self.rollout.rollout} and kl is {self.reference.kl}: no reference "
                "reads what is rolled out, which would leave it free of charge: give rollout 0 or "
                "kl 0"
            )

    def _check_by_values(self, choice: ByValues) -> None:
        if self.reference:
            raise ValueError(
                f"value_power is {choice.value_power} and kl is {self.reference.kl}, which may "
                "make values negative: a power of them is no probability, give 0 for one"
            )
        if self.value.alpha < 1:
            raise ValueError(
                f"value_power is {choice.value_power} and alpha is {self.value.alpha}: draws by "
                "values weigh likelihood themselves, and a root has none to compare, give alpha 1"
            )

    def with_settings(self, **values: Any) -> Self:
        """Returns these settings with others, given by flat name.

        The nodes that outlive a token grow with the simulations, halving compares no more
        candidates than there are, and the wave becomes one that divides the simulations and that
        halving can fill, unless they are given too.

        Raises:
          ValueError: a setting is out of its range, or does not go with the others.
          TypeError: there is no such setting.
        """
        search, root = self.search, self.search.root
        simulations = values.get("simulations", search.simulations)
        candidates = values.get("candidates", search.candidates)
        if "simulations" in values:
            nodes = max(simulations * search.reused_nodes // search.simulations, 0)
            values.setdefault("reused_nodes", nodes)
        if isinstance(root, Halving):
            values.setdefault("considered", max(0, min(root.considered, candidates)))
        if "wave" not in values and simulations > 0 and candidates > 0:
            compared = max(values.get("considered", 0), 0) or candidates
            widest = min(search.wave, simulations, candidates, compared)
            values["wave"] = max(w for w in range(1, widest + 1) if simulations % w == 0)
        return changed(self, values)

    @property
    def deterministic(self) -> bool:
        """Whether all samples of a prompt are bound to be the same text."""
        return self.samples > 1 and not self.draws and self.rollout is None

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn, with a known probability."""
        return not isinstance(self.choice, Best)

    @property
    def few_candidates(self) -> bool:
        """Whether the tokens that may be drawn are a few: those that a search has visited."""
        return isinstance(self.choice, ByVisits) and not self.mix_base

    @property
    def mix_base(self) -> float:
        """Share of the language model's own distribution in what tokens are drawn from."""
        return 0.0 if isinstance(self.choice, Best) else self.choice.mix_base

    @property
    def has_full_support(self) -> bool:
        """Whether every token can be drawn, those outside the tree too."""
        return isinstance(self.choice, ByValues) or self.mix_base > 0

    @property
    def engine(self) -> SearchConfig:
        """How the search runs: to its end where stopping would change what is drawn from."""
        root = self.search.root
        best_alone = not self.draws and self.rules.watermark is None
        if best_alone or not isinstance(root, Puct):
            return self.search
        return replace(self.search, root=replace(root, early_stop=False))

    @property
    def nodes(self) -> int:
        """Node slots of a sample: the tree's, then scratch.

        That is for a wave's roll-outs or, after the search, for the token that was drawn.
        """
        rolled = self.search.wave * self.rollout.rollout if self.rollout else 0
        return self.search.nodes + max(rolled, int(self.has_full_support))
