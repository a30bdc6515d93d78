"""Hugging Face's sequence classifiers: what their folders say of network, head and classes.

A folder is that of a `...ForSequenceClassification`: config.json, safetensors and tokenizer.json.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained import encoder_families as encoders
from coopgen_jax.models.pretrained.assemble import Source, assemble
from coopgen_jax.models.pretrained.families import (
    DECODERS,
    Settings,
    bert_config,
    check_numbers,
    decoder_config,
    decoder_sources,
    encoder_sources,
    sources_of,
)
from coopgen_jax.models.pretrained.folder import Folder
from coopgen_jax.models.pretrained.loaded_model import (
    decoder_shapes,
    headers_of,
    limit_tokenizer,
)
from coopgen_jax.models.text_classifier import (
    HEAD_ACTIVATIONS,
    ClassHeadConfig,
    EncoderShape,
    TextClassifierConfig,
    encoder_shapes,
    head_shapes,
)
from coopgen_jax.models.transformer import DecoderConfig
from coopgen_jax.tokenizer import Tokenizer

Params = dict[str, Any]
ARCHITECTURE = "ForSequenceClassification"
Pooling = Literal["first", "mean", "last"]


@dataclass(frozen=True)
class Family:
    """One family of encoders that classify.

    Attributes:
      shape: settings and dtype in, the network's shape out.
      sources: returns where the network's tensors stand.
      output: name of the tensors of the head's output.
      dense: name of those of the layer in front of it.
      activation: a key of settings that names the activation behind that layer, with its default;
        or the activation itself, under the key "".
    """

    shape: Callable[[Settings, str], EncoderShape]
    sources: Callable[[], dict[str, Source]]
    output: str
    dense: str
    activation: tuple[str, str]


_ROBERTA = Family(
    encoders.roberta_config,
    partial(encoder_sources, "roberta"),
    "classifier.out_proj",
    "classifier.dense",
    ("", "tanh"),
)
ENCODERS = {
    "bert": Family(bert_config, encoder_sources, "classifier", "bert.pooler.dense", ("", "tanh")),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": Family(
        encoders.distilbert_config,
        encoders.distilbert_sources,
        "classifier",
        "pre_classifier",
        ("", "relu"),
    ),
    "deberta-v2": Family(
        encoders.deberta_config,
        encoders.deberta_sources,
        "classifier",
        "pooler.dense",
        ("pooler_hidden_act", "gelu"),
    ),
    "modernbert": Family(
        encoders.modernbert_config,
        encoders.modernbert_sources,
        "classifier",
        "head.dense",
        ("classifier_activation", "gelu"),
    ),
}
FAMILIES = (*ENCODERS, *DECODERS)


@dataclass(frozen=True)
class About:
    """What a folder says of its classes.

    Attributes:
      family: the network's family, one of `FAMILIES`.
      classes: names of the classes in the order of the outputs; "reward" for a single output.
      kind: what the outputs are: logits of one class out of several, of each class by itself
        ("multi-label"), or a number, the more the better ("reward").
    """

    family: str
    classes: tuple[str, ...]
    kind: Literal["single-label", "multi-label", "reward"]


@dataclass(frozen=True, eq=False)
class LoadedClassifier:
    """A sequence classifier with all that belongs to it.

    Attributes:
      about: its family and its classes.
      config: the shapes of its network and its head.
      params: what `text_classifier.class_scores` takes.
      tokenizer: its tokenizer.
      sha256: of the file that holds the weights; of several files, that of the list of theirs.
      licence: of the weights as the folder declares it, None where it does not.
    """

    about: About
    config: TextClassifierConfig
    params: Params
    tokenizer: Tokenizer
    sha256: str
    licence: str | None


def about_classifier(path: Path) -> About:
    """Returns what a folder says of its classes, whose weights are not read; see `load`."""
    with headers_of(path):
        return _about(Folder(path))


def load_classifier(path: Path, *, dtype: str = "float32") -> LoadedClassifier:
    """Loads the sequence classifier in a folder.

    Args:
      path: a folder of one of `FAMILIES`.
      dtype: of parameters and of products with them, "float32" or "bfloat16".

    Raises:
      UserError: it is no sequence classifier, or its files are damaged or of an unknown kind.
    """
    with headers_of(path):
        folder = Folder(path)
        about = _about(folder)
        settings = Settings(folder.config, folder.label)
        tokenizer = folder.tokenizer()
        config = _config(settings, about, tokenizer, dtype)
        check_numbers(config.network)
    limit_tokenizer(tokenizer, config.network.vocab_size, folder.label)
    family = ENCODERS.get(about.family)
    if isinstance(config.network, DecoderConfig):
        shapes, sources = decoder_shapes(config.network), decoder_sources(about.family)
    else:
        assert family is not None
        shapes, sources = encoder_shapes(config.network), family.sources()
    network = assemble(shapes, sources, folder, dtype)
    head = assemble(head_shapes(config.head), _head_sources(family), folder, dtype)
    params = {"network": network, "head": head}
    return LoadedClassifier(about, config, params, tokenizer, folder.sha256(), folder.licence())


def _about(folder: Folder) -> About:
    settings = Settings(folder.config, folder.label)
    named = folder.config.get("architectures") or []
    if named and not any(name.endswith(ARCHITECTURE) for name in named):
        raise UserError(
            f"{folder.label} holds a {named[0]}, which is no sequence classifier: give the folder "
            f"of a model whose architecture ends in {ARCHITECTURE}"
        )
    family = settings.get("model_type", "unnamed")
    if family not in FAMILIES:
        raise settings.refuse("model_type", family, f"the known ones are {', '.join(FAMILIES)}")
    names = _names(folder)
    output = f"{ENCODERS[family].output if family in ENCODERS else 'score'}.weight"
    found = folder.find(output)
    # A folder may leave out what its classes are called; then its weights say how many there are.
    count = folder.shape(found)[0] if found else settings.get("num_labels", len(names))
    return _classes(settings, family, names, count)


def _names(folder: Folder) -> dict[int, str]:
    said = folder.config.get("id2label") or {}
    if not isinstance(said, Mapping):
        raise ValueError("id2label is no table of names")
    return {int(number): str(name) for number, name in said.items() if name}


def _classes(settings: Settings, family: str, names: dict[int, str], count: int) -> About:
    problem = settings.values.get("problem_type")
    if count == 1:
        return About(family, ("reward",), "reward")
    if problem == "regression":
        raise settings.refuse("problem_type", problem, f"its {count} outputs are no classes")
    beyond = [number for number in names if not 0 <= number < count]
    if beyond or not count:
        raise UserError(
            f"config.json of {settings.label} names {len(names)} classes in id2label and its head "
            f"has {count} outputs: the two belong to different models"
        )
    classes = [names.get(number, f"LABEL_{number}") for number in range(count)]
    twice = [name for name in classes if classes.count(name) > 1]
    if twice:
        raise UserError(
            f"config.json of {settings.label} calls two classes {twice[0]!r} in id2label: give "
            "every class a name that no other has"
        )
    several = problem == "multi_label_classification"
    return About(family, tuple(classes), "multi-label" if several else "single-label")


def _config(
    settings: Settings, about: About, tokenizer: Tokenizer, dtype: str
) -> TextClassifierConfig:
    outputs, label = len(about.classes), settings.label
    family = ENCODERS.get(about.family)
    if family is None:
        decoder = decoder_config(settings.values, label, tokenizer.end_tokens, dtype)
        # There is no output layer over the vocabulary.
        decoder = replace(decoder, tied=True)
        pad = settings.get("pad_token_id", -1)
        head = ClassHeadConfig(decoder.width, outputs, "last", output_bias=False, pad_token=pad)
        return TextClassifierConfig(decoder, head)
    settings.choose("position_embedding_type", "absolute", ("absolute",))
    network = family.shape(settings, dtype)
    key, default = family.activation
    activation = settings.choose(key, default, HEAD_ACTIVATIONS) if key else default
    pooling: Pooling = "first"
    modern = about.family == "modernbert"
    if modern:
        chosen = settings.choose("classifier_pooling", "cls", ("cls", "mean"))
        pooling = "mean" if chosen == "mean" else "first"
    head = ClassHeadConfig(
        network.width,
        outputs,
        pooling,
        activation=activation,
        dense_bias=not modern or settings.get("classifier_bias", False),
        norm=modern,
        norm_bias=modern and settings.get("norm_bias", False),
        norm_epsilon=network.norm_epsilon,
    )
    return TextClassifierConfig(network, head)


def _head_sources(family: Family | None) -> dict[str, Source]:
    if family is None:
        return {"output/kernel": Source("score.weight", transposed=True)}
    kernels = {"output": family.output, "dense": family.dense}
    norms = sources_of({"norm": "head.norm"}, "scale")
    return norms | sources_of(kernels, transposed=True)
