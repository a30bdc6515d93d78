"""Experts, negative prompts and control codes on the command line."""

from types import SimpleNamespace

import jax
import pytest

import coopgen_jax.cli.generate as command
from coopgen_jax.errors import UserError
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.testing import TINY_GPT2
from coopgen_jax.tokenizer import Tokenizer
from tests.cli.running import GUIDED, SHORT, generate_json, run, sentence
from tests.cli.tiny import tiny_model

GREEDY = ["--method", "greedy", "--discriminator", "none", "--new-tokens", 3]
EXPERTS = ["--expert", "tuned", "--anti-expert", "untuned", "--expert-weight", 2]


@pytest.fixture(autouse=True)
def models(monkeypatch) -> list[str]:
    """Names of the models that were loaded."""
    loaded: list[str] = []

    def load(name: str, *, dtype: str) -> SimpleNamespace:
        loaded.append(name)
        tiny = vars(tiny_model())
        if name == "smollm2-135m":
            return SimpleNamespace(**tiny)
        if name == "foreign":
            core = tiny["tokenizer"].core.from_str(tiny["tokenizer"].core.to_str())
            core.add_tokens(["foreign"])
            return SimpleNamespace(**{**tiny, "name": name, "tokenizer": Tokenizer(core)})
        if name not in ("tuned", "untuned"):
            raise UserError(f"there is no model {name!r}")
        params = init_decoder(jax.random.key(len(name)), TINY_GPT2)
        own = {"config": TINY_GPT2, "params": params, "name": name, "licence": "MIT"}
        return SimpleNamespace(**{**tiny, **own})

    monkeypatch.setattr(command, "load", load)
    return loaded


def tokens_of(found: dict) -> list[list[int]]:
    return [text["tokens"] for text in found["texts"]]


def test_experts_change_what_is_written_and_are_named(capsys, models):
    plain = generate_json(capsys, "This film was", *GREEDY)
    found = generate_json(capsys, "This film was", *GREEDY, *EXPERTS)
    assert models == ["smollm2-135m", "smollm2-135m", "tuned", "untuned"]
    assert tokens_of(found) != tokens_of(plain)
    networks = found["model"]["networks"]
    assert [network["name"] for network in networks] == ["tiny", "tuned", "untuned"]
    assert networks[1]["licence"] == "MIT"
    assert [part["weight"] for part in found["model"]["parts"]] == [1.0, 2.0, -2.0]
    settings = found["settings"]
    assert (settings["expert"], settings["expert_weight"]) == ("tuned", 2.0)
    assert settings["guidance"] is settings["negative_prompt"] is None
    assert "networks" not in plain["model"] and plain["settings"]["expert_weight"] is None
    models.clear()
    same = ["--expert", "tuned", "--anti-expert", "tuned"]
    assert tokens_of(generate_json(capsys, "This film was", *GREEDY, *same)) == tokens_of(plain)
    assert models == ["smollm2-135m", "tuned"]
    _, out, _ = run(capsys, "generate", "This film was", *GREEDY, *EXPERTS, "--quiet")
    assert "expert tuned, anti expert untuned, expert weight 2" in out


def test_a_control_code_may_name_the_target(capsys):
    coded = [*GREEDY, "--control-code", "{target}: ", "--target", "one"]
    spelt = [*GREEDY, "--control-code", "one: "]
    one, other = (generate_json(capsys, "This film was", *words) for words in (coded, spelt))
    assert tokens_of(one) == tokens_of(other)
    said = sentence(capsys, "generate", "so", *GREEDY, "--control-code", "{target}")
    assert said == "{target} stands for a --target, and there is none: name it"


def test_a_control_code_is_a_prompts_beginning_that_is_not_shown(capsys):
    coded = generate_json(capsys, "film was", *GREEDY, "--control-code", "This")
    whole = generate_json(capsys, "This film was", *GREEDY)
    assert tokens_of(coded) == tokens_of(whole)
    assert coded["texts"][0]["prompt"] == "film was"
    assert coded["settings"]["control_code"] == "This"


def test_guidance_of_nothing_is_the_negative_prompt(capsys):
    negative = ["--negative-prompt", "w7 w8"]
    away = generate_json(capsys, "film was", *GREEDY, *negative, "--guidance", 0)
    assert tokens_of(away) == tokens_of(generate_json(capsys, "w7 w8", *GREEDY))
    usual = generate_json(capsys, "film was", *GREEDY, *negative)
    assert usual["settings"]["guidance"] == 1.5
    assert [part["weight"] for part in usual["model"]["parts"]] == [1.5, -0.5]


@pytest.mark.parametrize(
    "method",
    [
        [*GUIDED],
        ["--method", "smc", "--target", "one", "--new-tokens", 2, "--samples", 2],
        ["--method", "sample", "--new-tokens", 2, "--compare"],
    ],
)
def test_methods_take_them_all_together(capsys, method):
    found = generate_json(
        capsys, "film", "film was", *method, *EXPERTS, "--negative-prompt", "w7",
        "--control-code", "This",
    )  # fmt: skip
    assert {text["prompt"] for text in found["texts"]} == {"film", "film was"}


def test_a_search_is_charged_for_leaving_a_reference(capsys, models):
    free = generate_json(capsys, "film", "film was", *GUIDED, "--compare")
    models.clear()
    reference = ["--reference", "tuned", "--kl", 2]
    found = generate_json(capsys, "film", "film was", *GUIDED, *reference, "--compare")
    assert models == ["smollm2-135m", "tuned"]
    assert tokens_of(found) != tokens_of(free)
    assert found["compare"] == free["compare"]
    assert found["reference"]["name"] == "tuned" and free["reference"] is None
    assert (found["settings"]["reference"], found["settings"]["kl"]) == ("tuned", 2.0)
    # The model itself, and an expert, are loaded once.
    models.clear()
    itself = generate_json(
        capsys, "film", "film was", *GUIDED, "--reference", "smollm2-135m", *reference[2:]
    )
    assert tokens_of(itself) == tokens_of(free)
    generate_json(capsys, "film", *GUIDED, *EXPERTS, *reference)
    assert models == ["smollm2-135m", "smollm2-135m", "tuned", "untuned"]
    _, out, _ = run(capsys, "generate", "film", *GUIDED, *reference, "--preset", "ppo", "--quiet")
    assert "reference tuned" in out and "kl 2" in out


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--kl", 0.1], "--kl is what leaving a --reference costs: name that language model too"),
        (["--reference", "tuned"], "--reference needs --kl, what leaving it costs, such as 0.1"),
        (["--reference", "tuned", "--kl", -1], "kl is -1.0"),
        (["--reference", "tuned", "--kl", 1, "--rollout", 2], "--rollout is 2 and --kl is 1.0"),
        (["--expert", "tuned"], "--expert without --anti-expert is mixed with the model"),
        (["--expert-weight", 2], "--expert-weight needs --expert or --anti-expert"),
        (["--guidance", 2], "--guidance needs --negative-prompt"),
        ([*EXPERTS[:-1], "nan"], "--expert-weight is nan"),
    ],
)
def test_what_is_missing_is_told_before_a_model_is_loaded(capsys, no_work, wrong, told):
    assert told in sentence(capsys, "generate", "film", *GUIDED, *wrong)


def test_other_methods_have_no_use_for_a_reference(capsys, no_work):
    words = ["--method", "fudge", "--target", "one", "--reference", "tuned"]
    told = "--reference means nothing to --method fudge: leave one of them out"
    assert sentence(capsys, "generate", "film", *words) == told


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--reference", "foreign", "--kl", 1], "the reference foreign has other tokens than tiny"),
        (["--anti-expert", "nobody"], "there is no model 'nobody'"),
        (["--anti-expert", "foreign"], "foreign has other tokens than tiny"),
        (["--negative-prompt", ""], "the negative prompt is empty"),
        (["--control-code", ""], "the control code is empty"),
    ],
)
def test_what_does_not_go_together_is_told(capsys, wrong, told):
    assert told in sentence(capsys, "generate", "film", "--target", "one", *SHORT, *wrong)
