"""METEOR under its two true names: NLTK's, and that of the Java program, version 1.5.

Both align the words of a caption with those of a reference, by word, stem and synonym, and lower
the F score where matches stand in many chunks. Their figures differ: NLTK has the parameters of
Lavie and Agarwal (2007, "METEOR: An Automatic Metric for MT Evaluation"), the program those of
Denkowski and Lavie (2014, "Meteor Universal"), and a table of paraphrases beside its jar. The
literature on captions reports the program's.
"""

import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from nltk.translate.meteor_score import meteor_score

from coopgen_jax.errors import UserError
from coopgen_jax.evaluation.caption_words import caption_words
from coopgen_jax.evaluation.metrics import bootstrap_interval, percentile_interval

# Seconds in which the program must have read its table of paraphrases: ten times what it takes.
STARTS_WITHIN = 180.0
MEMORY = "2G"


def nltk_meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Returns NLTK's METEOR, the mean over captions of that with the best reference.

    Words are those of `caption_words`. A caption without words scores 0.

    Returns:
      The `value` from 0 to 1, and its 95 % `interval` by bootstrap over captions.

    Raises:
      UserError: NLTK's copy of WordNet is not there.
    """
    with open_wordnet() as wordnet:
        scores = [
            meteor_score(
                [caption_words(own) for own in known], caption_words(text), wordnet=wordnet
            )
            for text, known in zip(captions, references, strict=True)
        ]
    return {"value": float(np.mean(scores)), "interval": list(bootstrap_interval(scores))}


@contextmanager
def open_wordnet() -> Iterator[WordNetCorpusReader]:
    """Opens WordNet in English; raises UserError where NLTK does not find it."""
    found = LazyCorpusLoader("wordnet", WordNetCorpusReader, None)
    try:
        with warnings.catch_warnings():
            # It has no other language.
            warnings.simplefilter("ignore")
            found.ensure_loaded()
    except LookupError as error:
        raise UserError(
            'NLTK\'s METEOR needs WordNet: fetch it in Python with nltk.download("wordnet"), or '
            "leave --meteor-nltk out"
        ) from error
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"NLTK's copy of WordNet is damaged: fetch it anew ({error})") from error
    try:
        yield found
    finally:
        # NLTK leaves them open.
        for file in found._data_file_map.values():
            file.close()


def java_meteor(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, jar: Path
) -> dict[str, Any]:
    """Returns METEOR 1.5 as the Java program computes it, called as COCO's evaluation calls it.

    Words are those of `caption_words`, where COCO's evaluation has Stanford's tokeniser. The value
    is the corpus's, whose counts are summed over captions, not the mean of the captions' scores.

    Args:
      captions: one of each image.
      references: those of each image.
      jar: meteor-1.5.jar, with its data beside it as it is published.

    Returns:
      The `value` from 0 to 1, and its 95 % `interval` by bootstrap over captions.

    Raises:
      UserError: there is no Java or no such file, or the program fails.
    """
    with _running(jar) as program:
        counts = np.asarray([
            program.counts(_line(text), [line for line in map(_line, known) if line])
            for text, known in zip(captions, references, strict=True)
        ])  # fmt: skip
        value = program.score(counts)
        if len(counts) < 2 or not np.ptp(counts, axis=0).any():
            return {"value": value, "interval": [value, value]}

        def of_sample(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
            sums = np.stack([column.sum(axis=axis) for column in columns], axis=-1)
            flat = sums.reshape(-1, sums.shape[-1])
            return np.asarray([program.score(row[None]) for row in flat]).reshape(sums.shape[:-1])

        interval = percentile_interval(tuple(summable(counts).T), of_sample)
    return {"value": value, "interval": list(interval)}


def summable(counts: np.ndarray) -> np.ndarray:
    """Returns counts `[n, 23]` of captions whose sums have the score of all captions together.

    The program counts no chunk of a caption that is its reference, word by word.
    """
    length, reference, chunks, matched, found = (counts[:, at] for at in (0, 1, -3, -2, -1))
    same = (length == matched) & (reference == found) & (chunks == 1)
    changed = counts.copy()
    changed[same, -3] = 0
    return changed


def _line(text: str) -> str:
    """Returns a text's words as the program reads them; its separator is none of them."""
    return " ".join(word for word in caption_words(text) if "|||" not in word)


def java_and_jar(jar: Path) -> tuple[str, Path]:
    """Returns where Java and the program are; raises UserError where one is missing."""
    java = shutil.which("java")
    if java is None:
        raise UserError(
            "METEOR 1.5 needs Java: install a Java runtime so that java is on the path, or leave "
            "--meteor-jar out"
        )
    path = jar.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"--meteor-jar {jar} is not a file")
    return java, path


@contextmanager
def _running(jar: Path) -> Iterator["_Program"]:
    """Starts the program, and ends it."""
    java, path = java_and_jar(jar)
    # What it complains of goes into a file: nobody empties a pipe while it answers.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [java, f"-Xmx{MEMORY}", "-jar", str(path), "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=path.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        try:
            yield _Program(process, errors, path)
        finally:
            process.kill()
            # What is left over is thrown away, and both pipes are closed.
            process.communicate()


class _Program:
    """The program while it runs. It answers a line of words by counts, and counts by a score."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], jar: Path) -> None:
        self.process, self.errors, self.jar = process, errors, jar
        self.started = False

    def counts(self, words: str, references: Sequence[str]) -> list[float]:
        """Returns what the score sums up over captions."""
        (answer,) = self._ask(" ||| ".join(["SCORE", *(references or [""]), words]), 1)
        return self._numbers(answer)

    def score(self, counts: np.ndarray) -> float:
        """Returns the score of captions together by their counts `[n, 23]`."""
        lines = (
            " ".join(f"{value:g}" if value % 1 else str(int(value)) for value in row)
            for row in counts
        )
        # It prints the score of each caption, and then that of all.
        answers = self._ask(" ||| ".join(["EVAL", *lines]), len(counts) + 1)
        (number,) = self._numbers(answers[-1])
        return number

    def _ask(self, line: str, answers: int) -> list[str]:
        streams = self.process.stdin, self.process.stdout
        assert streams[0] is not None and streams[1] is not None
        with self._in_time():
            try:
                streams[0].write(f"{line}\n")
                streams[0].flush()
            except OSError as error:
                raise self._failure("it has ended") from error
            found = [streams[1].readline() for _ in range(answers)]
        if not all(found):
            raise self._failure("it has ended")
        self.started = True
        return found

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Ends a program whose first answer does not come."""
        if self.started:
            yield
            return
        timer = threading.Timer(STARTS_WITHIN, self.process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _numbers(self, line: str) -> list[float]:
        try:
            return [float(word) for word in line.split()]
        except ValueError as error:
            raise self._failure(f"it answers {line.strip()!r}") from error

    def _failure(self, what: str) -> UserError:
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        said = " ".join(self.errors.read().split())[-200:]
        said = said and f": {said}"
        return UserError(
            f"{self.jar} does not answer as METEOR 1.5 does ({what}{said}): give meteor-1.5.jar "
            "with its data beside it"
        )
