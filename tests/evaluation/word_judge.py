"""A judge of two words, which calls everything else neither."""

import numpy as np


class WordJudge:
    classes = ("negative", "positive", "neither")

    def predict_proba(self, texts):
        said = [2 - ("good" in text) - 2 * ("bad" in text) for text in texts]
        return np.eye(3)[said]
