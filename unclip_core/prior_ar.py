"""The autoregressive prior P(z_i | y) (paper section 2.2): z_i as a sequence of quantised principal components.

PCA orders z_i's components by falling eigenvalue; the first N are each quantised into 1,024 buckets over their own
range and predicted one after another by a causal Transformer. Its prefix is the encoded caption, z_t, and a token for
the quantised dot product z_i . z_t, which at sampling is drawn from the top half of its distribution.

Letters: B rows, D embedding width, L caption tokens, W their width, N codes, S = L + 2 + N sequence, E Transformer
width, V buckets, R the sampled rows (captions x samples each).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.clip import TextFeatures
from unclip_core.latents import PCA
from unclip_core.layers import KeysValues, TransformerBlock, timestep_embedding
from unclip_core.sampling import PictureNoise, SampleStep


@dataclass(frozen=True)
class ARPriorConfig:
    """n_codes: principal components kept; buckets: values of each; dot_buckets: values of the dot-product token."""

    embed_dim: int
    text_width: int
    context_length: int
    n_codes: int
    width: int = 384
    layers: int = 8
    heads: int = 6
    buckets: int = 1024
    dot_buckets: int = 64
    # Spread of the training target over neighbouring buckets, in buckets; 0 is the paper's plain cross-entropy.
    smoothing: float = 0.0


class ARPrior(nn.Module):
    def __init__(self, config: ARPriorConfig):
        super().__init__()
        if not 1 <= config.n_codes <= config.embed_dim:
            raise ValueError("n_codes must lie between 1 and the embedding width")
        self.config = config
        self.text_in = nn.Linear(config.text_width, config.width)
        self.pooled_in = nn.Linear(config.embed_dim, config.width)
        self.dot_in = nn.Embedding(config.dot_buckets + 1, config.width)  # the last row: no caption, so no dot product
        self.code_in = nn.Embedding(config.buckets, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.context_length + 2 + config.n_codes, config.width))
        self.null_text = nn.Parameter(0.02 * torch.randn(config.width))
        self.null_pooled = nn.Parameter(0.02 * torch.randn(config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.width // config.heads) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.buckets)
        # Sinusoids, so that neighbouring buckets begin alike, those too that training never meets.
        for table in (self.dot_in, self.code_in):
            table.weight.data.copy_(0.1 * timestep_embedding(torch.arange(len(table.weight)), config.width))
        # Set by `fit`.
        self.register_buffer("pca_mean", torch.zeros(1, config.embed_dim))
        self.register_buffer("pca_components", torch.eye(config.embed_dim)[: config.n_codes].clone())  # [N, D]
        self.register_buffer("code_low", torch.full((config.n_codes,), -1.0))
        self.register_buffer("code_high", torch.full((config.n_codes,), 1.0))
        self.register_buffer("dot_edges", torch.linspace(-1, 1, config.dot_buckets + 1)[1:-1].clone())

    # ---- z_i <-> codes ----

    @torch.no_grad()
    def fit(self, z_i: Tensor, z_t: Tensor) -> None:
        """The PCA, each code's range and the dot product's buckets from pairs z_i, z_t [M, D], before training."""
        pca = PCA.fit(z_i)
        self.pca_mean.copy_(pca.mean.reshape(1, -1))
        self.pca_components.copy_(pca.components[: self.config.n_codes])
        coordinates = (z_i.float() - self.pca_mean) @ self.pca_components.T  # [M, N]
        self.code_low.copy_(coordinates.amin(0))
        self.code_high.copy_(coordinates.amax(0).maximum(self.code_low + 1e-6))
        # Equally filled buckets, so that "the top half of the distribution" is the upper half of the bucket numbers.
        steps = torch.arange(1, self.config.dot_buckets, device=z_i.device) / self.config.dot_buckets
        self.dot_edges.copy_(torch.quantile((z_i * z_t).sum(1).float(), steps))

    def encode(self, z_i: Tensor) -> Tensor:
        """z_i [B, D] -> codes [B, N] int64 in 0..V-1."""
        coordinates = (z_i.float() - self.pca_mean) @ self.pca_components.T
        share = (coordinates - self.code_low) / (self.code_high - self.code_low)
        return (share * self.config.buckets).long().clamp(0, self.config.buckets - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, n <= N] -> z_i [B, D] from the buckets' centres; the components left out stay at their mean."""
        n = codes.shape[1]
        share = (codes.float() + 0.5) / self.config.buckets
        coordinates = self.code_low[:n] + share * (self.code_high - self.code_low)[:n]
        return self.pca_mean + coordinates @ self.pca_components[:n]

    # ---- the sequence ----

    def _prefix(self, text: TextFeatures, dot: Tensor, drop: Tensor) -> tuple[Tensor, Tensor]:
        """-> (tokens [B, L + 2, E], which of them exist [B, L + 2]). drop [B] bool: rows without a caption."""
        batch, length, _ = text.tokens.shape
        first = torch.zeros_like(text.mask)
        first[:, 0] = True
        drop_token = drop[:, None, None]
        tokens = torch.where(drop_token & first[..., None], self.null_text, self.text_in(text.tokens))
        tokens = tokens + self.position[:length]
        exists = torch.where(drop[:, None], first, text.mask)
        # Embeddings of unit length are brought to entries of about unit size.
        pooled = self.pooled_in(F.normalize(text.pooled.float(), dim=-1) * self.config.embed_dim**0.5)
        pooled = torch.where(drop[:, None], self.null_pooled, pooled)[:, None]
        dot = self.dot_in(torch.where(drop, self.config.dot_buckets, dot))[:, None]
        ends = torch.cat([pooled, dot], dim=1) + self.position[self.config.context_length :][:2]
        return torch.cat([tokens, ends], dim=1), torch.cat([exists, exists.new_ones(batch, 2)], dim=1)

    def _code_tokens(self, codes: Tensor, start: int = 0) -> Tensor:
        """Codes [B, n] that stand at start..start+n-1 -> tokens [B, n, E]."""
        at = self.config.context_length + 2 + start
        return self.code_in(codes) + self.position[at : at + codes.shape[1]]

    def forward(self, codes: Tensor, text: TextFeatures, dot: Tensor, drop: Tensor) -> Tensor:
        """codes [B, N], dot [B] bucket numbers, drop [B] bool -> logits [B, N, V], each from what stands before it."""
        prefix, exists = self._prefix(text, dot, drop)
        x = torch.cat([prefix, self._code_tokens(codes[:, :-1])], dim=1)  # [B, L + 1 + N, E]
        exists = F.pad(exists, (0, codes.shape[1] - 1), value=True)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        mask = (causal & exists[:, None])[:, None]
        for block in self.blocks:
            x, _ = block(x, mask)
        return self.head(self.norm(x[:, prefix.shape[1] - 1 :]))

    def loss(
        self, z_i: Tensor, text: TextFeatures, generator: torch.Generator | None = None, drop: float = 0.1
    ) -> Tensor:
        """Cross-entropy a code, in nats. z_i [B, D]; the caption, z_t and the dot product are dropped together."""
        codes = self.encode(z_i)
        dot = torch.bucketize((z_i * text.pooled).sum(1).float(), self.dot_edges)
        place = generator.device if generator is not None else z_i.device
        dropped = torch.rand(len(z_i), generator=generator, device=place).to(z_i.device) < drop
        logits = self(codes, text, dot, dropped).float()
        if self.config.smoothing == 0:
            return F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        offsets = torch.arange(self.config.buckets, device=codes.device) - codes[..., None]  # [B, N, V]
        soft = torch.softmax(-0.5 * (offsets / self.config.smoothing) ** 2, dim=-1)
        return -(soft * logits.log_softmax(-1)).sum(-1).mean()

    # ---- sampling ----

    @torch.no_grad()
    def sample(
        self, text: TextFeatures, n: int, guidance: float, noise: PictureNoise, temperature: float = 1.0
    ) -> Tensor:
        """-> z_i [B*n, D], row b*n+j caption b, sample j. noise holds one stream for each row."""
        for step in self.sample_steps(text, n, guidance, noise, temperature):
            pass
        return step.x

    @torch.no_grad()
    def sample_steps(
        self, text: TextFeatures, n: int, guidance: float, noise: PictureNoise, temperature: float = 1.0
    ) -> Iterator[SampleStep]:
        """Yields after every code: the codes so far decoded as z_i [B*n, D], the rest at their mean."""
        text = TextFeatures(*(part.repeat_interleave(n, 0) for part in text))
        rows, total = len(text.pooled), self.config.n_codes
        # One uniform draw a token, from the row's own stream; inverse-CDF sampling turns rounding differences between
        # batch sizes into the neighbouring bucket instead of another draw.
        draws = torch.special.ndtr(noise((total + 1,)).double()).to(text.pooled.device)  # [R, N + 1]
        half = self.config.dot_buckets // 2
        dot = half + (draws[:, 0] * (self.config.dot_buckets - half)).long().clamp(
            max=self.config.dot_buckets - half - 1
        )
        predict = self._cached(text, dot, guided=guidance != 1.0)
        codes = torch.empty(rows, 0, dtype=torch.long, device=text.pooled.device)
        for index in range(total):
            logits = predict(codes).float()
            if guidance != 1.0:
                wanted, null = logits.chunk(2)
                logits = null + guidance * (wanted - null)
            cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)  # [R, V]
            code = torch.searchsorted(cumulative, draws[:, index + 1 : index + 2] * cumulative[:, -1:])
            codes = torch.cat([codes, code.clamp(max=self.config.buckets - 1)], dim=1)
            z_i = self.decode(codes)
            yield SampleStep(index, total, z_i, z_i)

    def _cached(self, text: TextFeatures, dot: Tensor, guided: bool) -> Callable[[Tensor], Tensor]:
        """-> predict(codes [R, n]) -> logits [R or 2R, V] of code n; each call sees one code more than the last.

        guided: a second half of rows without captions runs in the same batch.
        """
        drop = torch.zeros(len(dot), dtype=torch.bool, device=dot.device)
        if guided:
            text = TextFeatures(*(torch.cat([part, part]) for part in text))
            dot, drop = torch.cat([dot, dot]), torch.cat([drop, ~drop])
        prefix, exists = self._prefix(text, dot, drop)
        start = prefix.shape[1]
        exists = F.pad(exists, (0, self.config.n_codes), value=True)  # [R, S]
        past: list[KeysValues | None] = [None] * len(self.blocks)

        def predict(codes: Tensor) -> Tensor:
            if codes.shape[1] == 0:
                x = prefix
                causal = torch.ones(start, start, dtype=torch.bool, device=x.device).tril()
                mask = (causal & exists[:, None, :start])[:, None]
            else:
                last = codes[:, -1:].repeat(2 if guided else 1, 1)
                x = self._code_tokens(last, codes.shape[1] - 1)  # [R, 1, E]
                mask = exists[:, None, None, : start + codes.shape[1]]
            for layer, block in enumerate(self.blocks):
                x, past[layer] = block(x, mask, past[layer])
            return self.head(self.norm(x[:, -1]))

        return predict
