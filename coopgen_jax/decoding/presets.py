"""Settings by name: the published ones, and those that measured best."""

from coopgen_jax.decoding.mcts.mcts_config import ByValues, ByVisits, MCTSConfig, Value
from coopgen_jax.decoding.rules.shaping import Rules
from coopgen_jax.search.config import Halving, Puct, SearchConfig

PRESETS: dict[str, MCTSConfig] = {
    # The best of what was compared (docs/results/budget.md).
    "default": MCTSConfig(
        rules=Rules(no_repeat_ngram=3),
        search=SearchConfig(
            simulations=128,
            wave=16,
            root=Halving(considered=16, value_scale=0.25),
            c_puct=0.15,
            first_play_urgency="parent",
            reused_nodes=128,
        ),
    ),
    # The best with PUCT at the root too: its visits can be drawn from.
    "puct": MCTSConfig(
        rules=Rules(no_repeat_ngram=3),
        search=SearchConfig(
            simulations=64,
            wave=4,
            root=Puct(early_stop=False),
            c_puct=0.5,
            first_play_urgency="parent",
            reused_nodes=64,
        ),
    ),
    # Draws that come near p(x) p(c|x) and are to be weighted: what GCN samples by. How many
    # simulations was measured on captions (docs/results/quality.md).
    "values": MCTSConfig(
        rules=Rules(),
        choice=ByValues(value_power=1.0, mix_base=0.1),
        search=SearchConfig(
            simulations=16,
            wave=4,
            root=Puct(early_stop=False),
            candidates=20,
            depth=8,
            first_play_urgency="parent",
            reused_nodes=16,
        ),
    ),
    # PPO-MCTS (Liu et al., COLM 2024, arXiv 2309.15028) with a discriminator as its value: what is
    # unvisited is worth what its parent was evaluated at, and tokens are drawn ever more greedily.
    "ppo": MCTSConfig(
        rules=Rules(),
        choice=ByVisits(visit_temperature=1.0, anneal=True),
        search=SearchConfig(
            simulations=10,
            root=Puct(early_stop=False),
            candidates=10,
            c_puct=8.0,
            first_play_urgency="value",
            reused_nodes=10,
        ),
    ),
    # PPL-MCTS as it was published: 50 simulations per token from an empty tree, in lock step, and
    # the raw product of priors where alpha is below 1. A straight line is as deep as the budget.
    "paper": MCTSConfig(
        value=Value(likelihood="product"),
        search=SearchConfig(simulations=50, root=Puct(early_stop=False), depth=50, reused_nodes=0),
    ),
}
