"""What a judge has said once is looked up, whoever asks."""

from types import SimpleNamespace

import numpy as np
import pytest

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation import kept_judgements
from coopgen_jax.evaluation.kept_judgements import kept


class Judge:
    classes = ("a", "b")

    def __init__(self):
        self.asked = []

    def predict_proba(self, texts):
        self.asked.append(list(texts))
        # What is said of a text depends on its neighbours, as rounding does.
        first = [1 / (3 + len(text) + len(texts) / 7) for text in texts]
        return np.array([[share, 1 - share] for share in first])


def test_a_text_is_judged_once_and_read_again_as_it_was(tmp_path):
    one = Judge()
    judge = kept(one, tmp_path / "out", "f" * 64)
    said = judge.predict_proba(["x", "yy", "x"])
    np.testing.assert_array_equal(said, one.predict_proba(["x", "yy", "x"]))
    np.testing.assert_array_equal(judge.predict_proba(["yy"]), said[1:2])
    another = Judge()
    again = kept(another, tmp_path / "out", "f" * 64)
    assert again.classes == ("a", "b")
    np.testing.assert_array_equal(again.predict_proba(["x", "yy", "x"]), said)
    assert again.predict_proba([]).shape == (0, 2) and not another.asked


def test_a_call_that_was_broken_off_says_what_it_would_have_said(tmp_path):
    judge = kept(Judge(), tmp_path, "f" * 64)
    said = judge.predict_proba(["x", "yy", "zzz"])
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for cut in (0, 5, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:cut])
        one = Judge()
        again = kept(one, tmp_path, "f" * 64)
        np.testing.assert_array_equal(again.predict_proba(["x", "yy", "zzz"]), said)
        assert one.asked == [["x", "yy", "zzz"]]
        np.testing.assert_array_equal(
            kept(Judge(), tmp_path, "f" * 64).predict_proba(["x", "yy", "zzz"]), said
        )


def test_another_judge_has_a_file_for_itself_and_an_unknown_one_none(tmp_path):
    for weights, judge in (("a" * 64, Judge()), ("b" * 64, Judge())):
        kept(judge, tmp_path, weights).predict_proba(["x"])
        assert judge.asked == [["x"]]
    assert len(list(tmp_path.iterdir())) == 2
    unknown = Judge()
    assert kept(unknown, tmp_path, None) is unknown


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "out").write_text("")
    judge = kept(Judge(), tmp_path / "out", "f" * 64)
    with pytest.raises(UserError, match="cannot be written"):
        judge.predict_proba(["x"])


def test_another_language_model_or_temperature_makes_another_judge(tmp_path, monkeypatch):
    class Reading(Judge):
        def __init__(self, sha256, dtype, card):
            super().__init__()
            self.model = SimpleNamespace(sha256=sha256, config=SimpleNamespace(dtype=dtype))
            self.discriminator = SimpleNamespace(card=card)

    monkeypatch.setattr(kept_judgements, "DiscriminatorJudge", Reading)
    for about in (("a", "f", {}), ("b", "f", {}), ("a", "h", {}), ("a", "f", {"temperature": 2})):
        judge = Reading(*about)
        kept(judge, tmp_path, "f" * 64).predict_proba(["x"])
        assert judge.asked == [["x"]]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("share", [np.nan, np.inf])
def test_what_is_no_number_is_not_kept(tmp_path, share):
    broken = Judge()
    broken.predict_proba = lambda texts: np.array([[0.5, 0.5], [share, 0.5]])
    with pytest.raises(UserError, match="a judge says what is no finite number of a text"):
        kept(broken, tmp_path, "f" * 64).predict_proba(["x", "yy"])
    assert not list(tmp_path.iterdir())
    # Nor is it read from a file that has it.
    one = Judge()
    said = kept(one, tmp_path, "f" * 64).predict_proba(["x"])
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace(str(said[0, 0]), str(share)))
    np.testing.assert_array_equal(kept(one, tmp_path, "f" * 64).predict_proba(["x"]), said)
    assert one.asked == [["x"]] * 2
