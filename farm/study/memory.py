"""How much memory training needs, estimated. tests/model/test_trace.py compares it with a trace of the network.

Before the first run of a model on a class of GPUs a probe measures it; until then, and for machines that do not exist
yet, a plan goes by this. Where it says too little, a run ends as `out-of-memory`, and its next attempt has a smaller
microbatch.
"""

from math import log2

from farm.study.machine import Machine
from farm.study.recipe import Model, Recipe

LOGIT_BYTES = 2**29  # of logits that model.loss works on at a time on a GPU
WIDEST_FUSED_HEAD = 128  # channels, and a multiple of 8: what fused attention takes in both directions on every GPU


def bytes_needed(recipe: Recipe, machine: Machine, microbatch: int, accumulation: int = 1) -> int:
    """Estimate of the peak bytes per accelerator, an upper bound.

    Weights, gradients and Adam's two moments in float32 are 16 bytes a parameter, buffers of gradients on their way 4
    more when there are several workers, and canonical reduction one gradient buffer per level of its tree.
    """
    canonical = recipe.train.reduction == "canonical"
    buffers = 4 * (machine.accelerators > 1) + 4 * (1 + int(log2(accumulation))) * canonical
    activations = _on_cpu if machine.is_cpu else _on_gpu
    return recipe.model.parameters * (16 + buffers) + activations(recipe, microbatch)


def _on_gpu(recipe: Recipe, microbatch: int) -> int:
    """With fused attention: 40 (68) bytes per position, channel and layer at 16 (32) bits, and 24 outside the layers.

    Besides, whatever the microbatch: copies of the weights at 16 bits, the logits that are worked on at a time with
    their softmax, the gradient of the head, and those of one layer's weights on their way from 16 bits to 32.
    """
    model, size = recipe.model, _bytes(recipe)
    is_half = size == 2
    logits = min(LOGIT_BYTES, size * microbatch * model.context * model.rows)
    head = model.rows * model.width * (8 + 2 * size)
    fixed = logits * (size + 4) // size + head + 2 * model.multiplied * is_half + 32 * model.width**2
    layer = model.width * (40 if is_half else 68) + 4 * model.heads
    if not _is_fused(model):
        layer += model.heads * model.context * (9 if is_half else 13)
    return fixed + microbatch * model.context * (model.layers * layer + 24 * model.width)


def _on_cpu(recipe: Recipe, microbatch: int) -> int:
    """60 (100) bytes per position, channel and layer, 9 (13) per attention weight, 16 (12) per logit, at 16 (32) bits.

    Upper bounds for attention that materialises its weights, as on a CPU with dropout, and for logits that are whole.
    """
    model = recipe.model
    per_channel, per_weight, per_logit = (60, 9, 16) if _bytes(recipe) == 2 else (100, 13, 12)
    layer = model.context * model.width * per_channel + model.heads * model.context**2 * per_weight
    return microbatch * (model.layers * layer + model.context * model.rows * per_logit)


def least_traffic(recipe: Recipe, microbatch: int, tokens_per_step: float) -> float:
    """Bytes a token that a GPU moves at least, training `tokens_per_step` in each step.

    What is kept of a layer is written once and read once; logits pass six times, and so do weights and their gradients
    in each microbatch, at the precision of products; AdamW reads four numbers of a parameter and writes three.
    """
    model, size = recipe.model, _bytes(recipe)
    layers = model.layers * (model.width * (40 if size == 2 else 68) + 4 * model.heads)
    weights = 6 * size * model.multiplied / (microbatch * model.context)
    return 2 * layers + 6 * size * model.rows + weights + 7 * 4 * model.parameters / tokens_per_step


def _bytes(recipe: Recipe) -> int:
    """Of a number in a matrix product's result."""
    return 2 if recipe.train.precision in ("fp16", "bf16") else 4


def _is_fused(model: Model) -> bool:
    """Whether torch has an attention for GPUs that never holds the weights, at any precision."""
    channels = model.width // model.heads
    return channels % 8 == 0 and channels <= WIDEST_FUSED_HEAD
