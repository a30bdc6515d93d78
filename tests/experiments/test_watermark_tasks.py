"""The questions of `experiments.watermark_tasks`, and who judges their answers."""

import csv

from experiments.watermark_tasks import ANSWER_KEYS, classified, facts


def test_facts_are_judged_by_the_first_line_of_an_answer():
    prompts, right = facts()
    assert len(prompts) == len(right) and len(prompts) % ANSWER_KEYS == 0
    assert len(set(prompts)) == len(prompts)
    rome = next(n for n, prompt in enumerate(prompts) if prompt.endswith("of Italy?\nAnswer:"))
    assert right[rome](" The capital of Italy is Rome.\n\nQuestion: What")
    assert not right[rome](" The capital of Italy is Milan.\n\nQuestion: What of Rome?")
    assert not right[rome]("")
    # No shot gives an answer away.
    for prompt in prompts:
        *shots, asked = prompt.split("\n\n")
        assert not any(asked.partition("\n")[0] in shot for shot in shots)


def test_a_class_is_what_an_answer_names_first(tmp_path):
    paths = []
    for name, rows in (
        ("shots", [("fine", "good"), ("poor", "bad"), ("great", "good"), ("dull", "bad")]),
        ("rows", [("lovely", "good"), ("boring", "bad"), ("nice", "good")]),
    ):
        paths.append(tmp_path / f"{name}.csv")
        with paths[-1].open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    prompts, right = classified(tuple(paths), "Review", "sentiment", 3)
    order = [prompt.rpartition("Review: ")[2].partition("\n")[0] for prompt in prompts]
    assert sorted(order) == ["boring", "lovely", "nice"]
    for prompt in prompts:
        for told in ("fine", "poor", "great", "dull"):
            assert f"Review: {told}\nAnswer: The sentiment of this review is " in prompt
        assert prompt.endswith("\nAnswer:")
    lovely, boring = right[order.index("lovely")], right[order.index("boring")]
    text = " The sentiment of this review is good, not bad.\n\nReview: bad"
    assert lovely(text) and not boring(text)
    assert not lovely("\n\n I cannot say.\n good") and not boring("")
