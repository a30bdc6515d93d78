"""Four topics of news: sampling, GeDi, sampling-argmax, and the search under guides of two kinds.

    python -m experiments.topic --data FOLDER --work FOLDER --out experiments/results

After PPL-MCTS (Chaffin et al., NAACL 2022, arXiv 2109.13582) on the news of Zhang et al. (2015).
See `domain`.
"""

import sys

import tyro

from experiments.domain import Config, Domain, run
from experiments.domain_methods import best_of_samples, gedi, nucleus, search

METHODS = (nucleus, gedi, best_of_samples, search(), search("generative"))
TOPIC = Domain(
    name="topic",
    folder="ag_news",
    classes=("world", "sports", "business", "scitech"),
    methods=METHODS,
    trained=("lm", "trunk", "generative"),
    taps=(0, 15, 25, 30),
)

if __name__ == "__main__":
    sys.exit(run(tyro.cli(Config), TOPIC))
