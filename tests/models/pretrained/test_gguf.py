"""GGUF files: dequantised, un-permuted and equal to the folder they were made from."""

import dataclasses
import hashlib
import struct
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
from gguf.quants import dequantize, quantize

from coopgen_jax.errors import UserError
from coopgen_jax.models.pretrained.gguf.gguf_file import GgufFile
from coopgen_jax.models.pretrained.gguf.gguf_tokenizer import gguf_tokenizer
from coopgen_jax.models.pretrained.loaded_model import load
from tests.models.gguf_files import gguf_tensors, write_gguf
from tests.models.model_files import (
    FFN,
    VOCABULARY,
    WIDTH,
    hf_model,
    save,
)


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    values = gguf_tensors("llama", hf_model("llama", tie_word_embeddings=True))
    return write_gguf(tmp_path / "m.gguf", "llama", values, general__license="mit")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2"])
def test_gguf_equals_folder(family: str, tied: bool, tmp_path: Path) -> None:
    model = hf_model(family, tie_word_embeddings=tied)
    folder = load(save(model, tmp_path / "folder"))
    values = gguf_tensors(family, model)
    file = load(write_gguf(tmp_path / "m.gguf", family, values))
    jax.tree.map(np.testing.assert_array_equal, file.params, folder.params)
    assert file.config == dataclasses.replace(folder.config, norm_epsilon=1e-5)


@pytest.mark.parametrize("name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_gguf(name: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[name]
    values = gguf_tensors("qwen2", hf_model("qwen2", tie_word_embeddings=True))
    loaded = load(write_gguf(tmp_path / "m.gguf", "qwen2", values, kind))
    for part, tensor in {"down": "ffn_down", "query": "attn_q"}.items():
        original = values[f"blk.1.{tensor}.weight"]
        expected = dequantize(quantize(original, kind), kind)
        assert not np.array_equal(expected, original)
        np.testing.assert_array_equal(loaded.params["layers"][part]["kernel"][1], expected)


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K", "Q3_K", "Q2_K"])
def test_gguf_with_blocks_of_256(name: str, tmp_path: Path) -> None:
    # The package only reads these kinds, so the blocks are random bytes with small scales.
    kind = gguf.GGMLQuantizationType[name]
    rows, size = 512 // 256 * VOCABULARY, gguf.GGML_QUANT_SIZES[kind][1]
    blocks = np.random.default_rng(0).integers(0, 128, (rows, size), np.uint8)
    scales = {"Q6_K": [208], "Q3_K": [108], "Q2_K": [80, 82]}.get(name, [0, 2])
    for place in scales:
        blocks[:, place : place + 2] = np.full((rows, 1), 0.01, np.float16).view(np.uint8)
    stored = blocks.reshape(VOCABULARY, -1)
    writer = gguf.GGUFWriter(tmp_path / "k.gguf", "llama")
    writer.add_tensor("x", stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "k.gguf")
    assert file.shape("x") == (VOCABULARY, 512)
    np.testing.assert_array_equal(file.read("x"), dequantize(stored, kind))
    assert np.isfinite(file.read("x")).all() and file.read("x").std() > 0


def test_gguf_metadata(gguf_path: Path) -> None:
    loaded = load(gguf_path)
    assert loaded.sha256 == hashlib.sha256(gguf_path.read_bytes()).hexdigest()
    assert loaded.licence == "mit"
    assert loaded.config.end_tokens == (256,)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("a 12 b<|endoftext|>")) == "a 12 b"


def test_gguf_with_llama3_frequencies(tmp_path: Path) -> None:
    values = gguf_tensors("llama", hf_model("llama", tie_word_embeddings=True))
    theta, factor = 500000.0, 32.0
    divisors = []
    for place in range(4):
        wavelength = 2 * np.pi * theta ** (place / 4)
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / 3
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    values["rope_freqs.weight"] = np.array(divisors, np.float32)
    path = write_gguf(tmp_path / "m.gguf", "llama", values, llama__rope__freq_base=theta)
    scaling = dict(load(path).config.rope_scaling)
    assert scaling == {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192.0,
        "rope_type": "llama3",
    }
    values["rope_freqs.weight"][1] = 3.0
    with pytest.raises(UserError, match="rope_freqs"):
        load(write_gguf(path, "llama", values, llama__rope__freq_base=theta))


def test_gguf_linear_scaling(tmp_path: Path) -> None:
    values = gguf_tensors("llama", hf_model("llama", tie_word_embeddings=True))
    extra = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    path = write_gguf(tmp_path / "m.gguf", "llama", values, **extra)
    assert load(path).config.rope_scaling == (("factor", 4.0), ("rope_type", "linear"))
    extra["llama__rope__scaling__type"] = "yarn"
    with pytest.raises(UserError, match="'yarn'"):
        load(write_gguf(path, "llama", values, **extra))


def test_gguf_cut_anywhere_is_said_so(gguf_path: Path, tmp_path: Path) -> None:
    data = gguf_path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 600, 37), *range(600, len(data) - 1, len(data) // 20)]:
        cut.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"cut short|not a GGUF"):
            load(cut)


def test_wrong_gguf_files(gguf_path: Path, tmp_path: Path) -> None:
    data = gguf_path.read_bytes()
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"PK\3\4" + data[4:])
    with pytest.raises(UserError, match="not a GGUF file"):
        load(wrong)
    wrong.write_bytes(data[:4] + struct.pack(">I", 3) + data[8:])
    with pytest.raises(UserError, match="other byte order"):
        load(wrong)
    wrong.write_bytes(data.replace(b"m_down.weight", b"x").replace(b"smollm", b"hermit"))
    with pytest.raises(UserError, match="'hermit'"):
        load(wrong)
    values = gguf_tensors("llama", hf_model("llama", tie_word_embeddings=True))
    with pytest.raises(UserError, match=r"'falcon'.*gpt2, llama, qwen2"):
        load(write_gguf(wrong, "falcon", values))
    del values["blk.2.ffn_down.weight"]
    with pytest.raises(UserError, match=r"no tensor 'blk.2.ffn_down.weight'"):
        load(write_gguf(wrong, "llama", values))
    values["blk.2.ffn_down.weight"] = np.full((WIDTH, FFN), np.inf, np.float32)
    with pytest.raises(UserError, match=r"'blk.2.ffn_down.weight'.*not finite"):
        load(write_gguf(wrong, "llama", values))


def test_unknown_quantisation(gguf_path: Path) -> None:
    data = gguf_path.read_bytes()
    name = b"blk.1.ffn_up.weight"
    start = data.index(name) + len(name)
    assert struct.unpack_from("<IQQI", data, start) == (2, WIDTH, FFN, 0)
    broken = data[: start + 20] + struct.pack("<I", 99) + data[start + 24 :]
    gguf_path.write_bytes(broken)
    with pytest.raises(UserError, match=r"'blk.1.ffn_up.weight'.*type 99.*Q4_1"):
        load(gguf_path)


def test_sentence_piece_vocabulary(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [2, 3, 3, *[6] * 256]
    words = ["\u2581", "a", "b", "c", "ab", "bc", "\u2581a", "\u2581ab"]
    scores = [0.0] * len(pieces) + [-9.0, -8.0, -7.0, -6.0, -2.0, -1.0, -3.0, -4.0]
    writer = gguf.GGUFWriter(tmp_path / "s.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces + words)
    writer.add_token_scores(scores)
    writer.add_token_types(types + [1] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tokenizer = gguf_tokenizer(GgufFile(tmp_path / "s.gguf"))
    names = [tokenizer.core.id_to_token(number) for number in tokenizer.encode("abc cabc ab\u00e9")]
    # "bc" has the best score and is joined before "ab", whose pieces come first.
    assert names == ["\u2581a", "bc", "\u2581", "c", "a", "bc", "\u2581ab", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("abc ab\u00e9")) == "abc ab\u00e9"
    assert (tokenizer.begin_tokens, tokenizer.end_tokens) == ((1,), (2,))
