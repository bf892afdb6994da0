"""Our GPT-2 and transformers' GPT2LMHeadModel are one network: logits, loss and updates, in both directions."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
import transformers
from worlds import attempt, corpus, planned, tiny

from farm.errors import CheckpointInvalid
from farm.study.recipe import Model, Recipe, Train
from model import export
from model.gpt import GPT
from model.init import fingerprint, initialise
from model.optim import adamw

SWITCHES = list(product([False, True], [False, True]))
X_BT = torch.randint(0, 67, (3, 9), generator=torch.Generator().manual_seed(1))


def example(qkv_bias: bool, tie_weights: bool, **changes) -> GPT:
    shape = {"vocab": 67, "context": 9, "width": 16, "layers": 2, "heads": 2, "dropout": 0.0}
    return initialise(Model(**shape | changes, qkv_bias=qkv_bias, tie_weights=tie_weights), seed=4)


def exported(gpt: GPT, folder: Path) -> "transformers.GPT2LMHeadModel":
    export.write(gpt, folder)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(theirs, transformers.GPT2LMHeadModel)
    return theirs.train()


@pytest.mark.parametrize(("qkv_bias", "tie_weights"), SWITCHES)
def test_transformers_gives_the_same_logits_and_loss(qkv_bias, tie_weights, tmp_path):
    gpt = example(qkv_bias, tie_weights)
    theirs = exported(gpt, tmp_path)
    torch.testing.assert_close(gpt.logits(X_BT), theirs(X_BT).logits, rtol=0, atol=1e-4)
    mean = gpt(X_BT[:, :-1], X_BT[:, 1:]) / X_BT[:, 1:].numel()
    assert float(mean.detach()) == pytest.approx(float(theirs(X_BT, labels=X_BT).loss.detach()), rel=1e-5)


@pytest.mark.parametrize(("qkv_bias", "tie_weights"), SWITCHES)
def test_there_and_back_no_bit_changes(qkv_bias, tie_weights, tmp_path):
    gpt = example(qkv_bias, tie_weights)
    export.write(gpt, tmp_path)
    back = export.read(tmp_path)
    for name, weight in gpt.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
    assert back.shape.tie_weights == tie_weights


@pytest.mark.parametrize("tie_weights", [False, True])
def test_a_network_of_transformers_gives_the_same_logits_here(tie_weights, tmp_path):
    shape = {"vocab_size": 67, "n_positions": 9, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = transformers.GPT2Config(**shape, tie_word_embeddings=tie_weights, bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    theirs.save_pretrained(tmp_path)
    gpt = export.read(tmp_path).eval()
    torch.testing.assert_close(gpt.logits(X_BT), theirs(X_BT).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_one_step_of_adamw_leaves_both_with_the_same_weights(tie_weights, decay, tmp_path):
    """In float64: the gradient of a key's bias is 0, and AdamW would make a whole step of its rounding error."""
    gpt = example(True, tie_weights)
    theirs = exported(gpt, tmp_path / "before").double()
    gpt.double()
    train = Train(learning_rate=1e-3, weight_decay=0.1, decay=decay)
    spared = [p for p in theirs.parameters() if decay == "matrices" and p.dim() < 2]
    decayed = [p for p in theirs.parameters() if decay == "all" or p.dim() >= 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-3, eps=1e-8)
    ours = adamw(gpt, train)
    (gpt(X_BT[:, :-1], X_BT[:, 1:]) / X_BT[:, 1:].numel()).backward()
    ours.step()
    theirs(X_BT, labels=X_BT).loss.backward()
    optimiser.step()
    theirs.save_pretrained(tmp_path / "after")
    after = export.read(tmp_path / "after")
    for name, weight in gpt.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], weight.float(), rtol=0, atol=1e-6, msg=name)


def test_rows_that_pad_the_vocabulary_stay_at_home(tmp_path):
    gpt = example(False, False, vocab_multiple=64)
    theirs = exported(gpt, tmp_path)
    assert theirs(X_BT).logits.shape[-1] == 67
    torch.testing.assert_close(gpt.logits(X_BT), theirs(X_BT).logits, rtol=0, atol=1e-4)


def test_gpt2s_own_file_without_prefix_and_with_its_masks_is_read(tmp_path):
    from safetensors.torch import load_file, save_file

    gpt = example(True, True)
    export.write(gpt, tmp_path)
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors | {"h.0.attn.bias": torch.ones(1, 1, 9, 9).tril()}, tmp_path / "model.safetensors")
    assert fingerprint(export.read(tmp_path)) == fingerprint(gpt)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "gptj"},
        {"activation_function": "gelu"},
        {"n_inner": 5},
        {"scale_attn_by_inverse_layer_idx": True},
    ],
)
def test_a_network_that_is_not_ours_is_refused(change, tmp_path):
    export.write(example(True, True), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointInvalid, match=next(iter(change))):
        export.read(tmp_path)


def test_a_folder_without_the_right_tensors_is_refused(tmp_path):
    from safetensors.torch import save_file

    export.write(example(True, True), tmp_path)
    save_file({"wte.weight": torch.zeros(67, 16)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointInvalid, match="wpe"):
        export.read(tmp_path)
    with pytest.raises(CheckpointInvalid, match=r"config\.json"):
        export.read(tmp_path / "nowhere")


def test_a_trained_checkpoint_is_exported_as_it_is(tmp_path):
    run = tiny(corpus(tmp_path))
    outcome, _ = attempt(run, planned(run, 1), tmp_path / "run")
    checkpoint = tmp_path / "run/1" / outcome.checkpoint
    gpt = export.load_network(checkpoint, run)
    assert fingerprint(gpt) == outcome.fingerprints.final
    assert exported(gpt, tmp_path / "exported")(X_BT[:, :8]).logits.shape == (3, 8, 67)
    with pytest.raises(CheckpointInvalid, match="belongs to run"):
        export.load_network(checkpoint, run.model_copy(update={"rerun": 1}))


def test_a_folder_that_came_to_hold_something_meanwhile_is_not_replaced(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        export.export(example(True, True), Recipe(), tmp_path / "taken")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine"]


def test_every_switch_of_the_model_has_a_place_in_gpt2s_format():
    """Whoever adds one gives it a place in config.json, or has `write` refuse it; and then adds it here."""
    shape = {"vocab", "context", "width", "layers", "heads", "dropout", "tie_weights"}
    filled_with_zeros, cut_off, of_the_past = {"qkv_bias"}, {"vocab_multiple"}, {"init", "initializer"}
    assert set(Model.model_fields) == shape | filled_with_zeros | cut_off | of_the_past
