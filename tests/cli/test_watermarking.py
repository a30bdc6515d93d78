"""`coopgen watermark`, and `--watermark` of `coopgen generate`, from the key to the verdict."""

import json
import stat

import pytest

import coopgen_jax.cli.watermark_evaluation as evaluation
import coopgen_jax.cli.watermarking as command
from coopgen_jax.decoding.rules.watermark_key import load_key
from tests.cli.running import generate_json, run, sentence
from tests.cli.tiny import load_tiny, tiny_model

SAMPLED = ("--method", "sample", "--discriminator", "none", "--new-tokens", 60)


@pytest.fixture(autouse=True)
def tokenizer_of_tiny(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(
        command, "load_tokenizer", lambda name: (model.tokenizer, model.config.vocab_size)
    )
    monkeypatch.setattr(evaluation, "load", load_tiny)
    monkeypatch.setattr(evaluation, "keep_compilations", lambda folder: None)


def made_key(capsys, path, *options):
    status, out, _ = run(capsys, "watermark", "key", "--out", path, "--model", "tiny", *options)
    assert status == 0
    return out


def detected(capsys, *arguments):
    status, out, err = run(capsys, "watermark", "detect", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


@pytest.mark.parametrize(
    "scheme",
    [("gumbel",), ("permute-flip", "--window", 1), ("greenlist", "--delta", 6), ("tournament",)],
)
def test_what_generate_marks_detect_finds(capsys, tmp_path, scheme):
    key, out, page = tmp_path / "mark.key", tmp_path / "texts.jsonl", tmp_path / "page.html"
    said = made_key(capsys, key, "--scheme", *scheme)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    found = load_key(key)
    assert found.identity in said and found.watermark.scheme == scheme[0]
    job = ["This film was", "was film", *SAMPLED, "--watermark", key, "--out", out]
    job += ["--top-k", 20] if scheme[0] == "tournament" else []
    written = generate_json(capsys, *job, "--watermark-message", 3, "--compare")
    assert written["watermark"] == {"key": found.identity}
    assert written["settings"]["watermark"]["scheme"] == scheme[0]
    assert [text["message"] for text in written["texts"]] == [3, 3]
    report = detected(capsys, out, "--key", key, "--messages", 20, "--html", page)
    # The texts of --compare stand in the file too, and are not marked.
    assert [text["marked"] for text in report["texts"]] == [True, True, False, False]
    assert [text["message"] for text in report["texts"][:2]] == [3, 3]
    assert report["marked"] == 2 and report["key"] == found.identity
    shown = page.read_text()
    assert shown.count("<article") == 4 and "__" not in shown and "This film was" in shown
    secret = "".join(f"{word:08x}" for word in found.secret)
    for place in (out.read_text(), shown, json.dumps(written), json.dumps(report), said):
        assert secret not in place and str(found.secret[0]) not in place
    table = run(capsys, "watermark", "detect", out, "--key", key, "--messages", 20)[1]
    assert "2 of 4 texts marked" in table and "line 1 of" in table


def test_a_line_of_the_prompts_has_a_message_of_its_own(capsys, tmp_path):
    key, prompts, out = tmp_path / "k", tmp_path / "prompts.jsonl", tmp_path / "texts.jsonl"
    made_key(capsys, key, "--scheme", "gumbel")
    lines = [
        {"prompt": "This film", "message": 7},
        {"prompt": "was"},
        {"text": "film", "message": 0},
    ]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    job = ["--prompts", prompts, *SAMPLED, "--watermark", key, "--out", out]
    generate_json(capsys, *job, "--watermark-message", 5)
    found = detected(capsys, out, "--key", key, "--messages", 10)["texts"]
    assert [text["message"] for text in found] == [7, 5, 0]
    prompts.write_text('{"prompt": "This", "message": "seven"}')
    told = sentence(capsys, "generate", *job)
    assert '"message" that is no whole number' in told and "line 1" in told
    vocab = tiny_model().config.vocab_size
    prompts.write_text(json.dumps({"prompt": "This", "message": vocab}))
    assert f"message is {vocab}: give a number from 0 to {vocab - 1}" in sentence(
        capsys, "generate", *job
    )


def test_texts_come_from_files_quotes_and_standard_input(capsys, tmp_path, monkeypatch):
    key = tmp_path / "k"
    made_key(capsys, key)
    plain, document, lines = (tmp_path / name for name in ("a.txt", "b.json", "c.jsonl"))
    plain.write_text("This film was")
    document.write_text(json.dumps({"texts": [{"prompt": "This", "text": " film"}, {"no": 1}]}))
    deep = "[" * 100_000
    lines.write_text(f'{{"text": "was"}}\nbroken\n{deep}\n"film"\n{{"text": "\\ud800"}}\n["a"]\n')
    entries = plain, document, lines, "was film"
    status, out, err = run(capsys, "watermark", "detect", *entries, "--key", key, "--json")
    assert status == 0
    sources = [text["source"] for text in json.loads(out)["texts"]]
    of_lines = [f"line {number} of {lines}" for number in (1, 4)]
    assert sources == [str(plain), f"text 1 of {document}", *of_lines, "the command line"]
    assert "left out" in err and 'no "text"' in err
    assert detected(capsys, "", "--key", key)["texts"][0]["scored"] == 0


def test_mistakes_are_one_sentence(capsys, tmp_path):
    key = tmp_path / "k"
    made_key(capsys, key, "--scheme", "gumbel", "--window", 0)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    cases = [
        (("watermark", "key", "--out", key), "exists"),
        (("watermark", "key", "--out", tmp_path / "new", "--window", 9), "window is 9"),
        (("watermark", "key", "--out", tmp_path / "new", "--gamma", 2), "gamma is 2.0"),
        (("watermark", "detect", "film", "--key", tmp_path / "none"), "there is no key file"),
        (("watermark", "detect", "film", "--key", binary), "no key file"),
        (("watermark", "detect", binary, "--key", key), "is not UTF-8"),
        (("watermark", "detect", tmp_path, "--key", key), "is a folder"),
        (("watermark", "detect", "report.pdf", "--key", key), "there is no file report.pdf"),
        (("watermark", "key", "--out", tmp_path / ("a" * 300)), "cannot be written"),
        (("generate", "This", *SAMPLED, "--watermark", key, "--watermark-message", -1),
         "--watermark-message is -1"),
        (("watermark", "detect", "nowhere.jsonl", "--key", key), "there is no file nowhere.jsonl"),
        (("watermark", "detect", "film", "--key", key, "--fpr", 0), "fpr is 0"),
        (("watermark", "detect", "film", "--key", key, "--messages", 10**6), "messages is 1000000"),
        (("generate", "This", *SAMPLED, "--watermark-message", 4), "--watermark-message"),
        (("generate", "This", *SAMPLED, "--watermark", tmp_path / "none"), "there is no key file"),
        (("generate", "This", *SAMPLED, "--samples", 2, "--watermark", key), "without a window"),
        (("generate", "This", "--method", "greedy", "--discriminator", "none", "--watermark", key),
         "takes the place of a token's draw"),
        (("generate", "This", "--target", "one", "--watermark", key), "takes the place"),
    ]  # fmt: skip
    for arguments, words in cases:
        assert words in sentence(capsys, *arguments), arguments
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("default")
def test_a_key_of_other_tokens_is_refused_and_one_that_others_can_read_is_warned_of(
    capsys, tmp_path
):
    key = tmp_path / "k"
    made_key(capsys, key)
    key.chmod(0o644)
    status, _, err = run(capsys, "watermark", "detect", "film", "--key", key)
    assert status == 0 and "chmod 600" in err
    key.chmod(0o600)
    entry = json.loads(key.read_text())
    key.write_text(json.dumps(entry | {"tokenizer": "0" * 64}))
    for arguments in (("watermark", "detect", "film"), ("generate", "This", *SAMPLED)):
        option = "--watermark" if arguments[0] == "generate" else "--key"
        told = sentence(capsys, *arguments, option, key)
        assert "give the tokenizer of tiny" in told and entry["secret"] not in told


def test_a_key_is_tried_on_a_models_texts_and_an_interrupted_run_goes_on(capsys, tmp_path):
    key, prompts, out = tmp_path / "k", tmp_path / "prompts.txt", tmp_path / "out"
    made_key(capsys, key, "--scheme", "gumbel")
    prompts.write_text("This film\nwas\nfilm\nThis was\n")
    job = ["watermark", "evaluate", "--key", key, "--prompts", prompts, "--out", out]
    job += ["--new-tokens", 60, "--batch-size", 2, "--limit", 3]
    status, printed, err = run(capsys, *job, "--json")
    assert status == 0 and "marked texts: batch 2 of 2" in err, err
    found = json.loads(printed)
    assert found == json.loads((out / "report.json").read_text())
    assert found["marked"]["texts"] == found["unmarked"]["texts"] == 3
    assert found["marked"]["none"]["found"]["1e-06"]["share"] == 1
    assert found["unmarked"]["none"]["found"]["0.001"]["share"] == 0
    order = [found["marked"][kind]["median_log10_p"] for kind in ("none", "substitution")]
    assert order[0] < order[1] < 0 and found["marked"]["perplexity"] > 1
    secret = load_key(key).secret
    for name in ("marked.jsonl", "unmarked.jsonl"):
        content = (out / name).read_text()
        assert content.count("\n") == 4 and str(secret[0]) not in content
    # Half of a line, as where a run was killed: the same texts are written again.
    whole = (out / "marked.jsonl").read_text()
    (out / "marked.jsonl").write_text(whole[:-30])
    status, table, err = run(capsys, *job)
    assert status == 0 and "marked texts: batch 2 of 2" in err and "batch 1 of 2" not in err
    assert "after deletion" in table and "found at 1e-06" in table
    tokens = [json.loads(line).get("tokens") for line in whole.splitlines()]
    lines = (out / "marked.jsonl").read_text().splitlines()
    again = [json.loads(line).get("tokens") for line in lines]
    assert tokens == again
    for options, words in (
        (("--temperature", 0.5), "another temperature"),
        (("--share", 2), "--share is 2.0"),
        (("--limit", 0), "--limit is 0"),
        (("--temperature", 0), "takes the place of a token's draw"),
    ):
        assert words in sentence(capsys, *job, "--quiet", *options)
