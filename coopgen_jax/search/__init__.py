"""Tree search on arrays; knows no network and no text."""

from coopgen_jax.search.config import Halving, Puct, SearchConfig
from coopgen_jax.search.mcts import best_child, root_visits, search
from coopgen_jax.search.tree import Expansion, Leaves, Tree, new_tree, plant, reroot

__all__ = [
    "Expansion",
    "Halving",
    "Leaves",
    "Puct",
    "SearchConfig",
    "Tree",
    "best_child",
    "new_tree",
    "plant",
    "reroot",
    "root_visits",
    "search",
]
