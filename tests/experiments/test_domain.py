"""The experiments on domains ask for methods that there are, and for prompts of every class."""

import csv
import json
from pathlib import Path

import pytest

from coopgen_jax.cli.compare_methods import jobs_of
from coopgen_jax.cli.compare_options import CompareOptions
from experiments.domain import Config, write_prompts
from experiments.emotion import EMOTION
from experiments.polarity import POLARITY
from experiments.topic import TOPIC


@pytest.mark.parametrize("domain", [POLARITY, EMOTION, TOPIC], ids=lambda domain: domain.name)
def test_every_method_is_one_of_compares(domain, tmp_path):
    methods = ",".join(method.format(work=tmp_path) for method in domain.methods)
    jobs = jobs_of(CompareOptions(methods, tmp_path, target=domain.classes))
    assert len(jobs) == len(domain.methods)
    made = {"trunk", "judge", "oracle", "lm", *domain.trained}
    for job in jobs:
        for name in (job.options.discriminator, job.options.model, job.options.expert or ""):
            if str(tmp_path) in name:
                part = Path(name).relative_to(tmp_path).parts[0]
                assert part in made or (part.startswith("expert") and "experts" in made)


def test_a_class_conditional_model_is_read_behind_the_prefix_it_was_trained_with(tmp_path):
    (coded,) = (method for method in POLARITY.methods if "control_code" in method)
    methods = coded.format(work=tmp_path)
    (job,) = jobs_of(CompareOptions(methods, tmp_path, target=POLARITY.classes))
    assert job.options.control_code == "{target}:"


def test_prompts_are_the_first_words_of_rows_of_every_class(tmp_path):
    (tmp_path / "emotion").mkdir()
    rows = [
        (f"{name} text number {n} has many words", name)
        for name in EMOTION.classes
        for n in range(5)
    ]
    with (tmp_path / "emotion" / "validation.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows, ("too short", "joy")])
    config = Config(data=tmp_path, work=tmp_path, texts=12, words=4)
    lines = write_prompts(config, EMOTION).read_text().splitlines()
    prompts = [json.loads(line)["prompt"] for line in lines]
    assert len(prompts) == len(set(prompts)) == 12
    assert {prompt.split()[0] for prompt in prompts} == set(EMOTION.classes)
    assert all(len(prompt.split()) == 4 for prompt in prompts)
