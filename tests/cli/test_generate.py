"""What `coopgen generate` prints and writes, and where its prompts come from."""

import io
import json
import math
import sys
from dataclasses import replace

import jax
import pytest

import coopgen_jax.cli.generate as command
from coopgen_jax.cli import main
from coopgen_jax.cli.printing import for_people
from tests.cli.running import GUIDED, SHORT, generate_json, run, sentence
from tests.cli.tiny import load_tiny, tiny_model


def test_json_holds_the_texts_their_figures_and_the_settings(capsys):
    found = generate_json(capsys, "This film was", "was film", *GUIDED, "--seed", 3)
    assert found["model"] == {"name": "tiny", "sha256": "0" * 64, "licence": None}
    assert found["discriminator"]["classes"] == ["zero", "one"]
    assert found["discriminator"]["card"]["terms"] == "for tests"
    assert found["seconds"] > 0
    assert found["host_seconds"] is None
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


def test_words_are_forced_and_kept_out(capsys):
    rules = [
        "--bad-words",
        "w1",
        "--bad-words",
        "was w2",
        "--begin-with",
        "film was",
        "--min-p",
        0.001,
    ]
    job = ["This", "--method", "sample", "--samples", 64, "--new-tokens", 6, *rules]
    found = generate_json(capsys, *job)
    tokenizer = tiny_model().tokenizer
    film, was, first, second = (tokenizer.encode(word)[0] for word in ("film", "was", "w1", "w2"))
    assert found["settings"]["bad_words"] == [[first], [was, second]]
    written = set()
    for text in found["texts"]:
        assert text["tokens"][:2] == [film, was]
        assert text["tokens"][2:3] != [second]
        written |= set(text["tokens"])
    assert first not in written and second in written and len(written) > 40
    assert "2 tokens are forced and 1 are to be written" in sentence(
        capsys, "generate", *job[:5], "--new-tokens", 1, "--begin-with", "film was"
    )


def test_the_best_of_several_is_written(capsys):
    job = ["This", "film was", "--method", "rerank", "--target", "one", "--samples", 2]
    job += ["--new-tokens", 3, "--of", 8]
    found = generate_json(capsys, *job)
    assert [text["prompt"] for text in found["texts"]] == ["This", "This", "film was", "film was"]
    assert all(text["simulations"] == 8 for text in found["texts"])
    plain = generate_json(capsys, *job[:2], "--method", "sample", "--samples", 16, *job[8:10])
    for number, text in enumerate(found["texts"]):
        group = plain["texts"][8 * number : 8 * number + 8]
        best = max(group, key=lambda other: other["class_probabilities"]["one"])
        assert text["tokens"] == best["tokens"]
    status, out, _ = run(capsys, "generate", *job, "--quiet")
    assert status == 0 and "of 8" in out and "temperature 1" in out


def test_beams_are_written_best_first_and_chosen_from(capsys):
    job = ["This", "film was", "--new-tokens", 3, "--beams", 4, "--target", "one"]
    beams = generate_json(capsys, *job, "--method", "beam", "--samples", 4)
    chosen = generate_json(capsys, *job, "--method", "rerank")["texts"]
    for number, prompt in enumerate(("This", "film was")):
        group = beams["texts"][4 * number : 4 * number + 4]
        assert {text["prompt"] for text in group} == {prompt}
        means = [text["log_prob"] / len(text["tokens"]) for text in group]
        assert means == sorted(means, reverse=True) and means[0] > means[-1]
        assert len({tuple(text["tokens"]) for text in group}) == 4
        best = max(group, key=lambda text: text["class_probabilities"]["one"])
        assert chosen[number]["tokens"] == best["tokens"]


def test_one_block_is_the_best_of_several_and_one_beam_in_a_pool_of_one_is_greedy(capsys):
    job = ["This", "film was", "--new-tokens", 3, "--target", "one"]
    blocks = [*job, "--of", 5, "--top-p", 0.9, "--method"]
    whole = generate_json(capsys, *blocks, "blockwise", "--block", 3)["texts"]
    best = generate_json(capsys, *blocks, "rerank")["texts"]
    assert [text["tokens"] for text in whole] == [text["tokens"] for text in best]
    greedy = generate_json(capsys, *job, "--method", "greedy")["texts"]
    narrow = ["--method", "das", "--beams", 1, "--candidates"]
    found = generate_json(capsys, *job, *narrow, 1)["texts"]
    assert [text["tokens"] for text in found] == [text["tokens"] for text in greedy]
    swayed = generate_json(capsys, *job, *narrow, 40, "--alpha", 9)["texts"]
    for text, plain in zip(swayed, greedy, strict=True):
        assert text["class_probabilities"]["one"] > plain["class_probabilities"]["one"]


def test_texts_drawn_without_replacement_come_with_their_weights(capsys):
    job = ["This", "film was", "--new-tokens", 3, "--method", "stochastic-beam", "--samples", 5]
    texts = generate_json(capsys, *job)["texts"]
    assert len({(text["prompt"], tuple(text["tokens"])) for text in texts}) == 10
    for text in texts:
        # A text is sure to be drawn at most, so that its weight is its probability at least.
        assert text["log_weight"] >= text["log_prob"] and text["log_proposal"] < 0
    status, out, _ = run(capsys, "generate", *job, "--quiet")
    assert status == 0 and f"log-weight {texts[0]['log_weight']:.2f}" in out


def test_particles_come_with_their_weights(capsys):
    job = ["This", "film was", "--new-tokens", 3, "--method", "smc", "--samples", 6]
    job += ["--target", "one", "--threshold", 0]
    texts = generate_json(capsys, *job)["texts"]
    assert [text["prompt"] for text in texts] == ["This"] * 6 + ["film was"] * 6
    for text in texts:
        assert text["log_proposal"] is None
        said = text["class_probabilities"]["one"]
        assert text["log_weight"] == pytest.approx(math.log(said), rel=1e-4, abs=1e-5)
    status, out, _ = run(capsys, "generate", *job, "--quiet")
    assert status == 0 and f"log-weight {texts[0]['log_weight']:.2f}" in out


def test_bags_of_words_shift_what_is_written(capsys, tmp_path):
    bag = tmp_path / "bag.txt"
    bag.write_text("w7\r\n\nw8\nfilm was\nfilm w7\n")
    job = ["This film", "film was", "--method", "pplm", "--new-tokens", 3, "--samples", 4]
    bagged = [*job, "--bag", bag]
    found = generate_json(capsys, *bagged, "--step-size", 0.5, "--iterations", 1, "--top-k", 0)
    ids = [tiny_model().tokenizer.encode(word)[0] for word in ("w7", "w8")]
    assert found["settings"]["bags"] == [ids]
    for text in found["texts"]:
        assert (text["simulations"], text["model_tokens"]) == (3, 9)
        assert text["class_probabilities"] and text["log_proposal"] < 0
    status, _, err = run(capsys, "generate", *bagged)
    assert status == 0 and "2 of 4 words are not one token" in err and "'film was'" in err
    # The stand-in reads words: it may judge, and has no gradient to go along.
    assert "has none, since it reads words" in sentence(
        capsys, "generate", *bagged, "--target", "one", "--quiet"
    )
    bag.write_text("film was\n")
    assert "not even 'film was'" in sentence(capsys, "generate", *bagged, "--quiet")
    bag.write_text(" \n")
    assert "holds no word" in sentence(capsys, "generate", *bagged)


def test_strong_judges_have_their_way_among_candidates(capsys):
    job = ["This", "film was", "--new-tokens", 3, "--method", "fudge", "--samples", 8]
    job += ["--target", "one", "--candidates", 61]
    means = []
    for strength in (0, 20):
        texts = generate_json(capsys, *job, "--strength", strength)["texts"]
        assert len(texts) == 16 and all(text["log_proposal"] < 0 for text in texts)
        means.append(sum(text["class_probabilities"]["one"] for text in texts) / 16)
    assert means[1] > max(0.9, means[0] + 0.1)


def test_a_judge_that_foresees_weighs_all_tokens(capsys):
    job = ["This", "film was", "--new-tokens", 3, "--target", "one"]
    gedi = generate_json(capsys, *job, "--method", "gedi", "--repetition-penalty", 1.3)
    assert gedi["settings"]["greedy"] and gedi["settings"]["strength"] == 30
    assert gedi["settings"]["filter_p"] == gedi["settings"]["target_p"] == 0.8
    assert all(text["log_proposal"] is None for text in gedi["texts"])
    rules = ["--draw", "--samples", 8, "--strength", 0, "--filter-p", 0]
    free = generate_json(capsys, *job, "--method", "gedi", *rules)["texts"]
    assert len(free) == 16 and all(text["log_proposal"] < 0 for text in free)

    def mean(texts) -> float:
        return sum(text["class_probabilities"]["one"] for text in texts) / len(texts)

    assert mean(gedi["texts"]) > max(0.9, mean(free) + 0.1)


def test_candidates_may_be_judged_before_they_are_read(capsys):
    job = ["This", "--target", "one", "--method", "fudge", "--samples", 4, "--new-tokens", 3]
    ahead = generate_json(capsys, *job, "--look-ahead")
    assert ahead["settings"]["look_ahead"]
    for text in ahead["texts"]:
        assert text["simulations"] == len(text["tokens"])
    wide = generate_json(capsys, "film", *GUIDED, "--width", 2)
    assert wide["settings"]["width"] == 2


def test_the_report_tells_what_functions_of_the_host_cost():
    document = {
        "settings": {"method": "greedy"},
        "model": {"name": "m"},
        "discriminator": {"name": "d"},
        "seconds": 8.0,
        "host_seconds": 2.0,
    }
    shown = for_people(document, [], None, style=False)
    assert "8.0 s, 25.0% of it in functions of the host" in shown


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


def test_compilations_are_kept_beside_the_models(capsys, monkeypatch, tmp_path):
    monkeypatch.undo()
    set_to: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    monkeypatch.setattr(command, "load", load_tiny)
    monkeypatch.setenv("COOPGEN_CACHE", str(tmp_path))
    message = sentence(capsys, "generate", "film", "--target", "positive", "--model", "nobody")
    assert "nobody" in message
    assert set_to["jax_compilation_cache_dir"] == str(tmp_path / "compilation")
    assert set_to["jax_persistent_cache_min_compile_time_secs"] == pytest.approx(0.2)
