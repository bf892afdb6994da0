"""Our weights <-> the folder that transformers' AutoModelForCausalLM loads as a GPT2LMHeadModel, no custom code."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.errors import BadCorpus, CheckpointInvalid, FarmError
from farm.files import draft_of, place, storage_errors
from farm.study.recipe import Model, Recipe
from farm.study.run import Run
from model.checkpoint import verify
from model.corpus import gpt2, tokenizer_json
from model.corpus.tokenizer import BYTES, END_OF_BYTES, END_OF_TEXT, GPT2, of_model
from model.gpt import GPT, NORM_EPS

ACTIVATION = "gelu_new"  # what transformers calls the tanh GELU
NO_MERGES = b"#version: 0.2\n"


class TokenizerFiles(NamedTuple):
    """The tokenizer of a corpus: files that transformers' AutoTokenizer loads, or why there are none."""

    end_of_text: int | None
    files: Mapping[str, bytes]
    missing: str | None = None


class Name(NamedTuple):
    """One tensor under both names. transformers keeps the matrices of a block as [in, out], so transposed."""

    ours: str
    theirs: str
    transposed: bool = False


def export(gpt: GPT, recipe: Recipe, folder: Path) -> TokenizerFiles:
    """Write all that transformers needs into `folder`, which is then there as a whole or not at all.

    Raises: OSError: something is there already. StorageFull
    """
    found = tokenizer(recipe)
    with _draft(folder) as draft:
        write(gpt, draft, found.end_of_text)
        for name, content in found.files.items():
            (draft / name).write_bytes(content)
    return found


def load_network(checkpoint: Path, run: Run) -> GPT:
    """The network that a checkpoint of `run` holds, on the CPU.

    Raises: CheckpointInvalid: it is damaged or belongs to another run.
    """
    if (found := verify(checkpoint)["run"]) != run.digest:
        raise CheckpointInvalid(f"{checkpoint} belongs to run {found[:8]}, not to {run.digest[:8]}.")
    gpt = GPT(run.recipe.model)
    gpt.load_state_dict(load_file(checkpoint / "weights.safetensors"))
    return gpt


def newest(checkpoints: Iterable[Path], run: Run) -> tuple[Path, GPT] | None:
    """The first of `checkpoints`, which come highest step first, that is whole and of `run`, and its network."""
    for checkpoint in checkpoints:
        with suppress(CheckpointInvalid):
            return checkpoint, load_network(checkpoint, run)
    return None


def write(gpt: GPT, folder: Path, end_of_text: int | None = None) -> None:
    """Write config.json, generation_config.json and model.safetensors.

    Rows that pad the vocabulary are left out; a bias we lack is 0. `end_of_text` is the token that ends a document,
    where one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, ours = gpt.shape, gpt.state_dict()
    tensors = {name.theirs: _transpose(ours[name.ours], name) for name in _names(model) if name.ours in ours}
    for layer in range(0 if model.qkv_bias else model.layers):
        tensors[f"transformer.h.{layer}.attn.c_attn.bias"] = torch.zeros(3 * model.width)
    for embedding in tensors.keys() & {"transformer.wte.weight", "lm_head.weight"}:
        tensors[embedding] = tensors[embedding][: model.vocab].contiguous()
    ends = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    _write_json(folder / "config.json", _config(model) | ends)
    # Without max_length, pipeline() asks for 256 tokens more, and a shorter context ends in an IndexError.
    _write_json(folder / "generation_config.json", ends | {"pad_token_id": end_of_text, "max_length": model.context})
    _save(tensors, folder / "model.safetensors")
    (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)  # safetensors makes it 0600


def tokenizer(recipe: Recipe) -> TokenizerFiles:
    """The tokenizer behind the corpus that `recipe` trains on."""
    try:
        made_by = of_model(recipe)
    except BadCorpus as error:
        return TokenizerFiles(None, {}, error.message.rstrip("."))
    if isinstance(made_by, str):
        return TokenizerFiles(None, {}, made_by)
    if made_by is BYTES:
        return TokenizerFiles(made_by.end_of_text, _bpe_files(recipe.model, _byte_vocabulary(), NO_MERGES))
    return _gpt2(recipe.model) if made_by is GPT2 else _from_file(recipe)


def _gpt2(model: Model) -> TokenizerFiles:
    vocabulary, merges = gpt2.file("encoder.json"), gpt2.file("vocab.bpe")
    if vocabulary and merges:
        return TokenizerFiles(gpt2.END_OF_TEXT, _bpe_files(model, vocabulary, merges))
    fetch = ", ".join(f"{gpt2.URL}{name} to {gpt2.place(name)}" for name in gpt2.FILES)
    why = f"it is GPT-2's, whose files are not here: use AutoTokenizer.from_pretrained('gpt2'), or fetch {fetch}"
    return TokenizerFiles(gpt2.END_OF_TEXT, {}, why)


def _from_file(recipe: Recipe) -> TokenizerFiles:
    """The tokenizer.json itself, and what it leaves unsaid."""
    file = tokenizer_json.read(Path(recipe.data.tokenizer).expanduser())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": recipe.model.context}
    config |= dict.fromkeys(("bos_token", "eos_token"), file.end)
    files = {"tokenizer.json": file.content, "tokenizer_config.json": json.dumps(config, indent=2).encode() + b"\n"}
    return TokenizerFiles(file.end_of_text, files)


def read(folder: Path) -> GPT:
    """A GPT with the weights of a GPT2LMHeadModel's folder, GPT-2's own on the Hugging Face hub among them.

    Raises: CheckpointInvalid: it is not a GPT-2, or is a variant that differs from ours in more than its weights.
    """
    model = _model(folder)
    gpt = GPT(model)
    try:
        # OpenAI's files leave out the prefix; "attn.bias" is their causal mask, which is no weight.
        found = {name.removeprefix("transformer."): w for name, w in load_file(folder / "model.safetensors").items()}
        weights = {
            name.ours: _transpose(found[name.theirs.removeprefix("transformer.")].float(), name)
            for name in _names(model)
        }
        gpt.load_state_dict(weights)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise CheckpointInvalid(f"{folder}: not the tensors of a GPT2LMHeadModel: {error}.") from error
    return gpt


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder to write in that becomes `folder` in the end. The rename fails on a file, and on a folder with any."""
    draft = draft_of(folder)
    try:
        with storage_errors(folder):
            draft.mkdir(parents=True)
            yield draft
            place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # so it calls a full disk, too
        raise FarmError(f"cannot write {path.name}: {error}.") from None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _bpe_files(model: Model, vocabulary: bytes, merges: bytes) -> dict[str, bytes]:
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": model.context}
    config |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    return {
        "vocab.json": vocabulary,
        "merges.txt": merges,
        "tokenizer_config.json": json.dumps(config, indent=2).encode() + b"\n",
    }


def _byte_vocabulary() -> bytes:
    """The 256 bytes by the characters that GPT-2 writes them as, and end-of-text. Without merges, each is a token.

    A byte that prints in Latin-1 is itself; the others, in order, are U+0100 and on.
    """
    others = [byte for byte in range(256) if not chr(byte).isprintable() or chr(byte) == " "]
    characters = {byte: chr(0x100 + number) for number, byte in enumerate(others)}
    vocabulary = {characters.get(byte, chr(byte)): byte for byte in range(256)}
    return json.dumps(vocabulary | {END_OF_TEXT: END_OF_BYTES}).encode()


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


def _transpose(tensor: Tensor, name: Name) -> Tensor:
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
        "dtype": "float32",
    }


def _model(folder: Path) -> Model:
    """The shape that a config.json describes. What it leaves out has GPT-2's default."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
