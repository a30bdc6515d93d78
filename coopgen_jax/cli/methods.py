"""What every method of `coopgen generate` takes of the options that only some of them take."""

OF_SEARCH = (
    "simulations",
    "wave",
    "policy",
    "candidates",
    "considered",
    "value_scale",
    "depth",
    "c_puct",
    "enough",
)
GUIDED = ("alpha",)
OF_MCTS = (
    "width",
    "kl",
    "visit_temperature",
    "value_power",
    "full_share",
    "rollout",
    "rollout_confidence",
)
OF_SAMPLING = (
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "eta",
    "mirostat",
    "mirostat_rate",
    "full_share",
)
OF_PLAIN = ("bad_words", "begin_with")
OF_RERANK = ("of",)
OF_FUDGE = ("candidates", "strength", "score", "look_ahead")
OF_GEDI = ("strength", "filter_p", "target_p")
OF_PPLM = ("step_size", "iterations", "kl", "fusion", "window")
OF_SMC = ("power", "threshold", "resampling")
OF_BEAMS = ("beams", "groups", "diversity", "length_penalty")
OF_BLOCKS = ("block", "of", "temperature", "top_k", "top_p")
OF_DAS = ("beams", "candidates", "alpha", "length_penalty", "no_repeat_ngram")
SHARED = ("temperature", "repetition_penalty", "no_repeat_ngram")
# What each method takes of all that only some methods take.
TAKES: dict[str, tuple[str, ...]] = {
    "mcts": (*OF_SEARCH, *OF_MCTS, "reference", *GUIDED, *SHARED),
    "fudge": OF_FUDGE + SHARED,
    "gedi": (*OF_GEDI, "draw", *SHARED),
    "pplm": (*OF_PPLM, "bag", "top_k", "temperature"),
    "smc": (*OF_SMC, "temperature"),
    "rerank": OF_RERANK + OF_BEAMS + OF_SAMPLING + OF_PLAIN + GUIDED + SHARED,
    "blockwise": OF_BLOCKS,
    "das": OF_DAS,
    "beam": (*OF_BEAMS, "no_repeat_ngram"),
    "stochastic-beam": ("temperature",),
    "sample": OF_SAMPLING + OF_PLAIN + SHARED,
    "greedy": (*OF_PLAIN, "repetition_penalty", "no_repeat_ngram"),
}
