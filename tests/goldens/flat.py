"""What a command line resolves to, as plain JSON in the names that stood when it was recorded.

Whoever renames settings changes this file, and the record stays as it is.
"""

import shlex
from typing import Any

from coopgen_jax.cli import _parse
from coopgen_jax.cli.compare_methods import runs_of
from coopgen_jax.cli.method_flags import method_name
from coopgen_jax.cli.settings import compared_config, decoder_config
from coopgen_jax.cli.token_options import with_words
from coopgen_jax.decoding.methods.beam import BeamConfig
from coopgen_jax.decoding.methods.rerank import RerankConfig
from coopgen_jax.decoding.names_on_disc import settings_on_disc
from tests.cli.tiny import tiny_model
from tests.goldens.comparing import plain

# Decoders whose names in the record are not those of their methods.
NAMES = {"sample": "sampling"}


def flat(config: Any) -> dict[str, Any]:
    """Returns a decoder's settings, those of its search or its proposal in them."""
    name = method_name(type(config))
    found = {"decoder": NAMES.get(name, name), **settings_on_disc(config)}
    if isinstance(config, RerankConfig):
        beams = isinstance(config.proposal, BeamConfig)
        found["proposal"]["decoder"] = "beam" if beams else "sampling"
    return plain(found)


def telling(found: dict[str, Any], record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns both without what says nothing of a search.

    When this was recorded, a root that halving had been taken from said that it does not stop
    early, and kept the scale of halving's values.
    """
    pair = []
    for settings in (found, record):
        search = settings.get("search")
        if search is not None:
            silent = {"early_stop"} | (set() if search["considered"] else {"value_scale"})
            left = {name: value for name, value in search.items() if name not in silent}
            settings = settings | {"search": left}
        pair.append(settings)
    return pair[0], pair[1]


def generating(line: str) -> dict[str, Any]:
    """Returns what the words behind `coopgen generate` resolve to.

    Raises:
      UserError: they are refused; SystemExit: they cannot be read.
    """
    options = _parse(["generate", *shlex.split(line)])
    found = flat(with_words(decoder_config(options), options.words, tiny_model().tokenizer))
    if options.compare:
        found["compare"] = flat(compared_config(options))
    return found


def comparing(line: str) -> list[dict[str, Any]]:
    """Returns what the words behind `coopgen compare` resolve to, method by method.

    Raises:
      UserError: they are refused; SystemExit: they cannot be read.
    """
    options = _parse(["compare", "--out", "out", *shlex.split(line)])
    runs = runs_of(options)
    targets = list(options.target)
    return [
        {
            "name": run.name,
            "discriminator": "none" if run.discriminator is None else run.discriminator,
            "model": run.model,
            "target": targets[0] if run.discriminator or run.steering.names_target else None,
            "reference": run.reference,
            "expert": run.steering.expert,
            "anti_expert": run.steering.anti_expert,
            "expert_weight": run.steering.expert_weight,
            "negative_prompt": run.steering.negative_prompt,
            "guidance": run.steering.guidance,
            "control_code": run.steering.control_code,
            "config": flat(run.with_tokens(tiny_model().tokenizer)),
        }
        for run in runs
    ]
