"""Settings by name: the published ones, and those that measured best."""

from coopgen_jax.decoding.mcts.mcts_config import MCTSConfig
from coopgen_jax.search.config import SearchConfig

PRESETS: dict[str, MCTSConfig] = {
    # The best of what was compared (all of it in experiments/README.md).
    "default": MCTSConfig(
        repetition_penalty=1.0,
        no_repeat_ngram=3,
        search=SearchConfig(
            simulations=128,
            wave=16,
            considered=16,
            value_scale=0.25,
            c_puct=0.15,
            first_play_urgency="parent",
            kept=128,
        ),
    ),
    # The best with PUCT at the root too: its visits can be drawn from.
    "puct": MCTSConfig(
        repetition_penalty=1.0,
        no_repeat_ngram=3,
        search=SearchConfig(
            simulations=64,
            wave=4,
            c_puct=0.5,
            first_play_urgency="parent",
            kept=64,
            early_stop=False,
        ),
    ),
    # Draws that come near p(x) p(c|x) and are to be weighed: what GCN samples by. How many
    # simulations was measured on captions (experiments/README.md).
    "values": MCTSConfig(
        repetition_penalty=1.0,
        value_power=1.0,
        full_share=0.1,
        search=SearchConfig(
            simulations=16,
            wave=4,
            candidates=20,
            depth=8,
            first_play_urgency="parent",
            kept=16,
            early_stop=False,
        ),
    ),
    # PPO-MCTS (Liu et al., COLM 2024, arXiv 2309.15028) with a discriminator as its value: what is
    # unvisited is worth what its parent was evaluated at, and tokens are drawn ever more greedily.
    "ppo": MCTSConfig(
        repetition_penalty=1.0,
        visit_temperature=1.0,
        anneal=True,
        search=SearchConfig(
            simulations=10,
            candidates=10,
            c_puct=8.0,
            first_play_urgency="value",
            kept=10,
            early_stop=False,
        ),
    ),
    # PPL-MCTS as it was published: 50 simulations per token from an empty tree, in lock step, and
    # the raw product of priors where alpha is below 1. A straight line is as deep as the budget.
    "paper": MCTSConfig(
        likelihood="product",
        search=SearchConfig(simulations=50, depth=50, kept=0, early_stop=False),
    ),
}
