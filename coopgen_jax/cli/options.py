"""What can be said on the command line; imports nothing that takes long."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

EXAMPLES = """\
examples:
  coopgen generate "This film was" --target positive
  coopgen generate "This film was" --target negative --compare --trace search.html
  coopgen generate --prompts prompts.txt --target positive --samples 3 \\
      --preset puct --visit-temperature 0.5 --out texts.jsonl
  echo "My neighbour is" | coopgen generate - --target positive --json
  coopgen generate --prompts prompts.txt --target positive --devices 4 --batch-size 32
  # on the first of two machines; on the second the same with --host 1
  coopgen generate --prompts prompts.txt --target positive \\
      --coordinator 10.0.0.1:8476 --hosts 2 --host 0
  coopgen generate "How was it?" --chat --method sample --top-p 0.9 --temperature 0.8
  coopgen generate "This film was" --method sample --discriminator none \\
      --expert tuned --anti-expert smollm2-135m --expert-weight 2
"""


def _unset(metavar: str, default: str = "the preset's") -> Any:
    """Describes an option that takes its default from elsewhere."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class GenerateOptions:
    """Continue prompts so that a discriminator finds the target class in them."""

    texts: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[PROMPT ...]", help_behavior_hint="")
    ] = ()
    """Texts to continue, each in quotes; - reads them from standard input, one a line."""
    prompts: Annotated[Path | None, _unset("FILE", "none")] = None
    """Read the prompts from a file: .txt with one a line, or .jsonl with a "prompt" or "text"."""
    target: Annotated[str | None, _unset("CLASS", "none; the guided methods need one")] = None
    """The class that the texts are to have, such as positive."""
    discriminator: Annotated[str, arg(metavar="NAME|FOLDER")] = "sentiment"
    """What judges the texts: a name from `coopgen models`, the folder of a head, or none."""
    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    """The language model: a name from `coopgen models`, a folder, a GGUF file, or a hub name."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the language model."""
    method: Literal[
        "mcts",
        "fudge",
        "gedi",
        "pplm",
        "smc",
        "rerank",
        "blockwise",
        "das",
        "beam",
        "stochastic-beam",
        "sample",
        "greedy",
    ] = "mcts"
    """How to write: guided tree search, drawing among judged candidates, weighing the whole
    vocabulary by a discriminator that judges tokens before they are read, drawing after a gradient
    has shifted what was read (PPLM; for heads on the model's states, or a --bag), sequential Monte
    Carlo, the best of several texts under the discriminator, or of several blocks at a time, beam
    search re-scored by the discriminator, beam search for the likeliest texts, drawing without
    replacement, plain sampling, or the likeliest token each time."""
    new_tokens: Annotated[int, arg(metavar="T")] = 24
    """Most tokens to write per text."""
    samples: Annotated[int, arg(metavar="R")] = 1
    """Texts per prompt; of --method smc the particles, of stochastic-beam the beams."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of everything random; the same seed gives the same texts."""
    batch_size: Annotated[int, arg(metavar="B")] = 8
    """Prompts worked on at once; memory grows with it."""
    devices: Annotated[int, arg(metavar="N")] = 1
    """Devices of this machine among which each batch is split; it does not change the texts."""
    tensor: Annotated[int, arg(metavar="N")] = 1
    """Devices that share the weights of a model too large for one; --devices times as many work."""
    coordinator: Annotated[str | None, _unset("HOST:PORT", "none, one process")] = None
    """Several machines: where the first can be reached; auto asks a TPU pod, Slurm or Open MPI. Run
    the same command on each: it writes a share of the prompts, and the first reports them all."""
    hosts: Annotated[int | None, _unset("N", "none")] = None
    """Several machines: how many processes there are."""
    host: Annotated[int | None, _unset("K", "none")] = None
    """Several machines: which process this one is; 0 is the first, where the coordinator runs."""
    chat: bool = False
    """Put each prompt to the model's assistant, in its chat template, instead of continuing it."""
    expert: Annotated[str | None, _unset("NAME|PATH", "none")] = None
    """A model of texts as they are to be, with the same tokens: --expert-weight times the logits by
    which it differs from --anti-expert are added to the model's (DExperts, proxy tuning). Whatever
    the --method, truncation and candidates are of the sum. Alone it is mixed with the model."""
    anti_expert: Annotated[str | None, _unset("NAME|PATH", "none")] = None
    """A model of texts as they are not to be; alone the model itself is the expert."""
    expert_weight: Annotated[float | None, _unset("ALPHA", "1")] = None
    """Weight of the expert against the anti-expert."""
    negative_prompt: Annotated[str | None, _unset("TEXT", "none")] = None
    """What the model reads in place of the prompt to be guided away from (classifier-free
    guidance)."""
    guidance: Annotated[float | None, _unset("GAMMA", "1.5")] = None
    """How far away from it: 1 not at all, above 1 the prompt counts more."""
    control_code: Annotated[str | None, _unset("TEXT", "none")] = None
    """Stands in front of every prompt, a chat's template included, for the model alone (a
    class-conditional one); it is not reported, nor read by discriminators but in the model's own
    states. In it, and in the names of experts, {target} stands for the target."""
    preset: Literal["default", "puct", "values", "ppo", "paper"] = "default"
    """Settings of the search; the visits of puct can be drawn from, values draws by what tokens are
    worth, ppo by visits ever more greedily (PPO-MCTS; Liu et al., 2024), paper is PPL-MCTS as
    published (Chaffin et al., 2022)."""
    simulations: Annotated[int | None, _unset("N")] = None
    """Search: texts judged per written token."""
    wave: Annotated[int | None, _unset("W", "the preset's, or what divides the simulations")] = None
    """Search: tree nodes evaluated at once; divides the simulations."""
    candidates: Annotated[int | None, _unset("K", "the preset's; fudge: 20, das: 16")] = None
    """Search and fudge: likeliest tokens that may follow each text; das: likeliest continuations of
    all beams that are judged."""
    depth: Annotated[int | None, _unset("D")] = None
    """Search: how many tokens to look ahead, at most."""
    considered: Annotated[int | None, _unset("M", "the preset's; 0 for PUCT there too")] = None
    """Search: candidates for the next token that sequential halving compares at the root."""
    value_scale: Annotated[float | None, _unset("S")] = None
    """Search: weight of a text's value against the log prior in that comparison, 0 or more."""
    c_puct: Annotated[float | None, _unset("C")] = None
    """Search: weight of exploration, 0 or more."""
    policy: Annotated[Literal["spread", "siblings", "descend"] | None, _unset("NAME")] = None
    """Search: where a wave's nodes stand: each where it likes, side by side, or ever deeper."""
    enough: Annotated[int | None, _unset("N", "the preset's; 0 for no limit")] = None
    """Search: visits of the root, those kept from the last token included, that end it early."""
    alpha: Annotated[float | None, _unset("A")] = None
    """Search and re-ranking: weight of the discriminator against the likelihood in a text's value,
    from 0 to 1; das: its weight beside the log-likelihood, 0 or more (default 1)."""
    width: Annotated[float | None, _unset("X", "0, none")] = None
    """Search: exponent of p(target | text and token) in the choice of candidates and their priors;
    needs a discriminator that judges tokens before they are read."""
    reference: Annotated[str | None, _unset("NAME|PATH", "none")] = None
    """Search: a language model with the same tokens that leaving costs --kl, such as the one that
    --model was tuned from, or --model itself where experts are combined with it (PPO-MCTS)."""
    visit_temperature: Annotated[float | None, _unset("TAU")] = None
    """Search: above 0 tokens are drawn by their visits (--preset puct); without draws the best one
    is written."""
    value_power: Annotated[float | None, _unset("X")] = None
    """Search: above 0 tokens are drawn from p(token) Q^X over the whole vocabulary, with the values
    Q that the search has found and no rule or temperature applied; 1 (--preset values) comes
    nearest to drawing texts of the target."""
    full_share: Annotated[float | None, _unset("X", "the preset's; others: 0, none")] = None
    """Sampling: share of the texts that are drawn from the whole distribution, no rule applied;
    search by drawn tokens: share of it in every token. Texts that are to be weighted want some."""
    rollout: Annotated[int | None, _unset("N")] = None
    """Search: tokens sampled behind a node before it is judged, at most; 0 for none."""
    rollout_confidence: Annotated[float | None, _unset("P")] = None
    """Search: probability of a class at which a roll-out ends early."""
    temperature: Annotated[float | None, _unset("T", "the preset's; others: 1")] = None
    """Divides the model's logits, above 0; lower is more conservative."""
    repetition_penalty: Annotated[
        float | None, _unset("X", "the preset's; plain: 1; gedi: 1.2")
    ] = None
    """Makes tokens that have been seen less likely; 1 for none."""
    no_repeat_ngram: Annotated[int | None, _unset("N", "the preset's; plain: 0")] = None
    """Length of the n-grams that are never written twice; 0 allows all."""
    strength: Annotated[float | None, _unset("X", "1; gedi: 30")] = None
    """Fudge and GeDi: weight of the discriminator beside the logits."""
    bag: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")] = ()
    """PPLM: a bag of words to write towards, one word a line, in place of a --target or beside it;
    words of several tokens are left out; can be given several times."""
    step_size: Annotated[float | None, _unset("X", "0.02")] = None
    """PPLM: how far each gradient step shifts the keys and values of a layer."""
    iterations: Annotated[int | None, _unset("N", "3")] = None
    """PPLM: gradient steps before every token."""
    kl: Annotated[float | None, _unset("X", "search: 0, none; pplm: 0.01")] = None
    """PPLM: weight of staying near the unshifted distribution; search: what leaving the --reference
    costs, per unit by which a token's log-probability is above the reference's, such as 0.1."""
    fusion: Annotated[float | None, _unset("X", "0.9")] = None
    """PPLM: share of the shifted distribution in what tokens are drawn from, from 0 to 1."""
    window: Annotated[int | None, _unset("N", "0, all")] = None
    """PPLM: only the newest N tokens are shifted."""
    score: Annotated[Literal["log", "value"] | None, _unset("NAME", "log")] = None
    """Fudge: whether it adds log p(target | text) (FUDGE) or p(target | text) (RAD)."""
    look_ahead: bool = False
    """Fudge: judge candidates before they are read, and read only the one that is drawn; needs a
    discriminator that can, such as a generative one."""
    filter_p: Annotated[float | None, _unset("P", "0.8")] = None
    """GeDi: leave out the tokens that bring the target about worst, up to this probability; 0 for
    none."""
    target_p: Annotated[float | None, _unset("P", "0.8")] = None
    """GeDi: keep besides every token with p(target | text and token) above this; 1 for none."""
    draw: bool = False
    """GeDi: draw tokens instead of taking the likeliest one each time."""
    power: Annotated[float | None, _unset("X", "1")] = None
    """Sequential Monte Carlo: power of the discriminator in what the weighted texts stand for."""
    threshold: Annotated[float | None, _unset("X", "0.5")] = None
    """Sequential Monte Carlo: share of effective particles below which they are resampled."""
    resampling: Annotated[
        Literal["systematic", "residual"] | None, _unset("NAME", "systematic")
    ] = None
    """Sequential Monte Carlo: how particles that go on are chosen."""
    of: Annotated[int | None, _unset("N", "16, or all beams")] = None
    """Re-ranking: texts written for every one that is kept; blockwise: blocks for every block."""
    block: Annotated[int | None, _unset("M", "8")] = None
    """Blockwise: tokens of a block."""
    beams: Annotated[int | None, _unset("W", "4")] = None
    """Beam search and das: texts that are continued side by side; with --method rerank they are
    what is chosen from."""
    groups: Annotated[int | None, _unset("G", "1")] = None
    """Beam search: groups of so many beams each, which choose one after another; with
    --diversity."""
    diversity: Annotated[float | None, _unset("X", "0")] = None
    """Beam search: what a token costs for every beam of an earlier group that took it too."""
    length_penalty: Annotated[float | None, _unset("X", "1")] = None
    """Beam search and das: power of the length that log-probabilities are divided by."""
    top_k: Annotated[int | None, _unset("K", "0, all; pplm: 10")] = None
    """Sampling, PPLM and blockwise: draw from the K likeliest tokens; 0 for all."""
    top_p: Annotated[float | None, _unset("P", "1, all")] = None
    """Sampling and blockwise: draw from the likeliest tokens that make up this probability
    (nucleus)."""
    min_p: Annotated[float | None, _unset("X", "0, all")] = None
    """Sampling: draw from tokens of at least this share of the likeliest one's probability."""
    typical_p: Annotated[float | None, _unset("P", "1, all")] = None
    """Sampling: draw from the tokens of most typical surprise that make up this probability."""
    eta: Annotated[float | None, _unset("X", "0, all")] = None
    """Sampling: epsilon of eta sampling, a least probability that falls with the entropy."""
    mirostat: Annotated[float | None, _unset("BITS", "0, none")] = None
    """Sampling: surprise per token that Mirostat 2 steers the text to."""
    mirostat_rate: Annotated[float | None, _unset("X", "0.1")] = None
    """Sampling: how fast Mirostat corrects itself."""
    bad_words: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="WORD")] = ()
    """Plain decoding: a word whose usual tokens are never written in a row, also not as part of a
    longer one; can be given several times."""
    begin_with: Annotated[str | None, _unset("TEXT", "nothing")] = None
    """Plain decoding: how every continuation begins, a space in front where there is to be one; it
    counts among the new tokens, and bad words in it are written."""
    compare: bool = False
    """Write plain nucleus sampling (top-p 0.9, same seed) beside each text."""
    json: bool = False
    """Print one JSON document instead of a report."""
    out: Annotated[Path | None, _unset("FILE", "none")] = None
    """Write the JSON document to a file too; .jsonl has one text a line."""
    trace: Annotated[Path | None, _unset("FILE", "none")] = None
    """Write the search tree of every token: .json, or .html to look at."""
    quiet: bool = False
    """Show no progress."""


@dataclass(frozen=True)
class ModelsOptions:
    """List what can be had by name: language models, encoders, discriminator heads."""

    fetch: Annotated[str | None, _unset("NAME", "none")] = None
    """Fetch a model now, so that it is there when it is needed."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class PlanOptions:
    """Predict what a guided decode would take on this machine: bytes, and seconds per token."""

    model: Annotated[str, arg(metavar="NAME|PATH")] = "smollm2-135m"
    """The language model, as for generate; or gpt2-small, gpt2-large, llama-1b: shapes alone."""
    guide: Literal["trunk", "causal"] = "trunk"
    """A head on the model's own states, or a network of the model's shape beside it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights."""
    batch_size: Annotated[int, arg(metavar="B")] = 8
    """Prompts worked on at once."""
    samples: Annotated[int, arg(metavar="R")] = 1
    """Texts per prompt."""
    prompt_length: Annotated[int, arg(metavar="P")] = 16
    """Tokens of every prompt, padding included."""
    new_tokens: Annotated[int, arg(metavar="T")] = 24
    """Tokens to write per text."""
    preset: Literal["default", "puct", "values", "ppo", "paper"] = "default"
    """Settings of the search that the next options change."""
    simulations: Annotated[int | None, _unset("N")] = None
    """Texts judged per written token."""
    wave: Annotated[int | None, _unset("W", "the preset's, or what divides the simulations")] = None
    """Tree nodes evaluated at once."""
    candidates: Annotated[int | None, _unset("K")] = None
    """Likeliest tokens that may follow each node."""
    depth: Annotated[int | None, _unset("D")] = None
    """How many tokens to look ahead, at most."""
    bandwidth: Annotated[float | None, _unset("GB/S", "measured here")] = None
    """Read bandwidth of another machine, in gigabytes per second; with --rate."""
    rate: Annotated[float | None, _unset("TFLOP/S", "measured here")] = None
    """Matrix rate of another machine, in teraflops per second; with --bandwidth."""
    json: bool = False
    """Print JSON instead of a table."""
