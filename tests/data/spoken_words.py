"""A dataset of three rows, as TensorFlow Datasets builds them."""

import tensorflow_datasets as tfds


class SpokenWords(tfds.core.GeneratorBasedBuilder):
    """Three texts and their moods."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        moods = tfds.features.ClassLabel(names=["bad", "good"])
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "mood": moods}),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        rows = [("so good", "good"), ("só bad", "bad"), ("fine", "good")]
        for number, (text, mood) in enumerate(rows):
            yield number, {"text": text, "mood": mood}
