"""Our weights <-> the folder that transformers' AutoModelForCausalLM loads as a GPT2LMHeadModel, no custom code."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.errors import CheckpointInvalid
from farm.recipe import Model
from farm.run import Run
from model.checkpoint import verified
from model.gpt import GPT, NORM_EPS

ACTIVATION = "gelu_new"  # what transformers calls the tanh GELU


class Name(NamedTuple):
    """One tensor under both names. transformers keeps the matrices of a block as [in, out], so transposed."""

    ours: str
    theirs: str
    transposed: bool = False


def trained(checkpoint: Path, run: Run) -> GPT:
    """The network that a checkpoint of `run` holds, on the CPU.

    Raises: CheckpointInvalid: it is damaged or belongs to another run.
    """
    if (found := verified(checkpoint)["run"]) != run.digest:
        raise CheckpointInvalid(f"{checkpoint} belongs to run {found[:8]}, not to {run.digest[:8]}.")
    gpt = GPT(run.recipe.model)
    gpt.load_state_dict(load_file(checkpoint / "weights.safetensors"))
    return gpt


def write(gpt: GPT, folder: Path) -> None:
    """Write config.json and model.safetensors. Rows that pad the vocabulary are left out; a bias we lack is 0."""
    folder.mkdir(parents=True, exist_ok=True)
    model, ours = gpt.shape, gpt.state_dict()
    tensors = {name.theirs: _turned(ours[name.ours], name) for name in _names(model) if name.ours in ours}
    for layer in range(0 if model.qkv_bias else model.layers):
        tensors[f"transformer.h.{layer}.attn.c_attn.bias"] = torch.zeros(3 * model.width)
    for embedding in tensors.keys() & {"transformer.wte.weight", "lm_head.weight"}:
        tensors[embedding] = tensors[embedding][: model.vocab].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config(model), indent=2) + "\n")


def read(folder: Path) -> GPT:
    """A GPT with the weights of a GPT2LMHeadModel's folder, GPT-2's own on the Hugging Face hub among them.

    Raises: CheckpointInvalid: it is no GPT-2, or a variant that differs from ours in more than its weights.
    """
    model = _model(folder)
    # OpenAI's files leave out the prefix; "attn.bias" is their causal mask, which is no weight.
    found = {name.removeprefix("transformer."): w for name, w in load_file(folder / "model.safetensors").items()}
    gpt = GPT(model)
    try:
        weights = {
            name.ours: _turned(found[name.theirs.removeprefix("transformer.")].float(), name) for name in _names(model)
        }
        gpt.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise CheckpointInvalid(f"{folder}: not the tensors of a GPT2LMHeadModel: {error}.") from error
    return gpt


def _names(model: Model) -> Iterator[Name]:
    """Every tensor of a network with biases, in our order."""
    yield Name("tokens.weight", "transformer.wte.weight")
    yield Name("positions.weight", "transformer.wpe.weight")
    layers = {
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for i in range(model.layers):
        for ours, theirs in {"norm1": "ln_1", "norm2": "ln_2", **layers}.items():
            yield Name(f"blocks.{i}.{ours}.weight", f"transformer.h.{i}.{theirs}.weight", transposed=ours in layers)
            yield Name(f"blocks.{i}.{ours}.bias", f"transformer.h.{i}.{theirs}.bias")
    yield Name("norm.weight", "transformer.ln_f.weight")
    yield Name("norm.bias", "transformer.ln_f.bias")
    if not model.tie_weights:
        yield Name("head.weight", "lm_head.weight")


def _turned(tensor: Tensor, name: Name) -> Tensor:
    return tensor.T.contiguous() if name.transposed else tensor


def _config(model: Model) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab,
        "n_positions": model.context,
        "n_embd": model.width,
        "n_layer": model.layers,
        "n_head": model.heads,
        "activation_function": ACTIVATION,
        "layer_norm_epsilon": NORM_EPS,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.dropout,
        "resid_pdrop": model.dropout,
        "tie_word_embeddings": model.tie_weights,
        "bos_token_id": model.vocab - 1,  # <|endoftext|>, the last token of GPT-2's vocabulary and of the built-in one
        "eos_token_id": model.vocab - 1,
        "dtype": "float32",
    }


def _model(folder: Path) -> Model:
    """The shape that a config.json describes. What it leaves out has GPT-2's default."""
    try:
        config = json.loads((folder / "config.json").read_text())
        _check_variant(folder, config)
        return Model(
            vocab=config["vocab_size"],
            context=config["n_positions"],
            width=config["n_embd"],
            layers=config["n_layer"],
            heads=config["n_head"],
            dropout=config.get("resid_pdrop", 0.1),
            qkv_bias=True,
            tie_weights=config.get("tie_word_embeddings", True),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointInvalid(f"{folder}: not the config of a GPT-2: {error}.") from error


def _check_variant(folder: Path, config: Mapping[str, Any]) -> None:
    ours = {
        "model_type": "gpt2",
        "activation_function": ACTIVATION,
        "layer_norm_epsilon": NORM_EPS,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    for key, value in ours.items():
        if config.get(key, value) != value:
            raise CheckpointInvalid(f"{folder}: {key} is {config[key]!r}, and this GPT-2 has {value!r}.")
    inner = config.get("n_inner")
    if inner not in (None, 4 * config["n_embd"]):
        raise CheckpointInvalid(f"{folder}: n_inner is {inner}, and this GPT-2 has {4 * config['n_embd']}.")
