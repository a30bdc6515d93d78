"""Options of trainings on written texts: --on-policy; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from coopgen_jax.cli.options import _unset


@dataclass(frozen=True)
class OnPolicyOptions:
    """Options of rounds in which a language model writes and a discriminator is trained.

    Attributes:
      on_policy: Train in rounds on texts that this language model writes, too. Half of them are
        samples, half are chosen by a search with the discriminator of the round, and --teacher
        labels them. The rounds end when both agree on what the search chose. The texts of --data
        keep their labels where they have a column of them. A shared trunk takes its own --model.
      on_policy_prompts: A file of prompts that the texts continue: .txt with one a line, or .jsonl
        with a "prompt" or "text".
      on_policy_texts: Texts that are written in a round, towards all classes together. Fewer where
        the prompts are few: a round continues none twice in the same way.
      rounds: Rounds of writing and training, at most. With --from-search the search writes in the
        first round, in later ones fudge with the head of the round in front, and the search goes
        along.
      tolerance: The mean gap between discriminator and teacher on searched texts at which the
        rounds end.
      search: What searches: a guided --method, its options as name:key=value:key=value; with
        --from-search mcts.
      new_tokens: Most tokens that are written per text.
    """

    on_policy: Annotated[str | None, _unset("NAME|PATH", "none: on --data alone")] = None
    on_policy_prompts: Annotated[Path | None, _unset("FILE", "none")] = None
    on_policy_texts: Annotated[int, arg(metavar="N")] = 96
    rounds: Annotated[int | None, _unset("N", "3; from-search: 1")] = None
    tolerance: Annotated[float, arg(metavar="X")] = 0.02
    search: Annotated[str, arg(metavar="METHOD")] = "mcts:simulations=16:wave=4"
    new_tokens: Annotated[int, arg(metavar="T")] = 24
