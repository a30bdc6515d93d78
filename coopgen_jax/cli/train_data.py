"""What `coopgen train discriminator` learns from: labelled, neutral and unlabelled texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from coopgen_jax.cli.train_options import DiscriminatorOptions
from coopgen_jax.cli.train_progress import now_and_then, tell, tell_broken
from coopgen_jax.data.labelled import (
    Labelled,
    Teacher,
    joined,
    neutral,
    read_labelled,
    read_texts,
    with_shares,
)
from coopgen_jax.data.sources import read_rows
from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.independence import trained_on
from coopgen_jax.evaluation.kept_judgements import kept
from coopgen_jax.evaluation.text_judges import TextJudge, load_text_judge
from coopgen_jax.training.class_counts import class_counts, doubtful_classes
from coopgen_jax.training.training_folder import check_empty

# Texts that a teacher judges between two reports of progress.
JUDGED_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Labeller:
    """What labels texts by probabilities.

    Attributes:
      judge: what judges; what it has said is kept in the folder of the training.
      teacher: who it is.
    """

    judge: TextJudge
    teacher: Teacher

    def shares(
        self, what: Any, where: str, texts: Sequence[str], classes: Sequence[str]
    ) -> np.ndarray:
        """Returns its probabilities of texts `[n, C]`, in the order of the classes."""
        said = judged(what, where, self.judge, texts)
        return said[:, [self.judge.classes.index(name) for name in classes]]


def read_classes(what: DiscriminatorOptions) -> tuple[Labelled, Labelled, Labeller | None]:
    """Returns training and validation texts, and the teacher if there is one.

    Raises:
      UserError: a file or a teacher is of no use, or there is one class only.
    """
    # What costs little is read first: a teacher may judge for hours.
    calm = [text for where in what.neutral for text in _texts(what, where)]
    labeller = None if what.teacher is None else _labeller(what)
    training = _read(what, what.data, labeller, None)
    if labeller is not None and set(labeller.judge.classes) != set(training.classes):
        raise UserError(
            f"{what.teacher} has the classes {', '.join(labeller.judge.classes)}, and {what.data} "
            f"has {', '.join(training.classes)}: give --rename, or another teacher"
        )
    validation = _read(what, what.validation, labeller, training.classes, doubts=False)
    if len(training.classes) < 2:
        raise UserError(f"{what.data} has one class only, {training.classes[0]}: give two or more")
    if calm:
        tell(what, f"{len(calm)} neutral texts, whose target is the prior of the classes")
        training = joined([training, neutral(calm, training, balanced=what.balanced)])
    return training, validation, labeller


def _labeller(what: DiscriminatorOptions) -> Labeller:
    assert what.teacher is not None
    if not _has_labels(what, what.data):
        if what.classes or what.rename or what.label != "label":
            raise UserError(
                "--teacher names the classes itself: leave --classes, --rename and --label out"
            )
        if what.balanced:
            raise UserError(
                "--balanced counts labels, and --teacher gives none: leave one of them out"
            )
    check_empty(what.out)  # where its judgements are kept
    judge = load_text_judge(what.teacher, model=what.model)
    if len(judge.classes) < 2:
        raise UserError(
            f"{what.teacher} gives a reward, which has no classes to learn: give a teacher of two "
            "classes or more"
        )
    about = trained_on(what.teacher)
    return Labeller(
        kept(judge, what.out, about.weights), Teacher(about.name, about.weights, about.rows)
    )


def _has_labels(what: DiscriminatorOptions, where: str) -> bool:
    """Tells whether texts have labels. Beside a teacher only those of rounds keep theirs."""
    if what.teacher is not None and what.on_policy is None:
        return False
    return what.teacher is None or what.label != "label" or what.label in read_rows(where)[0]


def _read(
    what: DiscriminatorOptions,
    where: str,
    labeller: Labeller | None,
    classes: tuple[str, ...] | None,
    *,
    doubts: bool = True,
) -> Labelled:
    if labeller is None or _has_labels(what, where):
        rename = dict(map(pair, what.rename))
        data = read_labelled(
            where, text=what.text, label=what.label, rename=rename,
            classes=classes or what.classes or None,
        )  # fmt: skip
    else:
        texts, names = _texts(what, where), classes or labeller.judge.classes
        shares = labeller.shares(what, where, texts, names)
        data = with_shares(texts, names, shares, teacher=labeller.teacher)
    report(what, where, data, doubts=doubts)
    return replace(data, broken=())


def _texts(what: DiscriminatorOptions, where: str) -> tuple[str, ...]:
    texts, broken = read_texts(where, text=what.text)
    tell_broken(what, where, broken)
    return texts


def judged(what: Any, where: str, teacher: TextJudge, texts: Sequence[str]) -> np.ndarray:
    """Returns a teacher's probabilities of texts `[n, C]`, and tells how far it is."""
    told, parts = now_and_then(what), []
    for at in range(0, len(texts), JUDGED_AT_ONCE):
        parts.append(teacher.predict_proba(texts[at : at + JUDGED_AT_ONCE]))
        done = min(at + JUDGED_AT_ONCE, len(texts))
        told(done, len(texts), partial(_progress, where, done, len(texts)))
    return np.concatenate(parts)


def _progress(where: str, done: int, total: int) -> str:
    return f"{where}: {done} of {total} texts judged"


def pair(entry: str) -> tuple[str, str]:
    """Returns OLD and NEW of an entry of --rename; raises UserError where it has another form."""
    old, separator, new = entry.partition("=")
    if not separator or not old or not new:
        raise UserError(f"--rename {entry}: give the old name and the new one as OLD=NEW")
    return old, new


def report(what: Any, where: str, data: Labelled, *, doubts: bool = True) -> None:
    """Reports rows that were left out, classes with their counts, and doubts about the classes."""
    tell_broken(what, where, data.broken)
    tell(what, f"{where}: {class_counts(data)}")
    for sentence in doubtful_classes(data) if doubts else ():
        tell(what, f"warning: {where}: {sentence}")
