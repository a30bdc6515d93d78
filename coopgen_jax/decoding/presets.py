"""Settings by name."""

from coopgen_jax.decoding.mcts import MCTSConfig
from coopgen_jax.search.config import SearchConfig

PRESETS: dict[str, MCTSConfig] = {
    "default": MCTSConfig(),
    "paper": MCTSConfig(
        likelihood="product", search=SearchConfig(simulations=50, kept=0, early_stop=False)
    ),
}
