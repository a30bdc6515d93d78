"""Plug and Play decoding of one text in NumPy, in double precision, with explicit past and no grad.

A text is read token by token; what each has been read as stands in two lists of keys and values.
Gradients are central differences, coordinate by coordinate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from coopgen_jax.decoding.methods.pplm_config import PPLMConfig
from coopgen_jax.models.transformer import DecoderConfig


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


def double(params: Any) -> Any:
    if isinstance(params, dict):
        return {name: double(leaf) for name, leaf in params.items()}
    return np.asarray(params, np.float64)


@dataclass
class Network:
    config: DecoderConfig
    params: dict

    def norm(self, p: dict, x: np.ndarray) -> np.ndarray:
        if self.config.norm == "rms":
            return x / np.sqrt((x**2).mean() + self.config.norm_epsilon) * p["scale"]
        x = x - x.mean()
        return x / np.sqrt((x**2).mean() + self.config.norm_epsilon) * p["scale"] + p["bias"]

    def activate(self, x: np.ndarray) -> np.ndarray:
        if self.config.activation == "silu":
            return x / (1 + np.exp(-x))
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def turn(self, x: np.ndarray, position: int) -> np.ndarray:
        half = self.config.head_width // 2
        angle = position * self.config.rope_theta ** -(np.arange(half) / half)
        first, second = x[:, :half], x[:, half:]
        cos, sin = np.cos(angle), np.sin(angle)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1)

    def read(self, vector: np.ndarray, past: np.ndarray) -> tuple:
        """Reads one more vector behind `past` `[2, L, S, G, Eh]`.

        Returns the logits, the states `[L + 1, E]` numbered as taps, and the new entries
        `[2, L, 1, G, Eh]`.
        """
        c, position = self.config, past.shape[2]
        x = vector
        if c.positions == "learned":
            x = x + self.params["positions"][position]
        states, entries = [x], np.zeros((2, c.layers, 1, c.kv_heads, c.head_width))

        def dense(p: dict, x: np.ndarray) -> np.ndarray:
            return p["kernel"] @ x + p.get("bias", 0.0)

        for number in range(c.layers):
            p = {name: {k: v[number] for k, v in module.items()}
                 for name, module in self.params["layers"].items()}  # fmt: skip
            h = self.norm(p["attention_norm"], x)
            query = dense(p["query"], h).reshape(c.heads, -1)
            key, value = (dense(p[name], h).reshape(c.kv_heads, -1) for name in ("key", "value"))
            if c.positions == "rotary":
                query, key = self.turn(query, position), self.turn(key, position)
            entries[:, number, 0] = key, value
            keys = np.concatenate([past[0, number], key[None]])
            values = np.concatenate([past[1, number], value[None]])
            heads = []
            for head in range(c.heads):
                group = head // (c.heads // c.kv_heads)
                scores = keys[:, group] @ query[head] / np.sqrt(c.head_width)
                heads.append(np.exp(log_softmax(scores)) @ values[:, group])
            x = x + dense(p["output"], np.concatenate(heads))
            h = self.norm(p["ffn_norm"], x)
            up = dense(p["up"], h)
            up = self.activate(dense(p["gate"], h)) * up if c.gated else self.activate(up)
            x = x + dense(p["down"], up)
            states.append(x)
        states[-1] = self.norm(self.params["final_norm"], x)
        return self.table(unembed=True) @ states[-1], np.stack(states), entries

    def table(self, *, unembed: bool = False) -> np.ndarray:
        return self.params["head" if unembed and not self.config.tied else "embedding"]

    def read_text(self, text: list[int]) -> tuple:
        c = self.config
        past, states, logits = np.zeros((2, c.layers, 0, c.kv_heads, c.head_width)), [], None
        for token in text:
            logits, state, entries = self.read(self.table()[token], past)
            past = np.concatenate([past, entries], axis=2)
            states.append(state)
        return logits, np.stack(states), past


@dataclass
class Reference:
    """Of one text: what is shifted is `[2, L, S, G, Eh]`, in the order of the text.

    head: of a shared trunk, or None; prompt: how many tokens of the text it does not average.
    """

    network: Network
    config: PPLMConfig
    text: list[int]
    head: dict | None = None
    taps: tuple[int, ...] = ()
    prompt: int = 0
    target: int = 0

    def __post_init__(self) -> None:
        self.plain, self.states, past = self.network.read_text(self.text)
        self.whole, self.past = past, past[:, :, :-1]

    def shifted(self, shift: np.ndarray) -> np.ndarray:
        last = self.network.table()[self.text[-1]]
        return log_softmax(self.network.read(last, self.past + shift)[0])

    def objective(self, shift: np.ndarray) -> float:
        shifted, plain = self.shifted(shift), log_softmax(self.plain)
        total = -self.config.kl * (np.exp(shifted) * (shifted - plain)).sum()
        for bag in self.config.bags:
            total += np.log(np.exp(shifted[list(bag)]).sum()) / len(self.config.bags)
        if self.head is not None:
            soft = np.exp(shifted) @ self.network.table()
            _, state, _ = self.network.read(soft, self.whole)
            total += self.judge(np.concatenate([self.states, state[None]]))[self.target]
        return float(total)

    def judge(self, states: np.ndarray) -> np.ndarray:
        own = states[:, list(self.taps)]
        seen = np.concatenate([own[-1], own[self.prompt :].mean(axis=0)], axis=-1).reshape(-1)
        x = (seen - self.head["centre"]) * self.head["scale"]
        x = np.maximum(x @ self.head["hidden_0"]["kernel"] + self.head["hidden_0"]["bias"], 0)
        return log_softmax(x @ self.head["output"]["kernel"] + self.head["output"]["bias"])

    def weight(self) -> np.ndarray:
        """How much each token may move: 1 in the window, less towards its beginning by decay."""
        count, window = self.past.shape[2], self.config.window
        age = np.arange(count)[::-1]
        weight = np.ones(count)
        if window:
            weight = (age < window) * (1 - age / window if self.config.decay else 1.0)
        return weight[None, None, :, None, None]

    def gradient(self, shift: np.ndarray, step: float = 1e-5) -> np.ndarray:
        found = np.zeros_like(shift)
        for index in np.ndindex(shift.shape):
            moved = np.zeros_like(shift)
            moved[index] = step
            found[index] = self.slope(shift, moved, 1.0) / step
        return found

    def slope(self, shift: np.ndarray, direction: np.ndarray, step: float) -> float:
        ahead, behind = (self.objective(shift + sign * step * direction) for sign in (1, -1))
        return (ahead - behind) / (2 * step)

    def climb(self) -> np.ndarray:
        shift = np.zeros_like(self.past)
        for _ in range(self.config.iterations):
            slope = self.gradient(shift) * self.weight()
            for number in range(shift.shape[1]):
                norm = np.linalg.norm(slope[:, number])
                if norm:
                    along = slope[:, number] / norm**self.config.gamma
                    shift[:, number] += self.config.step_size * along
        return shift

    def fused(self) -> np.ndarray:
        """The logarithm of the next token's fused distribution, before it is truncated."""
        share, shifted = self.config.fusion, self.shifted(self.climb())
        return log_softmax(share * shifted + (1 - share) * log_softmax(self.plain))
