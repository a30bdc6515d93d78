"""One round of rewarded captioning: write, embed, reward, train discriminator and captioner.

Chaffin, Kijak and Claveau 2024, arXiv 2402.13936. Captions of a batch of images are written, by
beams or samples, and greedily once more; a frozen scorer embeds them and the references; their
rewards weigh log-likelihoods. A round is a function of the state, of its batch and of its number.
Texts leave the device once, for the scorer has other tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from coopgen_jax.data.batches import MULTIPLE
from coopgen_jax.decoding.decode import decode
from coopgen_jax.decoding.generation import Generation
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.decoding.on_mesh import on_mesh
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.discriminators.head import HeadConfig
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.clip_scores import clip_s
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.image_prefix import ImagePrefixConfig, image_prefix
from coopgen_jax.models.language_model import Prompt
from coopgen_jax.models.pretrained.captioner import front_of
from coopgen_jax.models.prompt import behind_vectors
from coopgen_jax.models.rematerialisation import Remat
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.parallel.mesh import Mapper, share
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.captioning import rewards
from coopgen_jax.training.captioning.baselines import caption_advantage, group_baseline
from coopgen_jax.training.captioning.caption_objectives import (
    Captions,
    objective_weights,
    weighted_captions_loss,
)
from coopgen_jax.training.captioning.captioner_recipe import caption_log_likelihoods
from coopgen_jax.training.captioning.regularisers import (
    discriminator_shape,
    grammar_shape,
    paired,
    regulariser,
    regulariser_loss,
    two_kinds,
)
from coopgen_jax.training.captioning.reward_config import RewardConfig
from coopgen_jax.training.objectives import Join
from coopgen_jax.training.step import TrainState, make_step

Means = dict[str, jax.Array]


@dataclass(frozen=True)
class Scorer:
    """What says how similar captions and images are; it stands still.

    Attributes:
      images: `[n, F]` unit embeddings of the images, by their number.
      neighbours: `[n, K]` int numbers of similar images of each, as `mine_neighbours` returns them;
        `K` may be 0.
      embed: from captions to unit embeddings `[m, F]`, on the host.
      identity: what tells this scorer from others, such as the hash of its weights.
    """

    images: np.ndarray
    neighbours: np.ndarray
    embed: Callable[[Sequence[str]], np.ndarray]
    identity: str = ""


@struct.dataclass
class CaptionerState:
    """What rounds change.

    Attributes:
      captioner: its trainable parameters and its optimiser's state.
      discriminator: the same of the regulariser; a grammar head's parameters stay as they are.
      step: `[]` int32 rounds done.
    """

    captioner: TrainState
    discriminator: TrainState
    step: jax.Array

    @property
    def trainable(self) -> dict[str, Any]:
        """The trainable parameters of both."""
        return {
            "captioner": self.captioner.trainable,
            "discriminator": self.discriminator.trainable,
        }


def regulariser_shape(config: RewardConfig, scorer: Scorer) -> HeadConfig:
    """Returns the shape of a round's regulariser."""
    shape = grammar_shape if config.regulariser == "grammar" else discriminator_shape
    return shape(scorer.images.shape[1])


class CaptionRound:
    """A round, `(state, frozen, batch, key) -> (state, means)`; the state is donated.

    A batch has `tokens` and `mask` `[B, S]`, references as `caption_rows` makes them, and `label`
    `[B]`, their images' numbers, in NumPy. `frozen` has the table `features` `[n, F']` of the
    images. The discriminator gives its rewards first and is trained then.

    Args:
      network: the language model's shape.
      shape: that of the network between features and prefix.
      tokenizer: the language model's.
      config: the round's.
      scorer: what rewards.
      optimisers: the captioner's and the discriminator's.
      join: `(trainable, frozen) -> {"network", "prefix"}` of the captioner.
      mesh: the devices, which divide images and rows.
      mapper: see `map_over_mesh`.
      micro_batches: parts that the captioner's rows are read in.
      sharded: whether devices share the captioner's optimiser state; see `step.make_step`.
      sharded_parameters: whether they share its trainable parameters too.
      remat: what its steps compute again instead of keeping it; see `rematerialised`.

    Raises:
      UserError: the baseline compares with similar images, and the scorer has none.
    """

    def __init__(
        self,
        network: DecoderConfig,
        shape: ImagePrefixConfig,
        tokenizer: Tokenizer,
        config: RewardConfig,
        scorer: Scorer,
        optimisers: tuple[optax.GradientTransformation, optax.GradientTransformation],
        *,
        join: Join,
        mesh: Mesh,
        mapper: Mapper = "shard_map",
        micro_batches: int = 1,
        sharded: bool = False,
        sharded_parameters: bool = False,
        remat: Remat | None = None,
    ) -> None:
        if config.baseline in ("group", "strongest") and not scorer.neighbours.shape[1]:
            raise UserError(f"the baseline {config.baseline} needs similar images: mine some")
        self.config, self.scorer, self.tokenizer, self.mesh = config, scorer, tokenizer, mesh
        self.front = front_of(tokenizer)
        plain = SamplingConfig(config.proposal.new_tokens, rules=Rules(temperature=0.0))
        writes = partial(_writer, network, shape, self.front, join, mesh=mesh, mapper=mapper)
        self.write, self.write_greedily = writes(config.proposal), writes(plain)

        def with_features(trainable: Any, frozen: Any) -> Any:
            return {"features": frozen["features"], **join(trainable, frozen)}

        def likelihoods(params: Any, batch: Any) -> jax.Array:
            features = params["features"][batch["label"]]
            given = features, batch["tokens"], batch["mask"]
            return caption_log_likelihoods(network, shape, params, *given)

        over: dict[str, Any] = {"mesh": mesh, "mapper": mapper}
        self.captioner_step = make_step(
            weighted_captions_loss(likelihoods, join=with_features), optimisers[0],
            micro_batches=micro_batches, sharded=sharded, sharded_parameters=sharded_parameters,
            remat=remat, dtype=network.dtype, **over,
        )  # fmt: skip
        judge = regulariser_shape(config, scorer)
        self.discriminator_step = make_step(regulariser_loss(judge), optimisers[1], **over)
        self.weigh = jax.jit(partial(weigh_captions, config, judge))

    def __call__(
        self, state: CaptionerState, frozen: Any, batch: dict[str, np.ndarray], key: jax.Array
    ) -> tuple[CaptionerState, Means]:
        """Runs it."""
        key = jax.random.fold_in(key, state.step)
        image = batch["label"]
        references = {name: batch[name] for name in ("tokens", "mask")}
        means: Means = {}
        discriminator = state.discriminator
        if self.config.objective == "mle":
            count = len(image)
            lengths = jnp.asarray(batch["mask"].sum(axis=-1) - 1)
            truths = Captions(jnp.ones(count), jnp.arange(count), lengths)
            weight = objective_weights("mle", references=truths, per_token=self.config.per_token)
            rows = _rows(image, references, weight)
        else:
            rows, seen, means = self._reward(state, frozen, image, references, key)
            if self.config.alpha < 1 and self.config.regulariser == "discriminator":
                discriminator, judged = self.discriminator_step(
                    discriminator, {}, share(seen, self.mesh), key
                )
                means |= {f"discriminator_{name}": mean for name, mean in judged.items()}
        captioner, trained = self.captioner_step(
            state.captioner, frozen, share(rows, self.mesh), key
        )
        state = CaptionerState(captioner, discriminator, state.step + 1)
        return state, means | trained

    def greedy_texts(
        self, trainable: Any, frozen: Any, images: Sequence[int], size: int
    ) -> list[str]:
        """Returns the greedy caption of every image, `size` of them written at a time."""
        texts: list[str] = []
        for begin in range(0, len(images), size):
            part = list(images[begin : begin + size])
            # The last batch is filled up with copies, so that it compiles to nothing new.
            batch = np.asarray([*part, *[part[-1]] * (size - len(part))])
            found = self.write_greedily(jax.random.key(0), batch, trainable, frozen)
            texts += self._texts(jax.device_get(found))[: len(part)]
        return texts

    def _reward(
        self, state: CaptionerState, frozen: Any, image: np.ndarray, references: Any, key: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Means]:
        """Returns the captioner's rows, the discriminator's, and what to record."""
        trainable = state.captioner.trainable
        given = image, trainable, frozen
        written = jax.device_get(self.write(key, *given))
        greedy = jax.device_get(self.write_greedily(key, *given))
        own, plain = self._texts(written), self._texts(greedy)
        ends = references["mask"].sum(axis=-1)
        # A caption that was cut has no end token, and keeps its last word.
        stop = self.tokenizer.end_tokens
        human = [
            self.tokenizer.decode([one for one in row[1:end].tolist() if one not in stop]).strip()
            for row, end in zip(references["tokens"], ends, strict=True)
        ]
        embeddings = np.asarray(self.scorer.embed([*own, *human, *plain]), np.float32)
        samples = written.tokens.shape[1]
        length = written.length.reshape(-1)
        near = self.scorer.neighbours[image]
        weight, seen, means = self.weigh(
            state.discriminator.trainable,
            embeddings,
            jnp.asarray(image),
            self.scorer.images[image],
            jnp.asarray(near),
            self.scorer.images[near],
            (jnp.asarray(length), jnp.asarray(ends - 1)),
        )
        rows = []
        if self.config.objective != "wtf":
            width = written.tokens.shape[-1] + 1
            front = np.full((len(length), 1), self.front)
            tokens = np.concatenate([front, written.tokens.reshape(len(length), -1)], axis=1)
            mask = np.arange(width)[None] < length[:, None] + 1
            rows.append((np.repeat(image, samples), {"tokens": tokens, "mask": mask}))
        if self.config.objective != "rl":
            rows.append((image, references))
        images, parts = zip(*rows, strict=True)
        width = max(part["tokens"].shape[1] for part in parts)
        width += -width % MULTIPLE
        joined = {
            name: np.concatenate(
                [np.pad(part[name], [(0, 0), (0, width - part[name].shape[1])]) for part in parts]
            )
            for name in ("tokens", "mask")
        }
        return _rows(np.concatenate(images), joined, weight), jax.device_get(seen), means

    def _texts(self, generation: Generation) -> list[str]:
        """Returns what was written, an image's captions one after another."""
        rows = generation.tokens.reshape(-1, generation.tokens.shape[-1])
        lengths = generation.length.reshape(-1)
        return [
            self.tokenizer.written(row[:length].tolist()).strip()
            for row, length in zip(rows, lengths, strict=True)
        ]


def _rows(image: np.ndarray, captions: dict[str, np.ndarray], weight: Any) -> dict[str, np.ndarray]:
    """Returns captions as a batch of the captioner's step."""
    return {
        "tokens": np.where(captions["mask"], captions["tokens"], 0).astype(np.int32),
        "mask": captions["mask"],
        "label": np.asarray(image, np.int32),
        "weight": np.asarray(weight, np.float32),
    }


def _writer(
    network: DecoderConfig,
    shape: ImagePrefixConfig,
    front: int,
    join: Join,
    config: Any,
    *,
    mesh: Mesh,
    mapper: Mapper,
) -> Callable[..., Generation]:
    """Returns a compiled decoder, `(key, images [B], trainable, frozen) -> Generation`."""
    spread = on_mesh(
        partial(decode, language_model=language_model(network), config=config), mesh, mapper=mapper
    )

    def write(key: jax.Array, image: jax.Array, trainable: Any, frozen: Any) -> Generation:
        params = join(trainable, frozen)
        vectors = image_prefix(shape, params["prefix"], frozen["features"][image])
        count = len(image)
        begins = Prompt(
            jnp.full((count, 1), front, jnp.int32), jnp.ones((count, 1), bool), jnp.arange(count)
        )
        return spread(key, behind_vectors(begins, vectors), params=params["network"])

    return jax.jit(write)


def weigh_captions(
    config: RewardConfig,
    judge: HeadConfig,
    discriminator: Any,
    texts: jax.Array,
    image: jax.Array,
    images: jax.Array,
    near: jax.Array,
    near_images: jax.Array,
    lengths: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array], Means]:
    """Returns the weights of a round's rows, the discriminator's batch, and what to record.

    Args:
      config: the round's.
      judge: the regulariser's shape.
      discriminator: its parameters.
      texts: `[M + 2 B, F]` embeddings of the written captions, the references, the greedy ones.
      image: `[B]` numbers of the images.
      images: `[B, F]` their embeddings.
      near: `[B, K]` numbers of images similar to each.
      near_images: `[B, K, F]` their embeddings.
      lengths: `[M]` and `[B]` tokens of the written captions and of the references.
    """
    count = len(image)
    wrote = len(texts) - 2 * count
    row = jnp.arange(count)
    # Which image of the batch a text is of, and where the references and the greedy ones begin.
    place = jnp.concatenate([jnp.repeat(row, wrote // count), row, row])
    of_text = images[place]
    if config.similarity == "clip-s":
        similarity = clip_s(texts, of_text)
    else:
        pool = rewards.pool_of((texts, jnp.arange(len(texts))))
        own = jnp.arange(len(texts))
        how = {"temperature": config.temperature}
        if config.similarity == "one-way":
            similarity = rewards.unidirectional_reward(texts, of_text, pool, own, **how)
        else:
            mined = near_images.reshape(-1, texts.shape[1]), near.ravel()
            others = rewards.pool_of((images, image), mined)
            similarity = rewards.bidirectional_reward(
                texts, of_text, pool, own, others, image[place], combine=config.combine, **how
            )
    seen = texts if config.regulariser == "grammar" else paired(of_text, texts)
    human = regulariser(judge, discriminator, seen)
    reward = rewards.total_reward(similarity, human, alpha=config.alpha, offset=config.offset)
    condition = place[:wrote]
    group = None
    if config.baseline in ("group", "strongest"):
        sides = jax.vmap(lambda text, rivals: clip_s(jnp.broadcast_to(text, rivals.shape), rivals))
        worth = rewards.total_reward(
            sides(texts[:wrote], near_images[condition]), human[:wrote, None],
            alpha=config.alpha, offset=config.offset,
        )  # fmt: skip
        group = group_baseline(worth, jnp.ones(worth.shape, bool))
    greedy = reward[wrote + count :][condition]
    advantage = caption_advantage(
        reward[:wrote], condition, baseline=config.baseline, greedy=greedy, group=group
    )
    truths = reward[wrote : wrote + count]
    weight = objective_weights(
        config.objective,
        written=Captions(advantage, condition, lengths[0]),
        references=Captions(truths, row, lengths[1]),
        per_token=config.per_token,
    )
    means = {
        "reward": jnp.mean(reward[:wrote]),
        "similarity": jnp.mean(similarity[:wrote]),
        "human": jnp.mean(human[:wrote]),
        "reference_reward": jnp.mean(truths),
        "length": jnp.mean(lengths[0].astype(jnp.float32)),
    }
    # As many written captions as references, so that neither kind is the likelier one.
    first = jnp.arange(count) * (wrote // count)
    return weight, two_kinds(seen[first], seen[wrote : wrote + count]), means
