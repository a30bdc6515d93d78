"""Command lines whose settings are recorded, and such as are refused."""

from itertools import product

from coopgen_jax.decoding.presets import PRESETS

FOR = "--target positive"
NONE = "--discriminator none"

OF_SEARCH = (
    "--simulations 64", "--simulations 8", "--simulations 1", "--simulations 24",
    "--simulations 100 --wave 4", "--simulations 7", "--wave 1", "--wave 2", "--candidates 8",
    "--candidates 4 --simulations 32", "--depth 3", "--c-puct 1.5", "--alpha 0.5", "--alpha 1",
    "--temperature 0.7", "--repetition-penalty 1.3", "--no-repeat-ngram 0", "--no-repeat-ngram 4",
    "--width 0.5", "--new-tokens 5 --samples 3", "--rollout 3",
)  # fmt: skip
OF_PRESETS = (
    *product(("puct", "paper"), (
        "--visit-temperature 0.7", "--value-power 2", "--visit-temperature 1 --full-share 0.1",
        "--value-power 1 --full-share 0.2", "--enough 40", "--considered 4 --simulations 16",
        "--considered 8 --value-scale 0.3",
    )),
    *product(("values",), (
        "--value-power 0", "--value-power 0.5", "--value-power 2 --full-share 0",
        "--visit-temperature 0.5", "--visit-temperature 0.5 --full-share 0.3", "--considered 4",
        "--value-power 0 --alpha 0.5", "--value-power 0 --simulations 64",
    )),
    *product(("ppo",), (
        "--visit-temperature 0", "--visit-temperature 0.3", "--value-power 1",
        "--value-power 1 --visit-temperature 0", "--full-share 0.1",
        "--reference other --kl 0.1", "--reference smollm2-135m --kl 0", "--simulations 40",
        "--visit-temperature 0 --considered 5",
    )),
    *product(("default",), (
        "--considered 0", "--considered 4", "--considered 4 --simulations 12",
        "--considered 32 --wave 32", "--value-power 1", "--value-power 1 --full-share 0.1",
        "--considered 0 --visit-temperature 1", "--considered 0 --visit-temperature 1 --wave 1",
        "--considered 0 --enough 100", "--considered 0 --simulations 48", "--value-scale 0",
        "--rollout 4 --rollout-confidence 0.9", "--rollout 0", "--reference other --kl 0.1",
        "--simulations 6 --candidates 3", "--compare --samples 2", "--trace tree.html",
    )),
)  # fmt: skip

MCTS = (
    *(f"{FOR} --preset {preset}" for preset in PRESETS),
    *(f"{FOR} --preset {preset} --simulations 20" for preset in PRESETS),
    *(f"{FOR} {words}" for words in OF_SEARCH),
    *(f"{FOR} --preset {preset} {words}" for preset, words in OF_PRESETS),
    f"{NONE} --alpha 0.5",
    f"{NONE} --alpha 0",
)
FUDGE = (
    "", "--samples 4 --new-tokens 7", "--candidates 5", "--strength 0", "--strength 2.5",
    "--score value", "--score log", "--look-ahead", "--temperature 0.5", "--repetition-penalty 1.1",
    "--no-repeat-ngram 3", "--look-ahead --score value --candidates 100 --strength 4",
)  # fmt: skip
GEDI = (
    "", "--draw", "--strength 10", "--filter-p 0", "--target-p 1", "--draw --samples 3",
    "--repetition-penalty 1", "--no-repeat-ngram 2 --temperature 0.7",
)  # fmt: skip
PPLM = (
    "", "--step-size 0.1", "--iterations 0", "--kl 0.2 --fusion 0.5", "--window 5", "--top-k 0",
    "--temperature 0.9 --samples 2", "--bag words.txt", "--bag words.txt --bag words.txt",
)  # fmt: skip
SMC = (
    "", "--power 2", "--threshold 0", "--threshold 1 --resampling residual",
    "--resampling systematic --temperature 1.5",
)  # fmt: skip
RERANK = (
    "", "--of 5", "--alpha 0.3", "--samples 3", "--top-p 0.9", "--temperature 0.7 --top-k 5",
    "--full-share 0.2 --of 40", "--bad-words film --begin-with This", "--no-repeat-ngram 3",
    "--beams 8", "--beams 8 --of 3", "--beams 6 --samples 2", "--groups 3 --diversity 0.5",
    "--groups 2 --beams 3 --diversity 1 --samples 2", "--length-penalty 0.5",
    "--beams 5 --no-repeat-ngram 2 --alpha 0.8", "--beams 16 --new-tokens 3",
)  # fmt: skip
BLOCKWISE = (
    "", "--block 2", "--of 4", "--temperature 0.8", "--top-k 40", "--top-p 0.9 --samples 2",
    "--block 30 --new-tokens 10",
)  # fmt: skip
DAS = (
    "", "--beams 2", "--beams 20", "--candidates 8", "--beams 8 --candidates 9", "--alpha 2",
    "--length-penalty 0", "--no-repeat-ngram 3", "--samples 3",
)  # fmt: skip
BEAM = (
    "", "--beams 10", "--samples 4", "--groups 2 --diversity 0.5", "--length-penalty 0.2",
    "--no-repeat-ngram 3", "--beams 3 --groups 4 --diversity 2 --samples 12",
)  # fmt: skip
STOCHASTIC_BEAM = ("", "--samples 6", "--temperature 0.7 --samples 2")
SAMPLE = (
    "", "--temperature 0", "--temperature 0.8", "--top-k 40", "--top-p 0.9", "--min-p 0.05",
    "--typical-p 0.9", "--eta 0.0003", "--mirostat 5", "--mirostat 4 --mirostat-rate 0.3",
    "--full-share 0.1", "--repetition-penalty 1.2 --no-repeat-ngram 3", "--bad-words film",
    "--bad-words film --bad-words 'film was' --begin-with 'This film'", "--samples 5 --seed 3",
    "--new-tokens 100 --batch-size 2 --dtype bfloat16", "--compare --samples 2",
)  # fmt: skip
GREEDY = ("", "--repetition-penalty 1.5", "--no-repeat-ngram 2", "--bad-words w3 --begin-with w4")

_GENERATE = (
    *MCTS,
    *(f"--method fudge {FOR} {words}" for words in FUDGE),
    *(f"--method gedi {FOR} {words}" for words in GEDI),
    *(f"--method pplm {FOR} {words}" for words in PPLM),
    f"--method pplm {NONE} --bag words.txt",
    *(f"--method smc {FOR} --samples 8 {words}" for words in SMC),
    *(f"--method rerank {FOR} {words}" for words in RERANK),
    f"--method rerank {NONE} --alpha 0 --of 2",
    *(f"--method blockwise {FOR} {words}" for words in BLOCKWISE),
    *(f"--method das {FOR} {words}" for words in DAS),
    f"--method das {NONE} --alpha 0",
    *(f"--method beam {words}" for words in BEAM),
    *(f"--method stochastic-beam {words}" for words in STOCHASTIC_BEAM),
    *(f"--method sample {words}" for words in SAMPLE),
    *(f"--method greedy {words}" for words in GREEDY),
)  # fmt: skip

GENERATE = tuple(line.rstrip() for line in _GENERATE)

COMPARE = (
    "greedy,sample", "greedy,fudge,mcts", "sample:top_p=0.9,mcts:simulations=64,mcts:preset=puct",
    "mcts:preset=values", "mcts:preset=values:simulations=8:full_share=0.2",
    "mcts:preset=ppo:reference=other:kl=0.1", "mcts:preset=paper:simulations=50",
    "mcts:simulations=2:wave=1:candidates=2:depth=2:considered=0",
    "mcts:preset=puct:visit_temperature=1", "mcts:preset=puct:visit-temperature=1:samples=4",
    "mcts:preset=puct:value_power=1", "mcts:considered=4:value-scale=0.5:c-puct=2",
    "mcts:alpha=0.5:discriminator=none", "mcts:width=0.5:discriminator=guide",
    "mcts:rollout=2:rollout_confidence=0.8", "mcts:temperature=0.8:repetition-penalty=1.2",
    "fudge:candidates=50:strength=2", "fudge:score=value:look_ahead=true", "fudge:look_ahead=false",
    "gedi,gedi:draw=true:strength=5", "gedi:filter_p=0.5:target_p=0.9",
    "pplm:step_size=0.1:iterations=2", "pplm:bag=words.txt:discriminator=none",
    "pplm:bag=words.txt+words.txt:kl=0.05", "smc:samples=4:power=2",
    "smc:samples=8:resampling=residual:threshold=0.9", "rerank:of=4,rerank:of=8:alpha=0.5",
    "rerank:beams=16", "rerank:beams=4:groups=2:diversity=0.5:of=3",
    "rerank:top_p=0.9:bad_words=film+was:begin_with=This", "blockwise:block=4:of=8:top-p=0.9",
    "das,das:beams=8:candidates=32:alpha=0.5", "das:alpha=0:discriminator=none",
    "beam:beams=5,beam:groups=5:diversity=0.3:beams=1", "stochastic-beam:samples=5:temperature=0.8",
    "sample:discriminator=none:expert=other:anti_expert=another:expert_weight=2",
    "greedy:negative_prompt=sad:guidance=2", "sample:control_code={target}:discriminator=none",
    r"sample:begin_with=w1\:w2\,w3,greedy:begin-with=This", "greedy,greedy:model=other",
    "sample:mirostat=4,sample:mirostat=4:mirostat_rate=0.2", "sample:top_k=5,sample:top-k=5",
)  # fmt: skip

REFUSED = (
    "", "--target positive --method nothing", "--simulations 8", f"{FOR} --simulations 0",
    f"{FOR} --simulations 10 --wave 4", f"{FOR} --visit-temperature 1",
    f"{FOR} --preset puct --visit-temperature 1 --value-power 1", f"{FOR} --full-share 0.1",
    f"{FOR} --kl 0.1", f"{FOR} --reference other", f"{FOR} --rollout-confidence 0.5",
    f"{FOR} --preset values --alpha 0.5", f"{FOR} --considered 60", f"{FOR} --enough 50", NONE,
    f"{FOR} --alpha 2", f"{FOR} --temperature 0", f"{FOR} --simulations many", f"{FOR} --samples 0",
    f"{NONE} --alpha 0.5 --rollout 2", f"{FOR} {NONE} --alpha 0.5", f"{FOR} --wave 0",
    f"{FOR} --preset best", f"{FOR} --rollout 2 --reference other --kl 0.1",
    f"--method fudge {FOR} --candidates 0", "--method fudge", f"--method fudge {NONE}",
    f"--method fudge {FOR} --filter-p 0.5", f"--method fudge {FOR} --score best",
    f"--method gedi {FOR} --filter-p 1", f"--method gedi {FOR} --look-ahead",
    f"--method pplm {NONE}", f"--method pplm {FOR} --bag missing.txt",
    f"--method pplm {FOR} --fusion 2", f"--method smc {FOR}", f"--method smc {FOR} --threshold 2",
    f"--method rerank {FOR} --of 0", f"--method rerank {FOR} --beams 4 --top-p 0.9",
    f"--method rerank {FOR} --beams 4 --of 8", f"--method blockwise {FOR} --block 0",
    f"--method das {FOR} --beams 0", f"--method das {NONE}", "--method beam --beams 2 --samples 3",
    "--method beam --groups 2", "--method beam --top-p 0.9", "--method sample --mirostat-rate 0.2",
    "--method sample --top-p 0", "--method sample --trace tree.html", "--method greedy --top-k 3",
    "--method sample --bad-words ''", "--method sample --begin-with w1 --new-tokens 0",
    "--method stochastic-beam --beams 4", "--method sample --control-code {target}",
    "--method sample --guidance 2", "--method sample --expert other", "--method greedy --seed -1",
    f"{FOR} --trace tree.txt", f"{FOR} --hosts 2", f"{FOR} --devices 0", f"{FOR} --nonsense 3",
)  # fmt: skip

REFUSED_METHODS = (
    "nothing", "greedy,greedy", "greedy:top_p=0.9", "mcts:simulations=many", "mcts:preset=best",
    "sample:top_p", "fudge:look_ahead=yes", "smc", "mcts:visit_temperature=1", "mcts:seed=3",
    "rerank:beams=4:top_p=0.9", "beam:groups=2", "mcts:discriminator=none", "das:temperature=2",
)  # fmt: skip
