"""The command line: what it prints and writes, and one sentence for every mistake."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

import coopgen_jax.cli.files as files
import coopgen_jax.cli.generate as command
import coopgen_jax.cli.models as listing
from coopgen_jax.cli import main
from coopgen_jax.cli.options import GenerateOptions
from coopgen_jax.cli.report import for_people
from coopgen_jax.cli.settings import decoder_config, is_redundant
from coopgen_jax.decoding.mcts_config import MCTSConfig
from coopgen_jax.decoding.presets import PRESETS
from coopgen_jax.discriminators.heads import LoadedDiscriminator
from coopgen_jax.errors import UserError
from coopgen_jax.models.transformer import init_decoder
from coopgen_jax.search.config import SearchConfig
from coopgen_jax.testing import TINY_LLAMA, ToyLanguage, toy_discriminator
from coopgen_jax.text import Tokenizer

WORDS = ("<end>", "This", "film", "was", *(f"w{number}" for number in range(57)))
SHORT = ["--new-tokens", "3", "--simulations", "4", "--wave", "2", "--candidates", "4"]
SHORT += ["--batch-size", "1"]
GUIDED = ["--target", "one", *SHORT]


@cache
def tiny_model() -> SimpleNamespace:
    """A network with random weights, under a vocabulary of words."""
    core = tokenizers.Tokenizer(models.WordLevel({w: n for n, w in enumerate(WORDS)}, "w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    core.add_special_tokens([AddedToken("<end>", special=True)])
    template = "This {{ messages[0]['content'] }}"
    tokenizer = Tokenizer(core, end_tokens=[0], chat_template=template)
    return SimpleNamespace(
        config=TINY_LLAMA,
        params=init_decoder(jax.random.key(0), TINY_LLAMA),
        tokenizer=tokenizer,
        name="tiny",
        sha256="0" * 64,
        licence=None,
    )


def load_tiny(name: str, *, dtype: str) -> SimpleNamespace:
    if name != "smollm2-135m":
        raise UserError(f"there is no model {name!r}")
    return tiny_model()


def load_toy_discriminator(name: str, *, language_model: SimpleNamespace) -> LoadedDiscriminator:
    if name == "misfit":
        raise UserError("the head misfit was made for another model")
    if name == "stale":
        warnings.warn("the head stale was trained on another file", UserWarning, stacklevel=1)
    elif name != "sentiment":
        raise UserError(f"there is no discriminator {name!r}")
    toy = ToyLanguage(vocab_size=TINY_LLAMA.vocab_size)
    params = {"scores": jnp.asarray(toy.tables(0)["scores"])}
    card = {"name": "sentiment", "terms": "for tests"}
    return LoadedDiscriminator(toy_discriminator(toy), params, card)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "load", load_tiny)
    monkeypatch.setattr(command, "load_discriminator", load_toy_discriminator)
    monkeypatch.setattr(command, "_keep_compilations", lambda folder: None)
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_work(monkeypatch):
    """Fails a test in which the mistake was found only after the long work had begun."""

    def load(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(command, "load", load)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def generate_json(capsys, *arguments: object) -> dict:
    status, out, err = run(capsys, "generate", *arguments, "--json", "--quiet")
    assert (status, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def sentence(capsys, *arguments: object) -> str:
    """Runs a command that has a mistake in it and returns the one sentence about it."""
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("coopgen: error: ")
    assert "Traceback" not in err
    return err.removeprefix("coopgen: error: ").strip()


# What is written.


def test_json_holds_the_texts_their_figures_and_the_settings(capsys):
    found = generate_json(capsys, "This film was", "was film", *GUIDED, "--seed", 3)
    assert found["model"] == {"name": "tiny", "sha256": "0" * 64, "licence": None}
    assert found["discriminator"]["classes"] == ["zero", "one"]
    assert found["discriminator"]["card"]["terms"] == "for tests"
    assert found["seconds"] > 0
    assert found["crossing_seconds"] is None
    assert found["compare"] is None
    settings = found["settings"]
    assert (settings["method"], settings["target"], settings["seed"]) == ("mcts", "one", 3)
    assert settings["search"]["simulations"] == 4
    assert [text["prompt"] for text in found["texts"]] == ["This film was", "was film"]
    for text in found["texts"]:
        assert 1 <= len(text["tokens"]) <= 3
        assert text["text"] == tiny_model().tokenizer.continuation(text["tokens"])
        assert sum(text["class_probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert text["log_proposal"] is None
        assert text["simulations"] > 0


def test_the_report_tells_what_crossing_tokenizers_cost():
    document = {
        "settings": {"method": "greedy"},
        "model": {"name": "m"},
        "discriminator": {"name": "d"},
        "seconds": 8.0,
        "crossing_seconds": 2.0,
    }
    shown = for_people(document, [], None, style=False)
    assert "8.0 s, 25.0% of it between tokenizers" in shown


def test_the_report_names_prompt_text_figures_and_settings(capsys):
    found = generate_json(capsys, "This film was", *GUIDED)["texts"][0]
    status, out, err = run(capsys, "generate", "This film was", *GUIDED)
    assert status == 0
    assert f"This film was{found['text']}\n" in out
    assert f"p(one) {found['class_probabilities']['one']:.3f}" in out
    assert f"log-likelihood {found['log_prob']:.2f}" in out
    assert f"perplexity {found['perplexity']:.2f}" in out
    assert "simulations 4" in out
    assert "\x1b" not in out
    assert err == "coopgen: compiling the search, once per prompt length\n"


def test_brackets_and_escapes_in_a_text_are_shown_as_they_are(capsys):
    _, out, _ = run(capsys, "generate", "[red]film[/] :smile: \x1b[31m", *GUIDED, "--quiet")
    assert out.startswith("[red]film[/] :smile: \ufffd[31m")


def test_quiet_says_nothing_on_stderr(capsys):
    assert run(capsys, "generate", "film", *GUIDED, "--quiet")[2] == ""


def test_compare_writes_plain_sampling_beside(capsys):
    found = generate_json(capsys, "This film was", *GUIDED, "--compare", "--seed", 5)
    sampling = ["--method", "sample", "--top-p", 0.9, "--new-tokens", 3, "--seed", 5]
    alone = generate_json(capsys, "This film was", "--target", "one", *sampling)
    assert len(found["texts"]) == 1
    assert found["compare"] == alone["texts"]
    assert found["settings"]["compare"]["top_p"] == 0.9
    _, out, _ = run(capsys, "generate", "This film was", *GUIDED, "--compare", "--quiet")
    assert "mcts:\n" in out and "plain sampling:\n" in out
    assert out.count("perplexity") == 2


def test_plain_methods_need_no_target(capsys):
    greedy = generate_json(capsys, "This film was", "--method", "greedy", "--new-tokens", 1)
    assert greedy["settings"]["temperature"] == 0
    assert set(greedy["texts"][0]["class_probabilities"]) == {"zero", "one"}
    plain = ["--method", "sample", "--discriminator", "none", "--new-tokens", 3]
    sampled = generate_json(capsys, "This film was", *plain)
    assert sampled["discriminator"] is None
    assert sampled["texts"][0]["log_proposal"] < 0


def test_a_search_without_discriminator_goes_by_likelihood(capsys):
    found = generate_json(capsys, "film", "--discriminator", "none", "--alpha", 0.5, *SHORT)
    assert found["texts"][0]["target"] is None


def test_chat_wraps_what_the_model_reads_but_not_what_is_shown(capsys):
    chat = generate_json(capsys, "film was", "--chat", *GUIDED)["texts"][0]
    raw = generate_json(capsys, "This film was", *GUIDED)["texts"][0]
    assert chat["prompt"] == "film was"
    assert chat["tokens"] == raw["tokens"]


def test_out_is_the_document_and_jsonl_one_text_a_line(capsys, tmp_path):
    out, lines = tmp_path / "out.json", tmp_path / "out.jsonl"
    out.write_text("old")
    out.chmod(0o640)
    found = generate_json(capsys, "film", "was", *GUIDED, "--compare", "--out", out)
    assert json.loads(out.read_text()) == found
    assert out.stat().st_mode & 0o777 == 0o640
    generate_json(capsys, "film", "was", *GUIDED, "--compare", "--out", lines)
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [entry["method"] for entry in entries] == ["mcts"] * 2 + ["compare"] * 2
    assert [entry["tokens"] for entry in entries[:2]] == [t["tokens"] for t in found["texts"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.jsonl"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_output_will_do(monkeypatch, encoding):
    arguments = ["generate", "film \u2603", "--method", "greedy", "--new-tokens", "1", "--quiet"]
    for extra in ([], ["--json"]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert main([*arguments, *extra]) == 0
        printed = raw.getvalue().decode(encoding)
        if extra:
            assert json.loads(printed)["texts"][0]["prompt"] == "film \u2603"
        else:
            assert printed.startswith("film \u2603" if encoding == "utf-8" else "film \\u2603")


def test_numbers_that_are_not_finite_become_null(capsys, monkeypatch):
    real = command.generate

    def endless(*arguments: object, **options: object) -> list:
        return [replace(text, perplexity=float("inf")) for text in real(*arguments, **options)]

    monkeypatch.setattr(command, "generate", endless)
    assert generate_json(capsys, "film", *GUIDED)["texts"][0]["perplexity"] is None


def test_trace_holds_a_tree_for_every_token(capsys, tmp_path):
    for suffix in ("json", "html"):
        path = tmp_path / f"trace.{suffix}"
        found = generate_json(capsys, "film", "This was", *GUIDED, "--trace", path)
        content = path.read_text(encoding="utf-8")
        if suffix == "html":
            assert content.startswith("<!doctype html>")
            content = content.split('id="data">')[1].split("</script>")[0]
        trace = json.loads(content)
        assert trace["settings"] == found["settings"]
        for text, traced in zip(found["texts"], trace["texts"], strict=True):
            assert [step["id"] for step in traced["steps"]] == text["tokens"]
            assert traced["prompt"] == text["prompt"]


def test_progress_lines_count_tokens_and_simulations(capsys, monkeypatch):
    monkeypatch.setattr("coopgen_jax.cli.progress.INTERVAL", 0.0)
    _, _, err = run(capsys, "generate", "film", "was", *GUIDED)
    lines = err.splitlines()
    assert lines[1] == "coopgen: 1 of 6 tokens"
    assert lines[2].startswith("coopgen: 2 of 6 tokens, ")
    assert "simulations/s" in lines[2] and " left" in lines[2]
    assert lines[-1].startswith("coopgen: 6 of 6 tokens")


# Where prompts come from.


def test_prompts_come_from_files_and_standard_input(capsys, monkeypatch, tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_bytes("\ufeffThis film\r\n\nwas \u2028 film\n".encode())
    greedy = ["--method", "greedy", "--new-tokens", 1, "--batch-size", 1]
    found = generate_json(capsys, "--prompts", text, *greedy)
    assert [entry["prompt"] for entry in found["texts"]] == ["This film", "was \u2028 film"]
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"text": "film"}\n\n{"prompt": "This", "kind": 3}\n')
    found = generate_json(capsys, "--prompts", lines, *greedy)
    assert [entry["prompt"] for entry in found["texts"]] == ["film", "This"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"film was\nfilm\n")))
    found = generate_json(capsys, "-", *greedy)
    assert [entry["prompt"] for entry in found["texts"]] == ["film was", "film"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"film\nd\xe9j\xe0 vu\n", "line 2 of .* is not UTF-8"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.jsonl", b"", "holds no prompt"),
        ("a.jsonl", b'{"text": "film"}\n["film"]\n', "line 2 of .* is not an object"),
        ("a.jsonl", b'{"words": "film"}\n', "line 1 of .* is not an object"),
        ("a.jsonl", b'{"text": 3}\n', "line 1 of .* is not an object"),
        ("a.jsonl", b"\n{text}\n", "line 2 of .* is not JSON"),
        ("a.jsonl", b'{"text": " "}\n', "line 1 of .* has an empty prompt"),
        ("a.csv", b"film\n", "neither a .txt file"),
    ],
)
def test_bad_prompt_files(capsys, tmp_path, no_work, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    message = sentence(capsys, "generate", "--prompts", path, *GUIDED)
    assert re.search(told, message), message
    assert str(path) in message


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*GUIDED], "there is no prompt"),
        (["", *GUIDED], "prompt 1 is empty"),
        (["film", "  ", *GUIDED], "prompt 2 is empty"),
        (["film", "-", *GUIDED], "give no other prompt"),
        (["film", "--prompts", "x.txt", *GUIDED], "not both"),
        (["--prompts", "nowhere.txt", *GUIDED], "nowhere.txt cannot be read: No such file"),
        (["--prompts", ".", *GUIDED], "is a folder"),
        (["film", *SHORT], "needs a --target"),
        (["film", "--target", "one", "--discriminator", "none"], "without a discriminator"),
        (["film", "--discriminator", "none"], "nothing to go by"),
        (
            ["film", "--discriminator", "none", "--alpha", "0", "--rollout", "2"],
            "--rollout is read by the discriminator alone",
        ),
        (
            ["film", *GUIDED, "--out", "a.json", "--trace", "./a.json"],
            "--out and --trace both write a.json",
        ),
        (["film", *GUIDED, "--simulations", "0"], "simulations is 0"),
        (["film", *GUIDED, "--simulations", "-4"], "simulations is -4"),
        (["film", *GUIDED, "--simulations", "9"], "not a multiple of wave"),
        (["film", *GUIDED, "--candidates", "0"], "candidates is 0"),
        (["film", *GUIDED, "--enough", "-2"], "enough is -2"),
        (["film", *GUIDED, "--enough", "20"], "enough needs considered 0 (the preset puct)"),
        (["film", *GUIDED, "--visit-temperature", "1"], "considered 0 (the preset puct)"),
        (["film", *GUIDED, "--policy", "descend"], "considered 0 (the preset puct)"),
        (["film", *GUIDED, "--considered", "51"], "considered is 51 and a node has 4 candidates"),
        (["film", "--method", "sample", "--policy", "descend"], "--policy means nothing"),
        (["film", *GUIDED, "--new-tokens", "0"], "new_tokens"),
        (["film", *GUIDED, "--c-puct", "nan"], "--c-puct is nan"),
        (["film", *GUIDED, "--alpha", "2"], "alpha is 2"),
        (["film", *GUIDED, "--temperature", "0"], "temperature is 0"),
        (["film", *GUIDED, "--seed", "-1"], "--seed is -1"),
        (["film", *GUIDED, "--batch-size", "0"], "--batch-size is 0"),
        (["film", *GUIDED, "--top-p", "0.5"], "--top-p means nothing to --method mcts"),
        (["film", "--method", "sample", "--top-p", "0"], "top_p is 0"),
        (["film", "--method", "greedy", "--temperature", "1"], "--temperature means nothing"),
        (["film", "--method", "sample", "--wave", "2"], "--wave means nothing"),
        (["film", *GUIDED, "--rollout-confidence", "0.9"], "needs --rollout"),
        (["film", *GUIDED, "--rollout", "2", "--rollout-confidence", "9"], "confidence is 9"),
        (["film", *GUIDED, "--trace", "tree.svg"], "must end in .json or .html"),
        (["film", "--method", "sample", "--trace", "tree.html"], "--trace shows search trees"),
        (["film", *GUIDED, "--out", "no/such/folder/out.json"], "there is no folder"),
        (["film", *GUIDED, "--trace", "no/such/tree.html"], "there is no folder"),
        (["film", *GUIDED, "--out", "."], "is a folder"),
        (["film", *GUIDED, "--out", "x" * 300], "cannot be written: File name too long"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    capsys, monkeypatch, tmp_path, no_work, arguments, told
):
    monkeypatch.chdir(tmp_path)
    assert told in sentence(capsys, "generate", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["film", *SHORT, "--target", "joy"], "unknown target 'joy': choose one of zero, one"),
        (["film", *GUIDED, "--discriminator", "nobody"], "there is no discriminator 'nobody'"),
        (["film", *GUIDED, "--discriminator", "misfit"], "made for another model"),
        (["film", *GUIDED, "--model", "nobody"], "there is no model 'nobody'"),
        (["film " * 200, *GUIDED], "has 200 tokens"),
        (["film", "film " * 200, *GUIDED, "--batch-size", "1"], "prompt 2 has 200 tokens"),
        (["film \udce9", *GUIDED], "not valid Unicode"),
    ],
)
def test_mistakes_that_the_models_find(capsys, monkeypatch, arguments, told):
    begun = pytest.MonkeyPatch()
    begun.setattr("coopgen_jax.shell._tokens", lambda *_: pytest.fail("decoding began"))
    try:
        assert told in sentence(capsys, "generate", *arguments, "--quiet")
    finally:
        begun.undo()


def test_a_discriminators_warning_is_one_line(capsys, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        greedy = ["--method", "greedy", "--new-tokens", 1]
        status, _, err = run(
            capsys, "generate", "film", "--discriminator", "stale", *greedy, "--quiet"
        )
    assert status == 0
    assert err == "coopgen: warning: the head stale was trained on another file\n"


def test_a_full_disk_leaves_the_old_file_and_the_print(capsys, monkeypatch, tmp_path):
    out = tmp_path / "out.json"
    out.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    status, printed, err = run(capsys, "generate", "film", *GUIDED, "--quiet", "--out", out)
    assert status == 2
    assert "perplexity" in printed
    assert err.count("\n") == 1
    assert "out.json could not be written: No space left on device" in err
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_device_is_told_and_not_replaced(capsys):
    status, _, err = run(capsys, "generate", "film", *GUIDED, "--quiet", "--out", "/dev/full")
    assert status == 2
    assert "No space left on device" in err
    assert not Path("/dev/full").is_file()


def test_an_interruption_is_one_line_and_leaves_nothing(capsys, monkeypatch, tmp_path):
    def interrupted(*_: object, listener: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "generate", interrupted)
    out, tree = tmp_path / "out.json", tmp_path / "tree.html"
    arguments = ["film", *GUIDED, "--quiet", "--out", out, "--trace", tree]
    status, printed, err = run(capsys, "generate", *arguments)
    assert (status, printed, err) == (130, "", "coopgen: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_gone_is_no_error(capsys, monkeypatch):
    class Gone(io.StringIO):
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            raise OSError

    monkeypatch.setattr(sys, "stdout", Gone())
    assert main(["generate", "film", *map(str, GUIDED), "--quiet"]) == 141
    assert capsys.readouterr().err == ""


def test_what_nobody_expected_keeps_its_traceback(capsys, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(command, "generate", broken)
    with pytest.raises(ValueError, match="a fault of ours"):
        main(["generate", "film", *GUIDED, "--quiet"])


# Settings.


def options(**changes: object) -> GenerateOptions:
    return replace(GenerateOptions(target="one"), **changes)


@pytest.fixture
def preset(monkeypatch) -> MCTSConfig:
    """A default preset that differs from the configuration's own defaults everywhere it matters."""
    search = SearchConfig(simulations=32, wave=8, candidates=20, c_puct=2.0, kept=32)
    made = MCTSConfig(temperature=0.7, repetition_penalty=1.4, alpha=0.9, search=search)
    monkeypatch.setitem(PRESETS, "default", made)
    return made


def test_what_is_unset_is_the_presets(preset):
    assert decoder_config(options(new_tokens=5)) == replace(preset, new_tokens=5)
    changed = decoder_config(options(alpha=0.0, c_puct=0.0, new_tokens=5))
    expected = replace(preset, new_tokens=5, alpha=0.0, search=replace(preset.search, c_puct=0.0))
    assert changed == expected


def test_a_full_device_for_the_output_is_told(capsys, monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["generate", "film", *map(str, GUIDED), "--quiet"]) == 2
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert err == "coopgen: error: cannot write (No space left on device): free space\n"


def test_a_closed_standard_input_is_told(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input, which is closed" in sentence(capsys, "generate", "-", *GUIDED)


def test_more_candidates_than_tokens_are_all_of_them(capsys):
    most = generate_json(capsys, "film", *GUIDED, "--candidates", len(WORDS))
    more = generate_json(capsys, "film", *GUIDED, "--candidates", 10 * len(WORDS))
    assert more["texts"] == most["texts"]


def test_stating_the_presets_simulations_changes_nothing():
    preset = PRESETS["default"].search
    assert decoder_config(options(simulations=preset.simulations)).search == preset


@pytest.mark.parametrize(
    ("changes", "wave", "kept"),
    [
        ({"simulations": 64}, 8, 64),
        ({"simulations": 20}, 5, 20),
        ({"simulations": 4}, 4, 4),
        ({"simulations": 31}, 1, 31),
        ({"candidates": 5}, 4, 32),
        ({"simulations": 20, "wave": 10}, 10, 20),
    ],
)
def test_wave_and_kept_follow_the_simulations(preset, changes, wave, kept):
    search = decoder_config(options(**changes)).search
    assert (search.wave, search.kept) == (wave, kept)


def test_policy_and_enough_reach_the_search(preset):
    search = decoder_config(options(policy="siblings", enough=40)).search
    assert search == replace(preset.search, policy="siblings", enough=40)


def test_halving_compares_no_more_candidates_than_there_are():
    assert decoder_config(options(candidates=5)).search.considered == 5
    assert decoder_config(options(considered=3)).search.considered == 3
    assert decoder_config(options(value_scale=0.0)).search.value_scale == 0.0


def test_a_preset_that_keeps_nothing_goes_on_so(monkeypatch):
    assert PRESETS["paper"].search.kept == 0
    search = decoder_config(options(preset="paper", simulations=10)).search
    assert (search.kept, search.simulations) == (0, 10)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, False),
        ({"samples": 2}, True),
        ({"samples": 2, "preset": "puct"}, True),
        ({"samples": 2, "method": "greedy"}, True),
        ({"samples": 2, "method": "sample"}, False),
        ({"samples": 2, "preset": "puct", "visit_temperature": 1.0}, False),
        ({"samples": 2, "rollout": 2}, False),
    ],
)
def test_samples_that_must_be_equal_are_known(changes, same):
    assert is_redundant(decoder_config(options(**changes))) is same


def test_samples_that_must_be_equal_are_remarked_on(capsys):
    arguments = ["film", *GUIDED, "--samples", 2, "--model", "nobody"]
    _, _, err = run(capsys, "generate", *arguments)
    assert "samples will all be the same" in err.splitlines()[0]


# The rest.


def test_compilations_are_kept_beside_the_models(capsys, monkeypatch, tmp_path):
    monkeypatch.undo()
    set_to: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    monkeypatch.setattr(command, "load", load_tiny)
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path))
    message = sentence(capsys, "generate", "film", *GUIDED, "--model", "nobody")
    assert "nobody" in message
    assert set_to["jax_compilation_cache_dir"] == str(tmp_path / "compilation")
    assert set_to["jax_persistent_cache_min_compile_time_secs"] == pytest.approx(0.2)


def test_help_explains_every_option_and_ends_with_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for name in GenerateOptions.__dataclass_fields__:
        assert name == "texts" or "--" + name.replace("_", "-") in out
    presets, examples = out.split("presets:")[1].split("examples:")
    assert f"default: --simulations {PRESETS['default'].search.simulations} " in presets
    assert "coopgen generate" in examples


def test_help_and_version_wait_for_no_network_library():
    code = (
        "import sys; from coopgen_jax.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('jax' in sys.modules, 'transformers' in sys.modules)"
    )
    for argument in ("--help", "--version"):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith("False False\n"), done.stdout
        assert "coopgen" in done.stdout


def test_a_flag_that_does_not_exist_ends_with_status_two(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "film", "--simulation", "3"])
    assert stop.value.code == 2
    assert "--simulations" in capsys.readouterr().err


def test_models_lists_what_there_is_and_where(capsys, tmp_path):
    status, out, _ = run(capsys, "models", "--json")
    assert status == 0
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert entries["smollm2-135m"]["kind"] == "language model"
    assert entries["smollm2-135m"]["cached"] is None
    assert entries["smollm2-135m"]["licence"] == "Apache-2.0"
    assert {"kind", "name", "size", "cached", "licence", "terms"} == set(entries["minilm-l6"])
    _, table, _ = run(capsys, "models")
    for name, entry in entries.items():
        assert name in table
        assert f"{entry['size'] / 1e6:.1f} MB" in table
    assert "not yet" in table


def test_models_tells_the_terms_of_a_heads_data(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "research" / "mood"
    folder.mkdir(parents=True)
    card = {"terms": "research only", "data": {"a": "reviews of A", "b": "reviews of B"}}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "head.safetensors").write_bytes(b"x" * 300)
    monkeypatch.setattr(listing, "HEADS", tmp_path)
    (entry,) = (e for e in json.loads(run(capsys, "models", "--json")[1]) if "head" in e["kind"])
    assert (entry["name"], entry["size"], entry["cached"]) == ("mood", 300, str(folder))
    assert entry["terms"] == "research only: reviews of A; reviews of B"


def test_models_fetches_by_name(capsys, monkeypatch):
    fetched = []
    monkeypatch.setattr(listing, "fetch", lambda model: fetched.append(model.name))
    assert run(capsys, "models", "--fetch", "minilm-l6")[0] == 0
    assert fetched == ["minilm-l6"]
    assert "choose one of smollm2-135m" in sentence(capsys, "models", "--fetch", "nothing")
