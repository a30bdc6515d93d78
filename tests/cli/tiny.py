"""A tiny language model and a toy discriminator, loaded in place of the real ones."""

import warnings
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from coopgen_jax.discriminators.loaded_discriminator import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_LLAMA, ToyLanguage, toy_discriminator
from coopgen_jax.tokenizer import Tokenizer

WORDS = ("<end>", "This", "film", "was", *(f"w{number}" for number in range(57)))


@cache
def tiny_model() -> SimpleNamespace:
    """A network with random weights, under a vocabulary of words."""
    core = tokenizers.Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, "w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    core.add_special_tokens([AddedToken("<end>", special=True)])
    template = "This {{ messages[0]['content'] }}"
    tokenizer = Tokenizer(core, end_tokens=[0], chat_template=template)
    return SimpleNamespace(
        config=TINY_LLAMA,
        params=init_decoder(jax.random.key(0), TINY_LLAMA),
        tokenizer=tokenizer,
        name="tiny",
        sha256="0" * 64,
        licence=None,
    )


def load_tiny(name: str, *, dtype: str) -> SimpleNamespace:
    if name != "smollm2-135m":
        raise UserError(f"there is no model {name!r}")
    return tiny_model()


def load_toy_discriminator(name: str, *, language_model: SimpleNamespace) -> LoadedDiscriminator:
    if name == "misfit":
        raise UserError("the head misfit was made for another model")
    if name == "stale":
        warnings.warn("the head stale was trained on another file", UserWarning, stacklevel=1)
    elif name != "sentiment":
        raise UserError(f"there is no discriminator {name!r}")
    toy = ToyLanguage(vocab_size=TINY_LLAMA.vocab_size)
    params = {"scores": jnp.asarray(toy.tables(0)["scores"])}
    card = {"name": "sentiment", "terms": "for tests"}
    return LoadedDiscriminator(toy_discriminator(toy), params, card)
