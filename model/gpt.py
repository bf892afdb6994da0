"""GPT-2, with a switch for every intervention.

Letters in the names of tensors: B sequences, T positions, C channels (width), H heads, D channels of a head,
V rows of the vocabulary, N = B * T tokens.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from farm.study.recipe import Model
from model.flex import Past
from model.kernels import Dropout, Linear, causal_attention, gelu
from model.loss import summed_loss, token_losses

NORM_EPS = 1e-5


class GPT(nn.Module):
    """Pre-norm GPT-2: learned positions, tanh GELU, fused causal attention.

    Called with tokens and targets it gives the loss; `logits` gives the predictions.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.shape = model
        self.tokens = nn.Embedding(model.rows, model.width)
        self.positions = nn.Embedding(model.context, model.width)
        self.dropout = Dropout(model.dropout)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.width, eps=NORM_EPS)
        # A tied head is no module of its own: one tensor has one name, in the weights, the optimiser and on disk.
        self.head = None if model.tie_weights else nn.Linear(model.width, model.rows, bias=False)

    @property
    def head_VC(self) -> Tensor:
        return self.tokens.weight if self.head is None else self.head.weight

    def forward(self, x_BT: Tensor, y_BT: Tensor, scale: float = 1.0) -> Tensor:
        """Sum of the cross-entropy over all targets, a float64 scalar; targets below 0 are ignored.

        `scale` is what the caller will multiply the loss by before the backward pass: it keeps half-precision
        gradients in range, and changes nothing else.
        """
        h_NC = self.hidden(x_BT).flatten(0, 1)
        return summed_loss(h_NC, self.head_VC, y_BT.flatten(), vocab=self.shape.vocab, scale=scale)

    def losses(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Cross-entropy of each target as loss_BT in float32, 0 where ignored; without gradients."""
        h_NC = self.hidden(x_BT).flatten(0, 1)
        return token_losses(h_NC, self.head_VC, y_BT.flatten(), vocab=self.shape.vocab).view_as(y_BT)

    def logits(self, x_BT: Tensor) -> Tensor:
        """logits_BTV over the real vocabulary: padding rows are left out."""
        return F.linear(self.hidden(x_BT), self.head_VC)[..., : self.shape.vocab]

    def hidden(self, x_BT: Tensor) -> Tensor:
        """The input of the head: the normalised residual stream, h_BTC."""
        T = x_BT.shape[1]
        x_BTC = self.dropout(self.tokens(x_BT) + self.positions.weight[:T])
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return self.norm(x_BTC)


class Block(nn.Module):
    """Attention, then the MLP, each on a normalised copy and added to the residual stream."""

    def __init__(self, model: Model):
        super().__init__()
        self.norm1 = nn.LayerNorm(model.width, eps=NORM_EPS)
        self.attention = Attention(model)
        self.norm2 = nn.LayerNorm(model.width, eps=NORM_EPS)
        self.mlp = MLP(model)
        self.dropout = Dropout(model.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.dropout(self.attention(self.norm1(x_BTC)))
        return x_BTC + self.dropout(self.mlp(self.norm2(x_BTC)))


class Attention(nn.Module):
    """Causal self-attention. `qkv` holds the query, key and value projections, in that order."""

    def __init__(self, model: Model):
        super().__init__()
        self.heads, self.dropout = model.heads, model.dropout
        self.qkv = Linear(model.width, 3 * model.width, bias=model.qkv_bias)
        self.out = Linear(model.width, model.width)
        self.past: Past | None = None  # where FlexAttention computes

    def forward(self, x_BTC: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return self.out(causal_attention(self.qkv(x_BTC), self.heads, dropout, self.past))


class MLP(nn.Module):
    """Four times as wide inside, tanh GELU."""

    def __init__(self, model: Model):
        super().__init__()
        self.up = Linear(model.width, 4 * model.width)
        self.down = Linear(4 * model.width, model.width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.down(gelu(self.up(x_BTC)))
