"""Tree search on arrays; knows no network and no text."""

from coopgen_jax.search.mcts import SearchConfig, choose, root_visits, search
from coopgen_jax.search.tree import Expansion, Leaves, Tree, new_tree, plant, reroot

__all__ = [
    "Expansion",
    "Leaves",
    "SearchConfig",
    "Tree",
    "choose",
    "new_tree",
    "plant",
    "reroot",
    "root_visits",
    "search",
]
