"""Polarity of reviews: all of the thesis' methods side by side.

    python -m experiments.polarity --data FOLDER --work FOLDER --out experiments/results

After PPL-MCTS (Chaffin et al., NAACL 2022, arXiv 2109.13582) on the reviews of Blitzer
et al. (2007), with networks of one size that begin as the packaged language model. See `domain`.
"""

import sys

import tyro

from experiments.domain import BASELINES, SEARCH, Config, Domain, run

METHODS = (
    *BASELINES,
    "pplm",
    "rerank:of=20:top_p=0.9",
    "rerank:beams=10",
    "fudge",
    "fudge:score=value:strength=10",
    "sample:top_p=0.9:expert={work}/expert-{{target}}:expert_weight=2",
    "smc:samples=4",
    SEARCH,
    f"{SEARCH}:discriminator={{work}}/causal",
    f"{SEARCH}:discriminator={{work}}/generative",
    "mcts:simulations=16:wave=8:discriminator=sentiment-minilm",
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
