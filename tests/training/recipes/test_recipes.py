"""From texts to a folder that decodes: `coopgen train` on a tiny model."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import processors

from coopgen_jax.cli import main
from coopgen_jax.data.fingerprint import fingerprint, read_fingerprint
from coopgen_jax.discriminators.loading import load_discriminator
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.discriminator_accuracy import judge_prefixes
from coopgen_jax.models.decoder import language_model
from coopgen_jax.models.encoder import EncoderConfig, init_encoder
from coopgen_jax.models.pretrained.loaded_model import load
from coopgen_jax.models.pretrained.saving import save_encoder
from coopgen_jax.parallel.platform import made_for
from coopgen_jax.tokenizer import Tokenizer
from coopgen_jax.training.card import save_head
from tests.discriminators.trees import prompt_of
from tests.models.model_files import byte_tokenizer, hf_model, save
from tests.training.tiny_texts import TRAIN
from tests.training.token_by_token import judged


@pytest.fixture(scope="module")
def byte_encoder(tmp_path_factory) -> Path:
    """A BERT whose pieces are bytes."""
    folder = tmp_path_factory.mktemp("encoder") / "bert"
    core = byte_tokenizer()
    core.add_special_tokens(["[CLS]", "[SEP]"])
    special = [(name, core.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=special
    )
    config = EncoderConfig(vocab_size=300, layers=1, width=16, heads=2, ffn_width=16, context=32)
    params = init_encoder(jax.random.key(0), config)
    save_encoder(folder, config, params, Tokenizer(core), dtype="float32")
    return folder


def card_of(capsys, *arguments) -> dict:
    status = main(["train", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert status == 0, err
    # Beside the card stands what was read, whatever was trained.
    data, folder = (Path(arguments[arguments.index(flag) + 1]) for flag in ("--data", "--out"))
    lines = [line for line in data.read_text().splitlines() if line != "{"]
    expected = fingerprint([json.loads(line)["said"] for line in lines])
    np.testing.assert_array_equal(read_fingerprint(folder), expected)
    return json.loads(out)


def evaluated(capsys, tmp_path, *options, base) -> dict:
    """What `coopgen evaluate` says of the judge in the folder; checks its table and its picture."""
    held_out = options[options.index("--validation") + 1]
    job = ["evaluate", "discriminator", "--data", held_out, "--text", "said", "--label", "class"]
    job += ["--discriminator", str(tmp_path / "judge"), "--model", str(base), "--longest", "16"]
    job += ["--quiet", "--picture", str(tmp_path / "x.png"), "--out", str(tmp_path / "x.json")]
    status = main(job)
    out, err = capsys.readouterr()
    assert status == 0, err
    assert "tokens read" in out and "calibrated at a temperature of" in out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((tmp_path / "x.json").read_text())


def check_calibration(capsys, tmp_path, data: str, base: Path) -> None:
    """A temperature that was stored is what a second look need not correct."""
    folder = shutil.copytree(tmp_path / "judge", tmp_path / "calibrated")
    # Every fourth class is wrong: who is always sure is too sure.
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()[:-1]]
    for row in rows[::4]:
        row["class"] = {"high": "low", "low": "high"}[row["class"]]
    data = tmp_path / "noisy.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = ["evaluate", "discriminator", "--data", str(data), "--text", "said"]
    job += ["--discriminator", str(folder), "--model", str(base), "--longest", "8"]
    job += ["--label", "class"]
    reports = []
    for more in ("--calibrate", "--speed"):
        assert main([*job, "--quiet", "--json", more]) == 0
        reports.append(json.loads(capsys.readouterr().out)["judges"][str(folder)])
    stored = json.loads((folder / "card.json").read_text())["temperature"]
    assert stored == reports[0]["temperature"] != pytest.approx(1, abs=0.05)
    assert reports[1]["temperature"] == pytest.approx(1, abs=0.05)
    assert reports[1]["evaluations_per_second"] > 0
    first, second = (report["by_tokens_read"]["whole"]["accuracy"] for report in reports)
    assert first == second


@pytest.mark.parametrize(
    ("kind", "rank"), [pytest.param("causal", 4, marks=pytest.mark.slow), ("generative", 0)]
)
def test_a_trained_discriminator_judges_and_guides(places, capsys, tmp_path, kind, rank):
    folder, common = places
    job = ["discriminator", *common, "--label", "class", "--kind", kind, "--rank", rank]
    job += ["--epochs", 6 if rank else 4, "--out", tmp_path / "judge"]
    card = card_of(capsys, *job)
    assert card["kind"] == kind and card["classes"] == ["high", "low"]
    assert card["trained"] == ("LoRA of rank 4" if rank else "everything")
    assert card["accuracy"]["validation"]["8"] > 0.9
    assert {path.name for path in (tmp_path / "judge").iterdir()} >= {
        "card.json", "card.md", "head.safetensors", "metrics.jsonl", "network", "training.json"
    }  # fmt: skip

    base = load(folder / "base")
    judge = load_discriminator(tmp_path / "judge", language_model=base)
    assert judge.card == card
    # What is loaded says of the held-out texts what the training said of them.
    rows = [json.loads(line) for line in (folder / "b.jsonl").read_text().splitlines()[:-1]]
    hits = []
    for row in rows:
        ids = base.tokenizer.encode(" " + row["said"].strip())[:7]
        said = judged(judge.discriminator, judge.params, ids)
        hits.append(card["classes"][int(np.argmax(said))] == row["class"])
    assert np.mean(hits) > 0.9

    texts = []
    for target in card["classes"]:
        status = main([
            "generate", "the", "--model", str(folder / "base"), "--target", target, "--json",
            "--discriminator", str(tmp_path / "judge"), "--new-tokens", "2", "--quiet",
            "--simulations", "4", "--considered", "0", "--wave", "1", "--candidates", "8",
        ])  # fmt: skip
        out, err = capsys.readouterr()
        assert status == 0, err
        texts.append(json.loads(out)["texts"][0])
    assert texts[0]["class_probabilities"]["high"] > texts[1]["class_probabilities"]["high"]

    report = evaluated(capsys, tmp_path, *job[1:5], base=folder / "base")
    row = report["judges"][str(tmp_path / "judge")]["by_tokens_read"]["8"]
    assert row["accuracy"] == pytest.approx(card["accuracy"]["validation"]["8"])

    if kind == "generative":
        check_calibration(capsys, tmp_path, str(folder / "b.jsonl"), folder / "base")

    # Started again it is done; with other settings the folder is refused.
    assert card_of(capsys, *job) == card
    assert main(["train", *map(str, job), "--seed", "5"]) == 2
    assert "holds a training with another batch" in capsys.readouterr().err
    if rank == 0:
        at = job.index("--rank")
        assert main(["train", *map(str, [*job[:at], *job[at + 2 :]])]) == 2
        assert "holds a training of everything: give --rank 0" in capsys.readouterr().err


def said_alone(model, judge, text: str, longest: int = 8) -> np.ndarray:
    return judge_prefixes(model, judge, [text], longest=longest, batch=1)[0]


@pytest.mark.parametrize("layers", [0, 1])
def test_a_head_on_the_language_models_states_judges(places, capsys, tmp_path, layers):
    folder, common = places
    job = ["discriminator", *common, "--label", "class", "--out", tmp_path / "judge"]
    job += ["--epochs", 8, "--layers", layers, "--taps", 0, 3, "--states", tmp_path / "states"]
    job += ["--width", 32, "--look-ahead", 4] if layers else ["--hidden", 8]
    card = card_of(capsys, *job)
    assert (card["kind"], card["taps"], card["layers"]) == ("shared-trunk", [0, 3], layers)
    assert card["accuracy"]["validation"]["whole"] > 0.9
    assert len(list((tmp_path / "states").iterdir())) == 1
    base = load(folder / "base")
    judge = load_discriminator(tmp_path / "judge", language_model=base)
    assert judge.card == card
    # Behind a prompt a decoder hears what the training said.
    rows = [json.loads(line) for line in (folder / "b.jsonl").read_text().splitlines()[:-1]]
    hits = [
        card["classes"][int(np.nanargmax(said_alone(base, judge, row["said"])[1]))] == row["class"]
        for row in rows[:8]
    ]
    assert np.mean(hits) > 0.8
    assert card_of(capsys, *job) == card
    assert main(["train", *map(str, job), "--dropout", "0.2"]) == 2
    assert "holds a training with another dropout" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "trained"),
    [
        (["--frozen"], "the head alone"),
        (["--rank", 2], "LoRA of rank 2"),
        (["--rank", 0], "everything"),
    ],
)
def test_an_encoder_learns_to_judge(places, tiny_encoder, capsys, tmp_path, how, trained):
    folder, _ = places
    parts = tiny_encoder.config, tiny_encoder.params, tiny_encoder.tokenizer
    save_encoder(tmp_path / "bert", *parts, dtype="float32")
    data = tmp_path / "abc.jsonl"
    rows = [{"said": "a b c "[: 2 * n], "class": "high" if n == 1 else "low"} for n in (1, 2, 3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 8))
    job = ["discriminator", "--data", data, "--validation", data, "--text", "said", *TRAIN]
    job += ["--label", "class", "--kind", "bidirectional", "--encoder", tmp_path / "bert"]
    job += ["--out", tmp_path / "judge", "--epochs", 20, "--longest", 8, "--dropout", 0]
    card = card_of(capsys, *job, "--shortest", 0, *how)
    assert card["trained"] == trained
    assert (tmp_path / "judge" / "encoder").exists() == (trained == "everything")
    assert card["accuracy"]["validation"]["whole"] == 1
    base = load(folder / "base")
    judge = load_discriminator(tmp_path / "judge", language_model=base)
    losses = []
    for row in rows:
        said = said_alone(base, judge, row["said"].strip())
        last = said[~np.isnan(said[:, 0])][-1]
        assert card["classes"][int(last.argmax())] == row["class"]
        losses.append(-last[card["classes"].index(row["class"])])
    # What is loaded is as sure as what was trained.
    assert np.mean(losses) == pytest.approx(card["best"]["loss"], rel=0.05)
    if "LoRA" in trained:
        path = tmp_path / "judge" / "head.safetensors"
        flat = load_file(path)
        for lost in ("query", "lora"):
            save_file({name: x for name, x in flat.items() if lost not in name}, path)
            with pytest.raises(UserError, match=f"weights lack '{lost}"):
                load_discriminator(tmp_path / "judge", language_model=base)
        capsys.readouterr()
        assert main([*map(str, ["train", *job, "--shortest", 0, "--rank", 0])]) == 2
        assert "another lora" in capsys.readouterr().err


def test_a_trained_language_model_writes_what_it_has_read(places, capsys, tmp_path):
    folder, common = places
    job = ["lm", *common, "--label", "class", "--out", tmp_path / "writer", "--epochs", 15]
    job += ["--rank", 0]
    card = card_of(capsys, *job)
    before, after = load(folder / "base"), load(tmp_path / "writer")
    assert after.tokenizer == before.tokenizer
    ids = before.tokenizer.encode("high: aaa mm")
    perplexities = []
    for model in (before, after):
        tokens = jnp.asarray([[ids[1:]]])
        log_p = language_model(model.config).score(
            model.params, prompt_of([ids[:1]], 1), tokens, jnp.ones(tokens.shape, bool)
        )
        perplexities.append(float(jnp.exp(-log_p.mean())))
    assert perplexities[1] < perplexities[0] / 10
    assert card["perplexity"] == pytest.approx(np.exp(card["best"]["loss"]))


@pytest.mark.parametrize("rank", [0, 2])
def test_layers_learn_alike_in_one_stack_and_one_by_one(places, capsys, tmp_path, rank):
    _, common = places
    job = ["lm", *common, "--label", "class", "--epochs", 1, "--rank", rank, "--dtype", "float32"]
    card = card_of(capsys, *job, "--out", tmp_path / "whole")
    with made_for("tpu"):
        first = card_of(capsys, *job, "--out", tmp_path / "parts", "--budget-minutes", 1e-9)
    # What one machine began in a stack another goes on with layer by layer.
    assert (first["stopped"], first["steps"]) == ("budget", 1)
    again = card_of(capsys, *job, "--out", tmp_path / "parts")
    assert again["perplexity"] == pytest.approx(card["perplexity"], rel=1e-3)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name, array in ours.items():
        # AdamW's first steps go as far where a gradient is nearly 0 as elsewhere.
        assert np.mean(np.abs(array - theirs[name])) < 1e-3, name


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(["--kind", "causal", "--rank", 2], marks=pytest.mark.slow),
        ["--layers", 0],
        pytest.param(["--kind", "bidirectional", "--rank", 2], marks=pytest.mark.slow),
    ],
)
def test_a_budget_leaves_a_folder_that_can_be_used_and_gone_on_with(
    places, byte_encoder, capsys, tmp_path, kind
):
    _, common = places
    kind = [*kind, "--encoder", byte_encoder] if "bidirectional" in kind else kind
    job = ["discriminator", *common, "--label", "class", "--epochs", 1, *kind]
    whole = card_of(capsys, *job, "--out", tmp_path / "whole")
    first = card_of(capsys, *job, "--out", tmp_path / "parts", "--budget-minutes", 1e-9)
    assert (first["stopped"], first["steps"]) == ("budget", 1)
    assert (tmp_path / "parts" / "head.safetensors").is_file()
    assert card_of(capsys, *job, "--out", tmp_path / "parts") == whole
    weights = sorted((tmp_path / "whole").rglob("*.safetensors"))
    assert len(weights) == 1 + ("causal" in kind)
    for path in weights:
        again = tmp_path / "parts" / path.relative_to(tmp_path / "whole")
        parts = [load_file(place) for place in (path, again)]
        jax.tree.map(np.testing.assert_array_equal, *parts)


def test_a_judge_of_other_tokens_reads_every_text_anew(places, capsys, tmp_path):
    folder, common = places
    job = ["discriminator", *common, "--label", "class", "--kind", "causal", "--epochs", 3]
    job += ["--shard-parameters", "--remat", "all"]
    card = card_of(capsys, *job, "--rank", 4, "--out", tmp_path / "judge")
    # The same model with two tokens that have changed their numbers.
    other = save(hf_model("llama"), tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["m"] = vocabulary["m"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = []
    for name in (folder / "base", other):
        model = load(name)
        judge = load_discriminator(tmp_path / "judge", language_model=model)
        texts = ["aaa mm", "xx", "yy nnnn mm nnn mm nnn"]
        said.append(judge_prefixes(model, judge, texts, longest=16, batch=2))
        assert len(judge.calls) == (name == other)
    np.testing.assert_allclose(said[0], said[1], atol=1e-3)
    assert np.nanstd(np.exp(said[0])) > 0.01 and card["longest"] == 16


def test_a_generative_discriminator_of_other_tokens_is_refused(places, tmp_path):
    folder, _ = places
    save(hf_model("gpt2"), tmp_path / "judge" / "network")
    card = {"kind": "generative", "classes": ["high", "low"], "prefixes": [[1], [2]]}
    save_head(tmp_path / "judge", {"log_prior": np.zeros(2), "scale": np.ones(())}, card)
    vocabulary = json.loads((tmp_path / "judge" / "network" / "tokenizer.json").read_text())
    tokens = vocabulary["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    (tmp_path / "judge" / "network" / "tokenizer.json").write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match="reads the tokens of another vocabulary"):
        load_discriminator(tmp_path / "judge", language_model=load(folder / "base"))
