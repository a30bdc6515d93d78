"""One sentence for every mistake, and nothing half written when a command breaks off."""

import errno
import io
import json
import os
import re
import sys
import warnings
from pathlib import Path

import pytest

import coopgen_jax.cli.generate as command
import coopgen_jax.files as files
from coopgen_jax.cli import _parse, main
from coopgen_jax.decoding.methods.sampling import SamplingConfig
from coopgen_jax.errors import UserError
from coopgen_jax.text_generation import generate
from tests.cli.running import GUIDED, SHORT, generate_json, run, sentence
from tests.cli.tiny import tiny_model


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"film\nd\xe9j\xe0 vu\n", "line 2 of .* is not UTF-8"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.jsonl", b"", "holds no prompt"),
        ("a.jsonl", b'{"text": 4}\n["film"]\n', "among 2: line 1 of .* is not an object"),
        ("a.jsonl", b'{"text": "film \\udc00"}\n', "line 1 of .* holds half a character"),
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


def test_broken_prompts_are_left_out_and_the_others_keep_their_texts(capsys, tmp_path):
    plain = ["--method", "sample", "--discriminator", "none", "--new-tokens", "4", "--seed", "3"]
    lines = [json.dumps({"text": text}) for text in ("This", "film", "was", "w1", "w2")]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    sound = generate_json(capsys, "--prompts", path, *plain)["texts"]
    lines[2], lines[3] = '{"text": "This \\ud800"}', '{"prompt'
    path.write_text("\n".join(lines))
    status, out, err = run(capsys, "generate", "--prompts", path, *plain, "--json")
    found = json.loads(out)["texts"]
    assert status == 0 and [text["number"] for text in found] == [0, 1, 4]
    assert [text["prompt"] for text in found] == ["This", "film", "w2"]
    assert [text["tokens"] for text in found] == [sound[n]["tokens"] for n in (0, 1, 4)]
    assert len({tuple(text["tokens"]) for text in sound}) == 5
    told = f"note: 2 rows left out (line 3 of {path} holds half a character: "
    assert told in err and f"line 4 of {path} is not JSON" in err


def test_a_file_of_prompts_is_never_written_over(capsys, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "film"}\n')
    said = sentence(capsys, "generate", "--prompts", path, "--out", path, *GUIDED)
    assert said == f"--out {path} is --prompts: name another file"
    assert path.read_text() == '{"prompt": "film"}\n'


def test_prompts_end_at_line_breaks_alone(capsys, tmp_path):
    texts = ["This \u2028 film", "was \x0c w1 \x1e", "w2 \u0085"]
    path = tmp_path / "a.txt"
    path.write_bytes("\r\n".join(texts).encode())
    plain = ["--method", "sample", "--discriminator", "none", "--new-tokens", "1"]
    found = generate_json(capsys, "--prompts", path, *plain)["texts"]
    assert [text["prompt"] for text in found] == texts


def test_control_strings_of_a_prompt_are_noted_and_text_in_a_chat(capsys):
    plain = ["--method", "sample", "--discriminator", "none", "--new-tokens", "2", "--json"]
    prompt = "film <end> was"
    _, raw, err = run(capsys, "generate", prompt, *plain)
    assert "prompt 1 holds control strings (<end>), which are read as control tokens" in err
    _, chat, err = run(capsys, "generate", prompt, *plain, "--chat")
    assert "prompt 1 holds control strings (<end>), which are read as text" in err
    _, asked, err = run(capsys, "generate", prompt, *plain, "--chat", "--control-strings")
    assert "control strings" not in err
    model = tiny_model()
    chats = [[1, *ids] for ids in (model.tokenizer.encode_plainly(prompt), [2, 0, 3])]
    for out, ids in ((raw, [2, 0, 3]), (chat, chats[0]), (asked, chats[1])):
        (text,) = json.loads(out)["texts"]
        (expected,) = generate(model, [ids], config=SamplingConfig(new_tokens=2))
        assert (text["tokens"], text["prompt"]) == (expected.tokens, prompt)
    assert 0 not in chats[0]


def test_a_closed_standard_input_is_told(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input, which is closed" in sentence(capsys, "generate", "-", *GUIDED)


def test_a_flag_that_does_not_exist_ends_with_status_two(capsys):
    told = sentence(capsys, "generate", "film", "--simulation", "3")
    assert told.startswith("unrecognized options: --simulation, 3 (perhaps --simulations)")


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
            "--rollout asks the discriminator: choose one, or leave it out",
        ),
        (
            ["film", *GUIDED, "--out", "a.json", "--trace", "./a.json"],
            "--out and --trace both write a.json",
        ),
        (["film", *GUIDED, "--simulations", "0"], "simulations is 0"),
        (["film", *GUIDED, "--simulations", "-4"], "simulations is -4"),
        (["film", *GUIDED, "--simulations", "9"], "not a multiple of wave"),
        (["film", *GUIDED, "--candidates", "0"], "candidates is 0"),
        (["film", *GUIDED, "--preset", "puct", "--enough", "-2"], "--visit-limit is -2"),
        (
            ["film", *GUIDED, "--enough", "20"],
            "--visit-limit says nothing here: give --considered 0",
        ),
        (["film", *GUIDED, "--visit-temperature", "1"], "give --considered 0 (the preset puct)"),
        (["film", *GUIDED, "--policy", "descend"], "--policy descend is gone"),
        (["film", *GUIDED, "--considered", "51"], "--considered is 51 and a node has 4 candidates"),
        (["film", *GUIDED, "--new-tokens", "0"], "--new-tokens is 0"),
        (["film", *GUIDED, "--c-puct", "nan"], "--c-puct is nan"),
        (["film", *GUIDED, "--alpha", "2"], "alpha is 2"),
        (["film", *GUIDED, "--temperature", "0"], "temperature is 0"),
        (["film", *GUIDED, "--seed", "-1"], "--seed is -1"),
        (["film", *GUIDED, "--batch-size", "0"], "--batch-size is 0"),
        (["film", *GUIDED, "--beams", "2"], "--beams means nothing to --method mcts"),
        (["film", "--method", "sample", "--top-p", "0"], "--top-p is 0"),
        (["film", "--method", "greedy", "--temperature", "1"], "--temperature means nothing"),
        (["film", "--method", "sample", "--wave", "2"], "--wave means nothing"),
        (
            ["film", "--method", "sample", "--bad-words", " "],
            "--bad-words has an empty word",
        ),
        (["film", "--method", "greedy", "--mirostat", "2"], "--mirostat means nothing"),
        (
            ["film", "--method", "sample", "--mirostat-rate", "2"],
            "--mirostat-rate needs --mirostat",
        ),
        (["film", "--method", "rerank"], "--method rerank needs a --target"),
        (["film", "--method", "smc"], "--method smc needs a --target"),
        (["film", "--method", "smc", "--target", "one"], "give --samples 8, say"),
        (
            ["film", "--method", "rerank", "--beams", "2", "--samples", "0", "--target", "one"],
            "--samples is 0",
        ),
        (["film", "--method", "beam", "--groups", "2"], "2 groups with a diversity of 0.0"),
        (["film", "--method", "smc", "--discriminator", "none"], "--method smc goes by a"),
        (["film", "--method", "fudge", "--target", "one", "--strength", "-1"], "strength is -1.0"),
        (["film", "--method", "fudge", "--target", "one", "--wave", "2"], "--wave means nothing"),
        (["film", "--method", "gedi"], "--method gedi needs a --target"),
        (["film", "--method", "gedi", "--discriminator", "none"], "--method gedi goes by a"),
        (["film", "--method", "gedi", "--target", "one", "--filter-p", "1"], "--filter-p is 1.0"),
        (
            ["film", "--method", "gedi", "--target", "one", "--score", "log"],
            "--score means nothing",
        ),
        (["film", *GUIDED, "--look-ahead"], "--look-ahead means nothing to --method mcts"),
        (["film", *GUIDED, "--draw"], "--draw means nothing to --method mcts"),
        (["film", *GUIDED, "--width", "-1"], "--foresight-power is -1.0"),
        (
            ["film", "--discriminator", "none", "--alpha", "0.5", "--width", "1"],
            "--foresight-power asks the discriminator",
        ),
        (["film", "--method", "pplm"], "--method pplm needs a --target"),
        (["film", "--method", "pplm", "--discriminator", "none"], "or a --bag of words"),
        (["film", "--method", "pplm", "--bag", "nowhere.txt"], "nowhere.txt cannot be read: No"),
        (["film", "--method", "pplm", "--target", "one", "--fusion", "2"], "fusion is 2.0"),
        (["film", "--method", "fudge", "--target", "one", "--bag", "x"], "--bag means nothing"),
        (
            ["film", "--method", "smc", "--target", "one", "--samples", "2", "--threshold", "2"],
            "threshold is 2.0",
        ),
        (["film", "--method", "smc", "--target", "one", "--alpha", "1"], "--alpha means nothing"),
        (["film", "--method", "blockwise"], "--method blockwise needs a --target"),
        (["film", "--method", "das"], "--method das needs a --target"),
        (["film", "--method", "blockwise", "--discriminator", "none"], "blockwise goes by a"),
        (["film", "--method", "das", "--discriminator", "none"], "das compares texts by a"),
        (
            ["film", "--method", "das", "--target", "one", "--candidates", "3"],
            "4 beams are to go on",
        ),
        (
            ["film", "--method", "blockwise", "--target", "one", "--block", "0"],
            "block is 0 and of 16",
        ),
        (["film", "--method", "stochastic-beam", "--beams", "3"], "--beams means nothing"),
        (["film", "--method", "beam", "--samples", "5"], "5 texts are asked of 4 beams"),
        (["film", "--method", "beam", "--top-p", "0.9"], "--top-p means nothing to --method beam"),
        (
            ["film", "--method", "sample", "--beams", "2"],
            "--beams means nothing to --method sample",
        ),
        (
            ["film", "--method", "rerank", "--target", "one", "--beams", "2", "--top-k", "3"],
            "--top-k says nothing to beams",
        ),
        (
            ["film", "--method", "rerank", "--target", "one", "--beams", "2", "--of", "3"],
            "3 texts are asked of 2 beams",
        ),
        (["film", "--method", "rerank", "--target", "one", "--of", "0"], "of is 0"),
        (["film", "--method", "sample", "--of", "3"], "--of means nothing to --method sample"),
        (["film", "--method", "rerank", "--discriminator", "none"], "compares texts by a"),
        (["film", "--method", "sample", "--min-p", "2"], "--min-p is 2.0: give a share from 0"),
        (["film", *GUIDED, "--rollout-confidence", "0.9"], "give --rollout with it"),
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
    begun.setattr("coopgen_jax.text_generation._tokens", lambda *_: pytest.fail("decoding began"))
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


def test_a_full_device_for_the_output_is_told(capsys, monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["generate", "film", *map(str, GUIDED), "--quiet"]) == 2
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert err == "coopgen: error: cannot write (No space left on device): free space\n"


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


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_the_parser_says_is_one_plain_sentence(monkeypatch, encoding):
    def told(*arguments: str) -> str:
        with pytest.raises(UserError) as error:
            _parse(list(arguments))
        return str(error.value)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        unknown = told("generate", "film", "--topp", "1")
        missing = told("train", "discriminator", "--data", "a.txt")
    assert re.fullmatch(r"unrecognized options: --topp, 1.*; see coopgen generate --help", unknown)
    assert missing == ("--validation, --out must be given; see coopgen train --help")
