"""Every method's flags: their help, their names, and what is said of wrong ones."""

import re
from functools import partial
from textwrap import wrap as wrapped

import pytest

from coopgen_jax.cli import _parse_generate, main
from coopgen_jax.cli.ask import attributes, flag
from coopgen_jax.cli.method_flags import (
    PYTHON_ONLY,
    flag_names,
    groups_of,
    methods,
    settings_with_flags,
)
from coopgen_jax.cli.old_flags import METHODS as FORMER
from coopgen_jax.cli.old_flags import renamed, without_policy
from coopgen_jax.cli.options import (
    GenerateOptions,
    ModelOptions,
    OutputOptions,
    PromptOptions,
    WorkOptions,
)
from coopgen_jax.cli.settings import decoder_config
from coopgen_jax.cli.token_options import WORDS
from coopgen_jax.decoding.flat_settings import settings_of
from coopgen_jax.errors import UserError
from tests.cli.running import generate_json, run, sentence

wrap = partial(wrapped, width=80)
COMMON = (PromptOptions, ModelOptions, WorkOptions, OutputOptions)
PLAIN = ["film", "--method", "sample", "--discriminator", "none"]


def translated(arguments: list[str]) -> list[str]:
    return without_policy(renamed(arguments, FORMER))


def help_of(capsys, monkeypatch, *arguments: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert not stop.value.code
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("name", methods())
def test_a_methods_help_is_short_and_shows_its_own_flags_alone(capsys, monkeypatch, name):
    shown = help_of(capsys, monkeypatch, "generate", "--method", name)
    # A terminal wraps what is longer than it is wide.
    lines = [part for line in shown.strip().splitlines() for part in wrap(line) or [""]]
    assert len(lines) <= (90 if name == "mcts" else 60)
    spelt = set(re.findall(r"^\W*?(--\w[\w-]*)", shown, re.MULTILINE))
    own = {flag(option) for option in flag_names(methods()[name])}
    assert spelt == own or spelt == own | {"--help"}
    assert methods()[name].line.split()[0] in shown
    assert not set(FORMER) & set(re.findall(r"--\w[\w-]*", shown))


def test_help_alone_shows_the_common_flags_and_a_line_for_every_method(capsys, monkeypatch):
    shown = help_of(capsys, monkeypatch, "generate")
    for name, method in methods().items():
        assert re.search(rf"^\W*{name} +{re.escape(method.line[:30])}", shown, re.MULTILINE), name
    for kind in COMMON:
        for option in attributes(kind):
            assert option == "texts" or flag(option) in shown, option
    assert "--simulations" not in shown.partition("examples:")[0]


@pytest.mark.parametrize("name", methods())
def test_every_setting_says_what_it_is(name):
    method = methods()[name]
    for setting in settings_of(type(method.base)):
        text = attributes(setting.owner).get(setting.name, "")
        assert len(text) > 10, f"{setting.owner.__name__}.{setting.name} has no help"
    groups = groups_of(method)
    shown = {field for kind in groups.values() for field in kind.__dataclass_fields__}
    assert shown == set(flag_names(method))
    # Nothing is shown twice, and nothing that only Python sets is.
    assert sum(len(kind.__dataclass_fields__) for kind in groups.values()) == len(shown)
    assert not set(PYTHON_ONLY) & shown


def test_no_flag_has_two_meanings():
    """What methods share is one setting of one record, or says the same of both."""
    common = {option for kind in COMMON for option in attributes(kind)} | {"method"}
    meanings: dict[str, set[type]] = {}
    for method in methods().values():
        assert not common & set(flag_names(method))
        for setting in settings_with_flags(method):
            meanings.setdefault(setting.name, set()).add(setting.kind)
        assert len(set(flag_names(method).values())) == len(flag_names(method))
    for name, kinds in meanings.items():
        assert len(kinds) == 1, f"{name} is of several types: {kinds}"
    options = {word.option for word in WORDS.values()}
    assert not options & (set(meanings) - set(WORDS))
    assert not {old for old in FORMER if old in map(flag, meanings)}


def test_old_flags_are_the_new_ones():
    old = ["--width", "0", "--enough=20", "--full-share", "0.2", "--policy", "spread"]
    new = ["--foresight-power", "0", "--visit-limit=20", "--mix-base", "0.2"]
    assert translated(old) == new
    assert translated(["--policy=spread", "--seed", "1"]) == ["--seed", "1"]
    assert translated(["film", "--target", "spread"]) == ["film", "--target", "spread"]
    for policy in (["--policy", "siblings"], ["--policy=descend"], ["--policy"]):
        with pytest.raises(UserError, match=r"^--policy .*is gone.*: leave it out$"):
            translated(policy)
    drawn = ["film", "--target", "one", "--preset", "puct", "--visit-temperature", "1"]
    one, other = (decoder_config(_parse_generate([*drawn, *words])) for words in (old, new))
    assert one == other
    assert (one.choice.mix_base, one.search.root.visit_limit) == (0.2, 20)


# One of every sentence about settings that decoders refuse, with the flags that it names.
REFUSED = [
    (["--simulations", "0"], "--simulations is 0"),
    (["--simulations", "9", "--wave", "2"], "--simulations is 9, not a multiple of wave (2)"),
    (["--wave", "9", "--candidates", "4"], "--wave is 9"),
    (["--considered", "51"], "--considered is 51"),
    (["--first-play-urgency", "none"], "'none' for argument '--first-play-urgency'"),
    (["--c-puct", "-1"], "--c-puct is -1.0"),
    (["--value-scale", "-1"], "--value-scale is -1.0"),
    (["--reused-nodes", "-1"], "--reused-nodes is -1"),
    (["--visit-limit", "20"], "--visit-limit says nothing here: give --considered 0"),
    (["--visit-limit", "1", "--considered", "0"], "--visit-limit is 1"),
    (["--visit-temperature", "1"], "give --considered 0 (the preset puct), or --value-power"),
    (["--preset", "puct", "--visit-temperature", "1", "--value-power", "1"],
     "--visit-temperature is 1.0 and --value-power is 1.0: they exclude each other"),
    (["--value-power", "1", "--alpha", "0.5"], "--value-power is 1.0 and --alpha is 0.5"),
    (["--anneal"], "--anneal says nothing here: give --visit-temperature with it"),
    (["--mix-base", "0.1"], "--mix-base says nothing here"),
    (["--preset", "values", "--mix-base", "2"], "--mix-base is 2.0"),
    (["--foresight-power", "-1"], "--foresight-power is -1.0"),
    (["--rollout-confidence", "0.5"], "give --rollout with it"),
    (["--rollout", "2", "--rollout-confidence", "9"], "--rollout-confidence is 9.0"),
    (["--kl", "0.1"], "--kl is what leaving a --reference costs"),
    (["--rollout", "2", "--kl", "0.1", "--reference", "x"], "--rollout is 2 and --kl is 0.1"),
    (["--alpha", "2"], "--alpha is 2.0"),
    (["--temperature", "0"], "--temperature is 0"),
    (["--new-tokens", "0"], "--new-tokens is 0"),
    (["--repetition-penalty", "0"], "--repetition-penalty is 0.0"),
    (["--no-repeat-ngram", "1"], "--no-repeat-ngram is 1"),
    (["--min-tokens", "-1"], "--min-tokens is -1"),
    (["--method", "sample", "--min-p", "2"], "--min-p is 2.0"),
    (["--method", "sample", "--typical-p", "0"], "--typical-p is 0.0"),
    (["--method", "sample", "--top-p", "0"], "--top-p is 0.0"),
    (["--method", "sample", "--top-k", "-1"], "--top-k is -1"),
    (["--method", "sample", "--eta", "1"], "--eta is 1.0"),
    (["--method", "sample", "--mirostat-rate", "2"], "--mirostat-rate needs --mirostat"),
    (["--method", "sample", "--mix-base", "0.5", "--temperature", "0"], "--mix-base mixes"),
    (["--method", "beam", "--groups", "2"], "2 groups with a diversity of 0.0"),
    (["--method", "beam", "--length-penalty", "99999"], "--length-penalty is 99999"),
    (["--method", "rerank", "--of", "0"], "--of is 0"),
    (["--method", "rerank", "--beams", "2", "--top-k", "3"], "--top-k says nothing to beams"),
    (["--method", "gedi", "--filter-p", "1"], "--filter-p is 1.0"),
    (["--method", "gedi", "--target-p", "2"], "--target-p is 2.0"),
    (["--method", "fudge", "--strength", "-1"], "--strength is -1.0"),
    (["--method", "blockwise", "--block", "0"], "--block is 0"),
    (["--method", "das", "--beams", "4", "--candidates", "3"], "4 beams are to go on"),
    (["--method", "smc", "--samples", "2", "--threshold", "2"], "--threshold is 2.0"),
    (["--method", "stochastic-beam", "--temperature", "0"], "--temperature is 0"),
    (["--method", "pplm", "--step-size", "-1"], "--step-size is -1.0"),
    (["--stop", ""], "--stop has an empty text"),
    (["--bad-words", " "], "--bad-words has an empty word"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "told"), REFUSED)
def test_sentences_name_flags_and_never_python(capsys, no_work, arguments, told):
    said = sentence(capsys, "generate", "film", "--target", "one", *arguments)
    assert told in said
    assert "_" not in said, f"a Python name in: {said}"


@pytest.mark.parametrize("name", methods())
def test_a_flag_of_another_method_is_refused(capsys, no_work, name):
    own = set(flag_names(methods()[name]))
    others = {option for method in methods().values() for option in flag_names(method)} - own
    assert others
    for option in sorted(others):
        said = sentence(
            capsys, "generate", "film", "--target", "one", "--method", name, flag(option), "1"
        )
        assert said == f"{flag(option)} means nothing to --method {name}: leave one of them out"


def test_an_unknown_target_is_refused_before_the_model_is_loaded(capsys, monkeypatch, no_work):
    monkeypatch.undo()
    monkeypatch.setattr(
        "coopgen_jax.cli.generate.load", lambda *_, **__: pytest.fail("the model was loaded")
    )
    said = sentence(capsys, "generate", "film", "--target", "joyful")
    assert said == "--target joyful is unknown to sentiment: its classes are negative, positive"
    said = sentence(capsys, "generate", "film", "--method", "sample", "--target", "joyful")
    assert "is unknown to sentiment" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["frobnicate"], "there is no command frobnicate: known are generate"),
        (["evaluate", "foo"], "there is nothing called foo to evaluate"),
        (["train", "foo"], "there is nothing called foo to train"),
        (["generate", "film", "--frob", "3"], "--frob"),
        (["generate", "film", "--frob=3"], "--frob"),
        (["generate", "film", "--new-tokens"], "--new-tokens"),
        (["generate", "film", "--method"], "--method"),
        (["generate", "film", "--dtype", "int8"], "--dtype"),
        (["generate", "film", "--seed", "x"], "--seed is 'x'"),
        (["generate", "film", "--method", "nope"], "--method is 'nope': known are mcts"),
        (["generate", "film", "--preset", "nope"], "--preset is 'nope': known are default"),
        (["compare", "--methods", "greedy"], "--out must be given"),
        (["compare", "--methods", "greedy", "--out", "x", "--frob"], "--frob"),
        (["train", "lm", "--data", "x"], "--validation, --out must be given"),
        (["train", "lm", "--data", "x", "--validation", "y", "--out", "z", "--frob"], "--frob"),
        (["evaluate", "annotate", "foo"], "foo"),
        (["models", "--frob"], "--frob"),
        (["plan", "--frob"], "--frob"),
    ],
)
@pytest.mark.parametrize("boxes", [True, False])
def test_wrong_commands_are_told_in_one_voice(capsys, monkeypatch, no_work, arguments, told, boxes):
    monkeypatch.setenv("COLUMNS", "60")
    # A terminal of letters alone has other boxes.
    monkeypatch.setattr("tyro._fmtlib._FORCE_UTF8_BOXES", boxes)
    said = sentence(capsys, *arguments)
    assert told in said
    assert not re.search(r"--[ -]|[^\x00-\x7f]", said), said


def test_stop_and_min_tokens_work_from_end_to_end(capsys):
    sampled = [*PLAIN, "--new-tokens", "8", "--samples", "6"]
    whole = generate_json(capsys, *sampled)["texts"]
    word = whole[0]["text"].split()[2]
    cut = generate_json(capsys, *sampled, "--stop", word)["texts"]
    found = 0
    for long, short in zip(whole, cut, strict=True):
        before, separator, _ = long["text"].partition(word)
        assert short["text"] == before
        assert short["finished"] == (bool(separator) or long["finished"])
        found += bool(separator)
    assert found
    later = generate_json(capsys, *sampled, "--stop", word, "--min-tokens", "6")
    assert all(len(text["tokens"]) >= 6 for text in later["texts"])
    assert all(word not in text["text"] for text in later["texts"])
    assert later["settings"]["min_tokens"] == 6


def test_biases_work_from_end_to_end(capsys):
    biased = [*PLAIN, "--new-tokens", "4", "--token-bias", "w5=60"]
    (text,) = generate_json(capsys, *biased)["texts"]
    assert text["text"].split() == ["w5"] * 4
    both = [*biased, "--token-bias", "w5=-120", "--token-bias", "was=70"]
    (text,) = generate_json(capsys, *both)["texts"]
    assert text["text"].split() == ["was"] * 4
    for wrong in ("w5", "w5=much", "=3", "w5=inf"):
        said = sentence(capsys, "generate", *PLAIN, "--quiet", "--token-bias", wrong)
        assert said == f"--token-bias {wrong}: give a word and a number as WORD=X"


def test_a_line_break_is_written_as_such(monkeypatch):
    options = GenerateOptions(words={"stop": ("\\n",)}, method="sample", discriminator="none")
    from coopgen_jax.cli.token_options import with_words
    from tests.cli.tiny import tiny_model

    config = with_words(decoder_config(options), options.words, tiny_model().tokenizer)
    assert config.rules.stop == ("\n",)


def test_values_of_flags_reach_the_settings(capsys, monkeypatch):
    """Every flag with a number is one setting: what is read is what the record holds."""
    from coopgen_jax.decoding.flat_settings import flat

    read = _parse_generate(["film", "--method", "fudge", "--top-k", "7", "--strength=0.25"])
    assert read.settings == {"top_k": 7, "strength": 0.25}
    config = decoder_config(read.__class__(**{**vars(read), "target": "one"}))
    assert {name: flat(config)[name] for name in read.settings} == read.settings
    off = _parse_generate(["film", "--preset", "puct", "--no-early-stop"])
    assert (off.settings, off.preset) == ({"early_stop": False}, "puct")


def test_help_of_a_wrong_method_is_a_sentence(capsys):
    status, out, err = run(capsys, "generate", "--method", "nope", "--help")
    assert (status, out) == (2, "") and err.startswith("coopgen: error: --method is 'nope'")
