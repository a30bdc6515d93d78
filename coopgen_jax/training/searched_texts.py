"""Texts of searches as training rows: what was found at every token, kept on disc batch by batch.

Expert iteration (Anthony, Tian and Barber, NeurIPS 2017, arXiv 1705.08439; Silver et al., Nature
2017): a search, the expert, is run where a quick policy goes, and the policy is trained on what it
finds. Here the policy is FUDGE with a look-ahead head. In the first round the search writes the
texts; in the later ones the policy does, and the search goes along them, so that the states that
are learned from are those that the policy comes to (DAgger; Ross, Gordon and Bagnell, AISTATS 2011,
arXiv 1011.0686).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from coopgen_jax.decoding.mcts.mcts_config import ByValues, MCTSConfig
from coopgen_jax.decoding.mcts.root_children import root_children
from coopgen_jax.decoding.methods.fudge import FudgeConfig
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from coopgen_jax.decoding.text import Text
from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.files import read_json, replacing, to_json, write_json
from coopgen_jax.models.pretrained.loaded_model import LoadedModel
from coopgen_jax.models.prompt import bucket, ids_of
from coopgen_jax.text_generation import Step, generate


@dataclass(frozen=True)
class Found:
    """What a search found out about the tokens that may come next.

    Attributes:
      tokens: the root's children that were tried.
      visits: how often each was passed.
      values: the guide's mean probability of the target at and below each.
    """

    tokens: list[int]
    visits: list[int]
    values: list[float]


@dataclass(frozen=True)
class SearchedText:
    """A text that a search has written or gone along.

    Attributes:
      prompt: what it continues.
      target: the class that was searched for.
      tokens: its ids.
      shares: the guide's probabilities of all classes at its end.
      found: for every token what the search found in front of it.
    """

    prompt: str
    target: str
    tokens: list[int]
    shares: list[float]
    found: list[Found]


@dataclass(frozen=True)
class Searches:
    """Which searches are learned from.

    Attributes:
      prompts: what they continue; each towards every class.
      config: the search.
      rounds: how often texts are written and learned from. In the first round the search writes
        them, in the others FUDGE does with the look-ahead head of the round in front, and the
        search goes along.
      strength: of that FUDGE.
      batch_size: prompts searched at once.
      seed: of the texts.
    """

    prompts: tuple[str, ...]
    config: MCTSConfig
    rounds: int = 1
    strength: float = 10.0
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if len(set(self.prompts)) < 2:
            raise UserError(
                "there are fewer than two different prompts to search from: give two or more, of "
                "which one is validated on"
            )
        if self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}: give 1 or more")
        if self.config.samples != 1:
            raise UserError(
                f"samples is {self.config.samples}: one text a prompt and class is searched for, "
                "give 1"
            )
        if self.config.rollout:
            raise UserError(
                "the value of a roll-out is that of a longer text than the one that is learned "
                "from: give a search with rollout 0"
            )
        if self.rounds > 1 and (self.config.value.alpha < 1 or self.config.reference):
            raise UserError(
                "a search goes along texts by its values, which must be the guide's alone: give "
                "alpha 1 and kl 0, or 1 round"
            )

    @property
    def along(self) -> MCTSConfig:
        """The search as it goes along texts: the same, but able to write every token."""
        return replace(self.config, choice=ByValues())

    @property
    def sha256(self) -> str:
        """Hash of the prompts."""
        return sha256(json.dumps(self.prompts).encode()).hexdigest()


# Called with how many of how many texts of a round are there.
Progress = Callable[[int, int], None]


def search_texts(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    searches: Searches,
    *,
    folder: Path,
    policy: LoadedDiscriminator | None = None,
    about: dict[str, Any] | None = None,
    mesh: Mesh | None = None,
    listener: Progress = lambda done, total: None,
    spent: Callable[[], bool] = lambda: False,
) -> list[SearchedText]:
    """Searches from every prompt towards every class of the guide; goes on where it was broken off.

    Args:
      model: the language model.
      guide: what the search is guided by.
      searches: what is searched, and how.
      folder: where the texts are kept, a file a batch; those that are there are read.
      policy: the head with look-ahead that writes the texts, None for the search itself.
      about: plain values that tell these texts from others, such as who guides.
      mesh: devices to search on.
      listener: called after every batch.
      spent: whether no further batch is to be searched; asked in front of every one.

    Returns:
      The texts, batch by batch; only those of the first batches where the time was spent.

    Raises:
      UserError: the folder holds searches of other settings or a damaged file, or see `generate`.
    """
    classes = guide.discriminator.classes
    asked = [(prompt, name) for prompt in searches.prompts for name in classes]
    config = searches.config if policy is None else searches.along
    about = dict(about or {})
    if policy is not None:
        about["strength"] = searches.strength
    _claim(folder, _settings(model, searches, config, classes, about))
    texts: list[SearchedText] = []
    for number, rows in enumerate(_batches(model, asked, searches.batch_size)):
        path = folder / f"{number:05d}.jsonl"
        if not path.is_file():
            if spent():
                break
            found = _search(model, guide, searches, asked, rows, policy, mesh)
            with replacing(path) as (unfinished,):
                lines = "".join(to_json(asdict(text)) + "\n" for text in found)
                unfinished.write_text(lines, encoding="utf-8")
        texts += _read(path, len(rows))
        listener(len(texts), len(asked))
    return texts


def _settings(
    model: LoadedModel,
    searches: Searches,
    config: MCTSConfig,
    classes: Sequence[str],
    about: dict[str, Any],
) -> dict[str, Any]:
    return {
        "model_sha256": model.sha256,
        "dtype": model.config.dtype,
        "search": settings_on_disc(config) | {"new_tokens": config.new_tokens},
        "prompts_sha256": searches.sha256,
        "classes": list(classes),
        "batch_size": searches.batch_size,
        "seed": searches.seed,
        # The last round trains in the training's folder itself, which another number would claim.
        "number_of_rounds": searches.rounds,
        **about,
    }


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Notes what is searched in a folder; raises UserError where it holds something else."""
    path = folder / "settings.json"
    wanted = json.loads(to_json(wanted))
    if not path.is_file():
        write_json(path, wanted)
        return
    found = read_json(path, way_out="delete the folder of its searches, or give another --out")
    other = [name for name, value in wanted.items() if found.get(name) != value]
    if other:
        raise UserError(
            f"{folder} holds searches with another {other[0].replace('_', ' ')}: give an empty "
            "folder, or the settings that they were begun with"
        )


def _batches(model: LoadedModel, asked: Sequence[tuple[str, str]], size: int) -> list[list[int]]:
    """Returns the numbers of what is asked for in batches, prompts of like length together."""
    lengths = [bucket(len(row)) for row in ids_of(model.tokenizer, [text for text, _ in asked])]
    order = sorted(range(len(asked)), key=lambda number: lengths[number])
    return [order[at : at + size] for at in range(0, len(order), size)]


def _search(
    model: LoadedModel,
    guide: LoadedDiscriminator,
    searches: Searches,
    asked: Sequence[tuple[str, str]],
    rows: Sequence[int],
    policy: LoadedDiscriminator | None,
    mesh: Mesh | None,
) -> list[SearchedText]:
    """Returns the searched texts of one batch, in the order of its rows."""
    prompts, targets = zip(*(asked[row] for row in rows), strict=True)
    shared: dict[str, Any] = {
        "target": targets, "seed": searches.seed + rows[0], "batch_size": len(rows), "mesh": mesh,
    }  # fmt: skip
    config, along = searches.config, None
    if policy is not None:
        config = searches.along
        writing = FudgeConfig(config.new_tokens, strength=searches.strength, look_ahead=True)
        written = generate(model, prompts, config=writing, discriminator=policy, **shared)
        along = [text.tokens for text in written]
    classes = guide.discriminator.classes
    found: dict[int, list[Found]] = {number: [] for number in range(len(rows))}

    def record(step: Step) -> None:
        if step.tree is None:
            raise UserError("only a search finds something out about tokens: give mcts")
        # What fills a batch up is a copy of its last row.
        own = [*step.prompts] + [step.prompts[-1]] * (
            len(step.generation.length) - len(step.prompts)
        )
        children = root_children(step.tree, np.asarray([classes.index(targets[n]) for n in own]))
        lengths = np.asarray(step.generation.length)
        for row, number in enumerate(step.prompts):
            # A text that had ended before has not been searched.
            if lengths[row, 0] != step.step:
                continue
            tried = children.visits[row, 0] > 0
            found[number].append(
                Found(
                    children.tokens[row, 0][tried].tolist(),
                    children.visits[row, 0][tried].tolist(),
                    [round(value, 6) for value in children.values[row, 0][tried].tolist()],
                )
            )

    texts = generate(
        model, prompts, config=config, discriminator=guide, along=along, listener=record, **shared
    )
    return [_searched(text, found[text.number], classes) for text in texts]


def _searched(text: Text, found: list[Found], classes: Sequence[str]) -> SearchedText:
    shares = [round(text.class_probabilities[name], 6) for name in classes]
    assert text.target is not None and len(found) == len(text.tokens)
    return SearchedText(text.prompt, text.target, text.tokens, shares, found)


def _read(path: Path, count: int) -> list[SearchedText]:
    """Returns the texts of a batch's file; raises UserError where it is damaged."""
    try:
        # At line feeds alone: JSON leaves other line breaks as they are inside a string.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
        texts = [
            SearchedText(**{**row, "found": [Found(**each) for each in row["found"]]})
            for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and start again") from error
    if len(texts) != count:
        raise UserError(f"{path} has {len(texts)} texts of {count}: delete it and start again")
    return texts
