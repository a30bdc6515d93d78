"""The command `coopgen train gcn`."""

from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from coopgen_jax.cli.compare_methods import OwnOptions, method_config
from coopgen_jax.cli.machines import united
from coopgen_jax.cli.token_options import WORDS
from coopgen_jax.cli.train_options import GcnOptions
from coopgen_jax.cli.train_progress import (
    check_numbers,
    compiling,
    finish,
    tell,
    tell_broken,
    watched,
)
from coopgen_jax.data.pairs import Pairs, read_pairs, tokenise_pairs
from coopgen_jax.decoding.decoder_settings import DecoderSettings
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.errors import UserError
from coopgen_jax.models.lora import LoraConfig
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.parallel.mesh import make_mesh
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.gcn.examination import Examination
from coopgen_jax.training.gcn.gcn_config import GcnConfig, ProposalError
from coopgen_jax.training.gcn.gcn_recipe import train_gcn
from coopgen_jax.training.gcn.gcn_training import GcnTraining
from coopgen_jax.training.loop import LoopConfig

PROPOSAL = "sample:top_p=0.9:mix_base=0.1"
# The default proposal by objective; "generator" is the generator by itself.
DEFAULT = {"gan": "generator", "mle": "generator", "selfgan": "mcts:preset=puct:simulations=16"}


def run_gcn(what: GcnOptions) -> None:
    """Trains a generator with its discriminator, and prints the card; see `train.run_train`."""
    # Mistakes in the options are reported before the machines wait for each other.
    config, _ = round_of(what), training_of(what)
    what = united(what)
    how = training_of(what)  # of as many devices as there are by now
    data = read(what, what.data), read(what, what.validation)
    if not config.covers and config.objective in ("gcn", "gdc"):
        tell(what, "the proposal cannot write all that the generator can, so that its weights are "
             "biased: sample and mcts can with mix_base, mcts with value_power too, and "
             "smc by itself")  # fmt: skip
    model = load(what.model, dtype=what.dtype, stacked=True)
    named = what.discriminator_model
    discriminator = None if named is None else load(named, dtype=what.dtype, stacked=True)
    training, validation = (
        tokenised(what, model.tokenizer, pairs, where)
        for pairs, where in zip(data, (what.data, what.validation), strict=True)
    )
    begin = compiling(what, "round")

    def watch(phase: str, found: Any) -> None:
        if phase == "compiling":
            begin()
        if phase == "warning":
            tell(what, found)

    with watched(what, "round") as listener:
        card = train_gcn(
            model, training, validation, config, how, folder=what.out,
            mesh=make_mesh(what.devices), discriminator=discriminator, listener=listener,
            watch=watch,
        )  # fmt: skip
    finish(what, card, _show)


def round_of(what: GcnOptions) -> GcnConfig:
    """Returns what the options say of a round; raises UserError where it cannot be."""
    proposal: DecoderSettings
    named = what.proposal or DEFAULT.get(what.objective, PROPOSAL)
    if said := own_words(named):
        raise UserError(
            f"--proposal {named}: a proposal is of the generator and its discriminator alone, so "
            f"{said[0]} says nothing to it: leave it out"
        )
    if named == "generator":
        proposal = SamplingConfig(new_tokens=what.new_tokens, samples=what.samples)
    else:
        proposal = method_config(
            named, new_tokens=what.new_tokens, samples=what.samples, source="--proposal"
        )
    same = (
        "objective", "sources", "generator_steps", "discriminator_steps",
        "first_discriminator_steps", "discriminator_rows", "replay_rows", "replay_share",
        "negatives", "clip", "kl", "baseline", "scheduler", "half_life",
    )  # fmt: skip
    prefixes = {"auto": None, "prefixes": True, "texts": False}[what.discriminator_reads]
    settings = {name: getattr(what, name) for name in same}
    try:
        return GcnConfig(proposal=proposal, prefixes=prefixes, **settings)
    except ProposalError as error:
        raise UserError(f"--proposal {named}: {error}") from error


def own_words(method: str) -> list[str]:
    """Returns what a method is given that it has beside a decoder's settings: models and words."""
    of_words = (word.option for word in WORDS.values())
    own = {*(field.name for field in fields(OwnOptions)), *of_words, "kl"} - {"samples"}
    return sorted(key for key in own if f":{key}=" in method.replace("-", "_"))


def training_of(what: GcnOptions) -> GcnTraining:
    """Returns how long and how fast; raises UserError where an option is out of its range."""
    check_numbers(
        what, "rounds", "samples", "sample_texts", "validation_rows", "validate_every", "devices",
        "micro_batches", "source_tokens", "new_tokens",
    )  # fmt: skip
    if what.rank is not None and what.rank < 0:
        raise UserError(f"--rank is {what.rank}: give 1 or more, or 0 to train all of both")
    rank = 8 if what.rank is None else what.rank
    rate, judged = what.learning_rate, what.discriminator_learning_rate
    every = min(what.validate_every, what.rounds)
    rows = 32 + -32 % what.devices
    return GcnTraining(
        LoopConfig(
            steps=what.rounds, validate_every=every, save_every=every,
            budget_minutes=what.budget_minutes,
        ),
        lora=LoraConfig(rank=rank, alpha=2.0 * rank) if rank else None,
        optimiser=what.optimiser,
        learning_rate=(1e-4 if rank else 1e-5) if rate is None else rate,
        discriminator_learning_rate=(5e-4 if rank else 5e-5) if judged is None else judged,
        warmup=what.warmup,
        clip=what.gradient_clip or None,
        micro_batches=what.micro_batches,
        dropout=what.discriminator_dropout,
        sharded_optimiser=what.shard_optimiser,
        sharded_parameters=what.shard_parameters,
        remat=None if what.remat == "auto" else what.remat,
        examination=Examination(what.sample_texts, what.validation_rows, rows),
        seed=what.seed,
        mapper=what.mapper,
    )  # fmt: skip


def read(what: GcnOptions, where: str) -> tuple[tuple[str, str], ...]:
    """Returns sources and texts of a file, and tells what was left out; see `read_pairs`."""
    pairs, broken = read_pairs(where, source=what.source, text=what.text)
    tell_broken(what, where, broken)
    return pairs


def tokenised(
    what: GcnOptions, tokenizer: Tokenizer, pairs: tuple[tuple[str, str], ...], where: str
) -> Pairs:
    """Returns pairs as the generator reads them, and tells what was cut."""

    def told(sources: int, texts: int) -> None:
        if sources:
            tell(what, f"{where}: {sources} of {len(pairs)} sources are cut at "
                 f"{what.source_tokens} tokens, the template included: give more --source-tokens "
                 "to have them whole")  # fmt: skip
        if texts:
            tell(what, f"{where}: {texts} of {len(pairs)} texts are cut at {what.new_tokens} "
                 "tokens and show no end: give more --new-tokens to have them whole")  # fmt: skip

    template = what.template.replace("\\n", "\n") if what.source is not None else None
    return tokenise_pairs(
        tokenizer, pairs, source_width=what.source_tokens, text_width=what.new_tokens,
        template=template, told=told,
    )  # fmt: skip


def _show(console: Console, what: GcnOptions, card: dict[str, Any]) -> None:
    console.print(f"{what.out}: {card['objective']}, {card['rounds']} rounds")
    table = Table(box=None)
    for name in ("", "start", "now"):
        table.add_column(name, justify="left" if not name else "right")
    for name, value in card["last"].items():
        # A folder that was begun before something was measured does not have it.
        start = card["start"].get(name, float("nan"))
        table.add_row(NAMES.get(name, name), f"{start:.3f}", f"{value:.3f}")
    console.print(table)


# What is measured, in words.
NAMES = {
    "loss": "held-out texts, nats a token",
    "kl_to_start": "KL to the start, nats a text",
    "bleu": "BLEU-4 of samples",
    "self_bleu": "self-BLEU-4 of samples",
    "distinct": "distinct samples, share",
    "relative_length": "tokens of samples over human texts'",
    "judge_accuracy": "discriminator: accuracy",
    "judge_human_accuracy": "discriminator: accuracy on human texts",
    "judge_calibration_error": "discriminator: calibration error",
}
