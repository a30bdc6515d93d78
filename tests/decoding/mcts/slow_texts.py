"""The toy language under the compiled search, and whole texts as the slow search writes them."""

import functools

import jax
import numpy as np

from coopgen_jax.decoding.decode import mcts
from coopgen_jax.decoding.job import Job
from coopgen_jax.decoding.mcts import ppl_mcts as decoder
from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.search import Halving, Puct, SearchConfig
from coopgen_jax.testing import ToyLanguage, toy_discriminator, toy_language_model

TOY = ToyLanguage(vocab_size=6)
MODEL, GUIDE = toy_language_model(TOY), toy_discriminator(TOY)
END = TOY.vocab_size - 1
STATIC = ("config",)


def tables_of(seed: int) -> dict[str, np.ndarray]:
    """Tables without ties, so that rounding cannot decide."""
    noise = np.random.default_rng(seed + 100)
    return {
        name: table + noise.uniform(-0.3, 0.3, table.shape).astype(np.float32)
        for name, table in TOY.tables(seed).items()
    }


def with_reference(tables: dict, seed: int) -> dict:
    """Adds the tables of a reference that is another language, but not a wholly foreign one."""
    logits = 0.7 * tables["logits"] + 0.5 * tables_of(seed)["logits"]
    return {**tables, "reference": {"logits": logits.astype(np.float32)}}


def parts_of(params, target, config):
    return {
        "language_model": MODEL,
        "params": params,
        "discriminator": GUIDE,
        "discriminator_params": params,
        "target": target,
        "reference": MODEL if "reference" in params else None,
        "reference_params": params.get("reference"),
        "config": config,
    }


@functools.partial(jax.jit, static_argnames=STATIC)
def begin(prompt, params, target, config):
    return decoder.begin(Job(prompt=prompt, **parts_of(params, target, config)))


@functools.partial(jax.jit, static_argnames=STATIC)
def advance(key, prompt, state, params, target, config):
    return decoder.advance(key, Job(prompt=prompt, **parts_of(params, target, config)), state)


@functools.partial(jax.jit, static_argnames=STATIC)
def decode(key, prompt, params, target, config):
    return mcts(key, prompt, **parts_of(params, target, config))


class Lookup:
    def __init__(self, function):
        self.function = function

    def __getitem__(self, at):
        return self.function(at)


class Texts:
    """The toy language as the oracle's search wants it: a state is the number of a text."""

    def __init__(self, tables, prompt: list[int], target: int, config: MCTSConfig):
        self.tables, self.target, self.config = tables, target, config
        self.prompt, self.root, self.known = list(prompt), 0, [()]
        self.step = Lookup(self.read)
        self.terminal = Lookup(lambda state: self.known[state][-1:] == (END,))
        self.value = Lookup(self.worth)

    def read(self, at) -> int:
        state, token = at
        self.known.append((*self.known[state], int(token)))
        return len(self.known) - 1

    def memory(self, text) -> int:
        memory = 0
        for token in (*self.prompt, *text):
            memory = TOY.read(memory, token)
        return memory

    def priors(self, text) -> np.ndarray:
        logits = self.tables["logits"][self.memory(text)].astype(np.float64)
        for token in {*text, *(self.prompt if self.config.rules.penalise_prompt else [])}:
            penalty = self.config.rules.repetition_penalty
            logits[token] = (
                logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
            )
        n, read = self.config.rules.no_repeat_ngram, [*self.prompt, *text]
        if n and len(read) >= n - 1:
            grams = {tuple(read[at : at + n]) for at in range(len(read) - n + 1)}
            for token in range(len(logits)):
                if (*read[len(read) - n + 1 :], token) in grams:
                    logits[token] = -np.inf
        log_weights = logits / self.config.rules.temperature
        if self.config.foresight_power:
            said = [self.class_probs([*text, token])[self.target] for token in range(len(logits))]
            log_weights = log_weights + self.config.foresight_power * np.log(said)
        weights = np.exp(log_weights)
        return (weights / weights.sum()).astype(np.float32)

    def candidates(self, state, size):
        priors = self.priors(self.known[state])
        order = np.argsort(-priors, kind="stable")[:size]
        return order, priors[order]

    def rewards(self, state, tokens) -> np.ndarray:
        if self.config.reference is None:
            return np.zeros(len(tokens), np.float32)
        memory = self.memory(self.known[state])
        both = [self.tables["logits"][memory], self.tables["reference"]["logits"][memory]]
        own, other = (logits - np.log(np.exp(logits).sum()) for logits in both)
        return (-self.config.reference.kl * (own - other)[tokens]).astype(np.float32)

    def class_probs(self, text) -> np.ndarray:
        scores = np.exp(self.tables["scores"][self.memory([t for t in text if t != END])])
        return scores / scores.sum()

    def worth(self, state) -> np.float32:
        text = self.known[state]
        value = self.class_probs(text)[self.target] ** self.config.value.alpha
        log_priors = [np.log(self.priors(text[:n])[text[n]]) for n in range(self.root, len(text))]
        if log_priors and self.config.value.likelihood == "mean":
            value *= np.exp(np.mean(log_priors)) ** (1 - self.config.value.alpha)
        elif log_priors:
            value *= np.exp(np.sum(log_priors)) ** (1 - self.config.value.alpha)
        return np.float32(value)


def search_config(*, considered: int = 0, value_scale: float = 0.5, **changes) -> SearchConfig:
    root = Halving(considered, value_scale) if considered else Puct(early_stop=False)
    defaults = {"simulations": 24, "candidates": 4, "depth": 5, "reused_nodes": 24, "root": root}
    return SearchConfig(**defaults | changes)
