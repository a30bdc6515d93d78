"""What `coopgen train discriminator --from-search` asks for."""

from collections.abc import Callable
from typing import Any

from coopgen_jax.cli.compare_methods import method_config
from coopgen_jax.cli.prompts import read_prompts
from coopgen_jax.cli.train_options import DiscriminatorOptions
from coopgen_jax.cli.train_progress import check_numbers, now_and_then, tell
from coopgen_jax.data.labelled import Teacher
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import trained_on
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.training.searched_texts import Searches


def searches_of(what: DiscriminatorOptions) -> Searches | None:
    """Returns which searches are learned from, None where none are.

    Raises:
      UserError: an option is out of its range or says nothing, or the prompts cannot be read.
    """
    if what.from_search is None:
        if what.guide is not None:
            raise UserError("--guide says what guides the searches of --from-search: give prompts")
        return None
    check_numbers(what, "new_tokens")
    if what.rounds is not None:
        check_numbers(what, "rounds")
    if not what.look_ahead:
        raise UserError(
            "it is a look-ahead head that learns from searches: give --look-ahead its width, 64 "
            "for one"
        )
    config = method_config(what.search, new_tokens=what.new_tokens, samples=1, source="--search")
    if not isinstance(config, MCTSConfig):
        raise UserError(f"--search {what.search} is no search: give mcts, or a preset of it")
    prompts = read_prompts((), what.from_search, lambda sentence: tell(what, sentence))
    sound = tuple(prompt for prompt in prompts if prompt is not None)
    return Searches(sound, config, rounds=what.rounds or 1, seed=what.seed)


def guide_of(
    what: DiscriminatorOptions, model: LoadedModel
) -> tuple[LoadedDiscriminator, Teacher] | None:
    """Returns what guides the searches, with its training rows as far as they are known."""
    if what.guide is None:
        return None
    guide = load_discriminator(what.guide, language_model=model)
    about = trained_on(what.guide)
    return guide, Teacher(about.name, about.weights, about.rows)


def searching(what: DiscriminatorOptions) -> Callable[[int, int, int], None]:
    """Returns what tells how far the searches of a round are."""
    report: Any = now_and_then(what)

    def listen(number: int, done: int, total: int) -> None:
        report(done, total, lambda: f"round {number}: {done} of {total} texts searched")

    return listen
