#!/usr/bin/env python3
"""Stands in for `java -jar meteor-1.5.jar - - -stdio -l en -norm`: the same words over the pipe.

It answers SCORE by the counts that the program itself gave (`meteor_answers.json`), and EVAL by the
formula of Denkowski and Lavie 2014 with the program's parameters for English.
"""

import json
import sys
from pathlib import Path

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STAGES = (1.0, 0.6, 0.8, 0.6)


def score(rows: list[list[float]]) -> float:
    """The score of captions together: chunks of one that is its reference do not count."""
    chunks = 0.0
    for row in rows:
        same = row[0] == row[21] and row[1] == row[22] and row[20] == 1
        chunks += 0 if same else row[20]
    sums = [sum(column) for column in zip(*rows, strict=True)]
    shares = []
    for side in (0, 1):
        length, function = sums[side], sums[2 + side]
        parts = [sums[4 + 4 * stage + side : 8 + 4 * stage : 2] for stage in range(len(STAGES))]
        found = sum(
            weight * (DELTA * content + (1 - DELTA) * words)
            for weight, (content, words) in zip(STAGES, parts, strict=True)
        )
        whole = DELTA * (length - function) + (1 - DELTA) * function
        shares.append(found / whole if whole else 0.0)
    precision, recall = shares
    if not precision or not recall:
        return 0.0
    mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
    fragments = chunks / ((sums[21] + sums[22]) / 2)
    return mean * (1 - GAMMA * fragments**BETA)


def main() -> None:
    said = ["-Xmx2G", "-jar", sys.argv[3], "-", "-", "-stdio", "-l", "en", "-norm"]
    assert sys.argv[1:] == said and Path(sys.argv[3]).is_file(), sys.argv
    known = json.loads(Path(__file__).with_name("meteor_answers.json").read_text(encoding="utf-8"))
    for line in sys.stdin:
        what, *parts = line.rstrip("\n").split(" ||| ")
        if what == "SCORE":
            print(known["counts"][line.rstrip("\n")], flush=True)
        else:
            rows = [[float(word) for word in part.split()] for part in parts]
            for answer in [*(score([row]) for row in rows), score(rows)]:
                print(answer, flush=True)


if __name__ == "__main__":
    main()
