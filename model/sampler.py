"""How a model goes on from a prompt, token by token, with the keys and values of earlier positions kept.

The network is computed here piece by piece, so neither dropout nor a compiled block takes part, and nothing about the
model changes. It is what model.gpt computes, which a test compares token by token.

Letters as there: T positions, C channels, H heads, D channels of a head, V rows of the vocabulary; one sequence.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from farm.study.samples import Samples
from model.gpt import GPT, Attention, Block
from model.precision import matmuls


def sample(gpt: GPT, prompt: Sequence[int], how: Samples) -> list[int]:
    """The `how.tokens` tokens that follow `prompt`, drawn as `how` says: fewer where a prediction is not finite.

    The model reads the newest tokens, as many as its context holds. Beyond that every token moves to another position,
    which makes what was kept useless: each further one then costs a pass over a whole context.

    The draw is made on the CPU by a generator of its own, so that it touches no other and is the same on every device.
    """
    generator = Generator().manual_seed(how.seed)
    with torch.no_grad(), matmuls("fp32"):
        return list(islice(_follow(gpt, list(prompt), how, generator), how.tokens))


def _follow(gpt: GPT, tokens: list[int], how: Samples, generator: Generator) -> Iterator[int]:
    context = gpt.shape.context
    cache = Cache(gpt, min(context, len(tokens) + how.tokens))
    while True:
        fits = len(tokens) <= context
        unread = tokens[cache.length :] if fits else tokens[-context:]
        logits_V = cache.logits(unread, start=cache.length if fits else 0)
        if not logits_V.isfinite().all():
            return
        tokens.append(draw(logits_V, how, generator))
        yield tokens[-1]


def draw(logits_V: Tensor, how: Samples, generator: Generator) -> int:
    """One token by its logit: the likeliest at temperature 0, else one of the `how.top_k` likeliest, by chance."""
    if not how.temperature:
        return int(logits_V.argmax())
    likely, tokens = logits_V.double().topk(min(how.top_k, len(logits_V)))
    chances = ((likely - likely[0]) / how.temperature).softmax(dim=0)
    return int(tokens[torch.multinomial(chances, 1, generator=generator)])


class Cache:
    """The keys and values of a sequence in every block, of at most `size` positions."""

    def __init__(self, gpt: GPT, size: int):
        model, weight = gpt.shape, gpt.tokens.weight
        self._gpt = gpt
        self._kept_2HTD = weight.new_empty(model.layers, 2, model.heads, size, model.width // model.heads)
        self.length = 0

    def logits(self, tokens: Sequence[int], start: int) -> Tensor:
        """logits_V, on the CPU, of what follows `tokens`, the first of which is at position `start`.

        `start` is the end of what is kept, or 0: then nothing of that counts.
        """
        gpt, stop = self._gpt, start + len(tokens)
        x_TC = gpt.tokens(torch.tensor(tokens, device=self._kept_2HTD.device)) + gpt.positions.weight[start:stop]
        for block, kept_2HTD in zip(gpt.blocks, self._kept_2HTD, strict=True):
            assert isinstance(block, Block)
            x_TC = x_TC + _attend(block.attention, block.norm1(x_TC), kept_2HTD, start)
            x_TC = x_TC + block.mlp(block.norm2(x_TC))
        self.length = stop
        return F.linear(gpt.norm(x_TC[-1]), gpt.head_VC)[: gpt.shape.vocab].float().cpu()


def _attend(attention: Attention, x_TC: Tensor, kept_2HTD: Tensor, start: int) -> Tensor:
    """Attention of new positions to all so far; their keys and values are kept."""
    T, stop = len(x_TC), start + len(x_TC)
    q_HTD, *new_2HTD = attention.qkv(x_TC).view(T, 3, attention.heads, -1).permute(1, 2, 0, 3)
    kept_2HTD[:, :, start:stop] = torch.stack(new_2HTD)
    k_HTD, v_HTD = kept_2HTD[:, :, :stop]
    # New positions come all at once, behind none, or one by one, which may look at all.
    y_HTD = F.scaled_dot_product_attention(q_HTD[None], k_HTD[None], v_HTD[None], is_causal=T > 1)[0]
    return attention.out(y_HTD.transpose(0, 1).reshape(T, -1))
