"""The tokenizer in a GGUF file's metadata."""

from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Core

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.gguf.gguf_file import GgufFile
from coopgen_jax.tokenizer import Tokenizer

# What the entries of tokenizer.ggml.token_type mean.
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
SPACE = "\u2581"
# Names of the rule by which Llama 3 splits texts.
LLAMA3 = ("llama-bpe", "llama3")

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")


def gguf_tokenizer(file: GgufFile) -> Tokenizer:
    """Returns the tokenizer of a GGUF file; raises UserError where its kind cannot be built."""
    data = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in file.metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    if "tokens" not in data:
        raise UserError(f"{file.label} has no vocabulary: convert the model again with it")
    kind = data.get("model")
    if kind == "gpt2":
        core = _byte_level(file, data)
    elif kind == "llama":
        core = _sentence_pieces(file, data)
    else:
        raise UserError(
            f"{file.label} has a tokenizer of the kind {kind!r}: the known ones are gpt2 and llama"
        )
    types = data.get("token_type", [])
    for wanted, special in ((CONTROL, True), (USER_DEFINED, False)):
        names = [
            name for name, found in zip(data["tokens"], types, strict=False) if found == wanted
        ]
        core.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    called = {
        f"{key}_token": data["tokens"][data[f"{key}_token_id"]]
        for key in ("bos", "eos")
        if data.get(f"{key}_token_id", len(data["tokens"])) < len(data["tokens"])
    }
    begin = data.get("bos_token_id")
    # These vocabularies begin with a token unless the file says otherwise.
    begins = kind == "llama" or data.get("pre") in LLAMA3
    if not data.get("add_bos_token", begins):
        begin = None
    ends = [data.get(f"{name}_token_id") for name in ("eos", "eot", "eom")]
    return Tokenizer(
        core,
        begin_tokens=[] if begin is None else [begin],
        end_tokens=[end for end in ends if end is not None],
        chat_template=file.metadata.get("tokenizer.chat_template"),
        **called,
    )


def _byte_level(file: GgufFile, data: dict[str, Any]) -> Core:
    vocabulary = {name: number for number, name in enumerate(data["tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in data.get("merges", [])]
    pre = data.get("pre", "default")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    splitter: pre_tokenizers.PreTokenizer
    if pre in ("default", "gpt-2", "gpt2"):
        splitter = byte_level
    elif pre == "smollm":
        splitter = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), byte_level]
        )
    elif pre in (*LLAMA3, "qwen2"):
        pattern = QWEN2_PATTERN if pre == "qwen2" else LLAMA3_PATTERN
        splitter = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        raise UserError(
            f"{file.label} splits texts by the rule {pre!r}, which is not known: use the model's "
            "folder with tokenizer.json instead"
        )
    core = Core(models.BPE(vocabulary, merges, ignore_merges=pre in LLAMA3))
    if pre == "qwen2":
        core.normalizer = normalizers.NFC()
    core.pre_tokenizer = splitter
    core.decoder = decoders.ByteLevel()
    return core


def _sentence_pieces(file: GgufFile, data: dict[str, Any]) -> Core:
    tokens, scores = data["tokens"], data.get("scores")
    if scores is None:
        raise UserError(f"{file.label} has a vocabulary without scores: convert the model again")
    vocabulary = {name: number for number, name in enumerate(tokens)}
    unknown = data.get("unknown_token_id", 0)
    core = Core(
        models.BPE(
            vocabulary,
            _merges(vocabulary, scores),
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", SPACE)
    steps: list[decoders.Decoder] = [
        decoders.Replace(SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if data.get("add_space_prefix", True):
        core.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        core.normalizer = spaces
    core.decoder = decoders.Sequence(steps)
    return core


def _merges(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Returns the merges of a SentencePiece vocabulary.

    SentencePiece joins the neighbours whose union has the highest score, so every way to cut a
    piece in two pieces is a merge, ranked by the score of the whole.
    """
    ranked = []
    for piece, number in vocabulary.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                place = (-scores[number], vocabulary[left], vocabulary[right])
                ranked.append((place, (left, right)))
    return [merge for _, merge in sorted(ranked)]
