"""Six emotions: sampling, GeDi, sampling-argmax, and the search under guides of two kinds.

    python -m experiments.emotion --data FOLDER --work FOLDER --out experiments/results

After PPL-MCTS (Chaffin et al., NAACL 2022, arXiv 2109.13582) on the texts of Saravia et al. (2018).
See `domain`.
"""

import sys

import tyro

from experiments.domain import Config, Domain, run
from experiments.domain_methods import best_of_samples, gedi, nucleus, search

METHODS = (nucleus, gedi, best_of_samples, search(), search("generative"))
EMOTION = Domain(
    name="emotion",
    folder="emotion",
    classes=("sadness", "joy", "love", "anger", "fear", "surprise"),
    methods=METHODS,
    trained=("lm", "trunk", "generative"),
    taps=(0, 5, 10, 15),
)

if __name__ == "__main__":
    sys.exit(run(tyro.cli(Config), EMOTION))
