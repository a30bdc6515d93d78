"""Polarity of reviews: all of the thesis' methods side by side.

    python -m experiments.polarity --data FOLDER --work FOLDER --out experiments/results

After PPL-MCTS (Chaffin et al., NAACL 2022, arXiv 2109.13582) on the reviews of Blitzer
et al. (2007), with networks of one size that begin as the packaged language model. See `domain`.
"""

import sys

import tyro

from experiments import domain_methods as methods
from experiments.domain import Config, Domain, run

METHODS = (
    *methods.BASELINES,
    methods.pplm,
    methods.best_of_samples,
    methods.best_of_beams,
    methods.fudge,
    methods.fudge_by_value,
    methods.experts,
    methods.particles,
    methods.search(),
    methods.search("causal"),
    methods.search("generative"),
    methods.search("sentiment-minilm", simulations=16),
)
POLARITY = Domain(
    name="polarity",
    folder="amazon_reviews",
    classes=("negative", "positive"),
    methods=METHODS,
    trained=("lm", "trunk", "causal", "generative", "experts"),
)

if __name__ == "__main__":
    sys.exit(run(tyro.cli(Config), POLARITY))
