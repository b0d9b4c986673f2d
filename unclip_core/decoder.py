"""The decoder P(x | z_i, y) at 64 px (paper section 2.1): a UNet conditioned on a CLIP image embedding and a caption.

z_i enters twice: projected and added to the timestep embedding, and projected into four context tokens that stand
beside the projected caption tokens. In training a learned null replaces z_i 10% and the caption 50% of the time.

Letters: B pictures, C = 3 colours, H x W pixels, D embedding width, L caption tokens, W their width, K image tokens,
X the UNet's context width. Pictures lie in [-1, 1]; z_i is CLIP's image embedding, float32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.clip import TextFeatures
from unclip_core.denoiser import Denoise, guided_batch, guided_between, make_denoiser
from unclip_core.errors import PackError
from unclip_core.latents import PCA
from unclip_core.objective import diffusion_loss
from unclip_core.sampling import Noise, SampleStep, invert, run_sampler
from unclip_core.schedule import NoiseSchedule
from unclip_core.unet import UNet, UNetConfig

DROP_IMAGE, DROP_TEXT = 0.1, 0.5  # paper section 2.1
NOISE = 0.02  # variance of a z_i about an embedding that was learned: their cosine is about 0.98
FLOOR = 3e-4  # share of the variance at which whitening has half of its effect


@dataclass(frozen=True)
class DecoderConfig:
    """embed_dim D and text_width W are CLIP's; unet.context_width X must be set. whiten: z_i comes in as its principal
    components, each of about unit spread, instead of D standardised entries (see `fit`). guided: from which noise level
    to which, in shares of the schedule's T, guidance acts (Kynkäänniemi et al. 2404.07724): what a picture shows is
    decided there; elsewhere guidance costs a pass and variety. known: how many embeddings of pictures it learned on the
    decoder keeps; pull: how far z_i is moved towards them (see `Decoder.pulled`)."""

    unet: UNetConfig
    embed_dim: int
    text_width: int
    image_tokens: int = 4
    whiten: bool = False
    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule("cosine"))
    predicts: str = "v"
    image_size: int = 64
    guided: tuple[float, ...] = (0.0, 1.0)
    known: int = 0
    pull: float = 0.0

    def __post_init__(self) -> None:
        if len(self.guided) != 2 or not 0 <= self.guided[0] < self.guided[1] <= 1:
            raise PackError(f"guided is two shares of the noise levels, the lower first, not {list(self.guided)}.")
        if not 0 <= self.pull <= 1 or self.known < bool(self.pull):
            raise PackError(f"pull is a share from 0 to 1, and above 0 needs known embeddings, not {self.pull}.")


def _summed(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer, frozen and on a CPU summed in float64: its float32 sums depend on the batch in their last bit,
    and a bit is enough to part two bfloat16 pictures visibly."""
    if x.device.type != "cpu" or layer.weight.requires_grad:
        return layer(x)
    return F.linear(x.double(), layer.weight.double(), layer.bias.double()).to(x.dtype)


class Decoder(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        context_width = config.unet.context_width
        if context_width is None:
            raise ValueError("the decoder's UNet needs a context width")
        self.config = config
        self.unet = UNet(config.unet)
        self.image_to_time = nn.Linear(config.embed_dim, config.unet.time_width)
        self.image_to_tokens = nn.Linear(config.embed_dim, config.image_tokens * context_width)
        self.text_to_context = nn.Linear(config.text_width, context_width)
        self.text_norm = nn.LayerNorm(context_width)
        self.null_image = nn.Parameter(torch.zeros(config.embed_dim))
        self.null_text = nn.Parameter(0.02 * torch.randn(config.text_width))
        # Until `fit`, unit vectors are brought to entries of unit variance.
        self.register_buffer("clip_mean", torch.zeros(1, config.embed_dim))
        self.register_buffer("clip_std", torch.full((1, config.embed_dim), config.embed_dim**-0.5))
        if config.whiten:
            self.register_buffer("clip_basis", torch.eye(config.embed_dim))
        if config.known:
            self.register_buffer("z_i_known", torch.zeros(config.known, config.embed_dim))

    @torch.no_grad()
    def fit(self, z_i: Tensor) -> None:
        """Take the mean and spread of CLIP image embeddings z_i [N, D]; call once, before training.

        To whiten: a small CLIP's embeddings have nearly all of their variance in a few directions, and what tells two
        drawings of one kind apart lies in others that the network would hardly see. Components that hold less than
        FLOOR of the variance rise with their share of it, so that noise is not raised to unit spread.
        """
        self.clip_mean.copy_(z_i.mean(0, keepdim=True))
        if not self.config.whiten:
            self.clip_std.copy_(z_i.std(0, keepdim=True).clamp(min=1e-6))
            return
        pca = PCA.fit(z_i)
        share = pca.explained.diff(prepend=pca.explained.new_zeros(1)).clamp(min=0)  # [D]
        total = z_i.double().var(0).sum().float()
        self.clip_std.copy_((total * (share + FLOOR)).sqrt())
        self.clip_basis.copy_(pca.components.to(torch.bfloat16))  # as a pack stores it

    def pulled(self, z_i: Tensor) -> Tensor:
        """z_i [B, D] -> [B, D] of the same lengths: `pull` of the way towards what is to be expected of it, were it one
        of the known embeddings seen through noise of variance NOISE: their mean, weighted by how likely each is (the
        ideal denoiser, Karras et al. 2206.00364, appendix B.3). A z_i that was learned stays where it is. One of an
        unseen drawing holds things that no picture has taught the decoder to draw, and loses some of them.
        """
        if not self.config.pull:
            return z_i
        own, known = F.normalize(z_i.to(self.z_i_known), dim=-1), self.z_i_known
        # Row by row: a batch's sums depend on its size in their last bit.
        expected = torch.stack([torch.softmax(known @ row / NOISE, dim=0) @ known for row in own])
        moved = F.normalize(torch.lerp(own, expected, self.config.pull), dim=-1)
        return moved.to(z_i) * z_i.norm(dim=-1, keepdim=True)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        z_i: Tensor | None,
        text: TextFeatures | None,
        drop_image: Tensor | None = None,
        drop_text: Tensor | None = None,
    ) -> Tensor:
        """x [B, 3, H, W] noised, t [B] -> raw prediction [B, 3, H, W].

        None for z_i or text means the learned null; drop_image and drop_text [B] bool put it in some rows.
        """
        return self.unet(x, t, *self.condition(z_i, text, len(x), drop_image, drop_text))

    def condition(
        self,
        z_i: Tensor | None,
        text: TextFeatures | None,
        batch: int | None = None,
        drop_image: Tensor | None = None,
        drop_text: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> (added to the timestep embedding [B, time_width], context [B, K + L, X], its mask [B, K + L])."""
        batch = batch or len(z_i if z_i is not None else text.tokens)
        image = self._image_rows(z_i, batch, drop_image)  # [B, D]
        tokens, mask = self._text_rows(text, batch, drop_text)  # [B, L, W], [B, L]
        image_tokens = _summed(self.image_to_tokens, image).reshape(batch, self.config.image_tokens, -1)  # [B, K, X]
        text_tokens = self.text_norm(_summed(self.text_to_context, tokens.to(image)))  # [B, L, X]
        context = torch.cat([image_tokens.to(text_tokens), text_tokens], dim=1)
        mask = torch.cat([mask.new_ones(batch, self.config.image_tokens), mask], dim=1)
        return _summed(self.image_to_time, image), context, mask

    def _image_rows(self, z_i: Tensor | None, batch: int, drop: Tensor | None) -> Tensor:
        """Standardised (or whitened) embeddings [B, D], the learned null where there is none or it is dropped."""
        null = self.null_image.expand(batch, -1)
        if z_i is None:
            return null
        image = z_i - self.clip_mean
        if self.config.whiten:
            wide = torch.float32 if image.device.type == "mps" else torch.float64  # small components count too
            image = image.to(wide) @ self.clip_basis.to(wide).T
        image = (image / self.clip_std).to(null)
        return image if drop is None else torch.where(drop[:, None], null, image)

    def _text_rows(self, text: TextFeatures | None, batch: int, drop: Tensor | None) -> tuple[Tensor, Tensor]:
        """Caption tokens [B, L, W] and mask [B, L]; a missing or dropped caption is one learned token."""
        null = self.null_text.expand(batch, 1, -1)
        if text is None:
            return null, torch.ones(batch, 1, dtype=torch.bool, device=null.device)
        if drop is None:
            return text.tokens, text.mask
        tokens, mask = text.tokens.to(null), text.mask
        first = torch.zeros_like(mask)
        first[:, 0] = True
        tokens = torch.where(drop[:, None, None] & first[..., None], null, tokens)
        return tokens, torch.where(drop[:, None], first, mask)

    def denoiser(
        self,
        z_i: Tensor | None,
        text: TextFeatures | None,
        guidance: float = 1.0,
        clip: float | None = 1.0,
        pull: bool = True,
    ) -> Denoise:
        """Classifier-free guidance against (null z_i, null caption), at the noise levels `config.guided` between; at
        guidance 1 that half is never run.

        Both halves go through the network in one batch, and what depends on z_i and the caption is made once.
        clip bounds x0; inversion wants None. pull: False takes z_i as it is, where it is no image embedding but z_t.
        """
        conditions = self.condition(self.pulled(z_i) if pull and z_i is not None else z_i, text)
        network = plain = self._conditioned(*conditions)
        if guidance != 1.0:
            time_extra, context, mask = conditions
            null_time, null_context, null_mask = self.condition(None, None, len(context))
            short = (0, context.shape[1] - null_context.shape[1])
            both = self._conditioned(
                torch.cat([time_extra, null_time]),
                torch.cat([context, F.pad(null_context, (0, 0, *short))]),
                torch.cat([mask, F.pad(null_mask, short)]),
            )
            network = guided_between(
                guided_batch(both, guidance), plain, self.config.schedule.steps, *self.config.guided
            )
        return make_denoiser(network, self.config.schedule, self.config.predicts, clip)

    def _conditioned(self, time_extra: Tensor, context: Tensor, mask: Tensor) -> Denoise:
        """The UNet with its condition prepared: (x, t) -> raw output."""
        dtype = self.unet.conv_in.weight.dtype  # conditioning is float32; the UNet may not be
        time_extra, prepared = time_extra.to(dtype), self.unet.prepare_context(context.to(dtype), mask)
        return lambda x, t: self.unet(x, t, time_extra, prepared)

    def sample_steps(
        self,
        z_i: Tensor | None,
        text: TextFeatures | None,
        x_T: Tensor,
        *,
        guidance: float,
        steps: int,
        sampler: str = "ddim",
        eta: float = 0.0,
        noise: Noise | None = None,
        clip: float | None = 1.0,
        pull: bool = True,
    ) -> Iterator[SampleStep]:
        """From noise x_T [B, 3, H, W] to pictures, one yield a step; the last step's x is the result.

        noise gives the fresh noise that ddpm, and ddim with eta > 0, ask for. clip bounds x0; None is the way back of
        an inversion, by the times it came by. pull: see `denoiser`.
        """
        schedule = self.config.schedule
        denoise = self.denoiser(z_i, text, guidance, clip, pull)
        return run_sampler(sampler, denoise, x_T, schedule.times(steps, even=clip is None), schedule, eta, noise)

    def invert_steps(
        self, x0: Tensor, z_i: Tensor, text: TextFeatures | None, *, steps: int, refine: int = 0
    ) -> Iterator[SampleStep]:
        """DDIM inversion (paper section 3) of pictures x0 [B, 3, H, W]; the last step's x is x_T.

        Without guidance and clipping, as the way back must be: decode with guidance 1, clip None, as many ddim steps.
        """
        schedule = self.config.schedule
        return invert(self.denoiser(z_i, text, clip=None), x0, schedule.times(steps, even=True), schedule, refine)

    def loss(
        self,
        x: Tensor,
        z_i: Tensor,
        text: TextFeatures,
        generator: torch.Generator | None = None,
        weighting: str = "flat",
        extra: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """x [B, 3, H, W] true pictures -> float32 scalar. weighting, extra: see objective.diffusion_loss."""
        place = generator.device if generator is not None else x.device
        draws = torch.rand(2, len(x), generator=generator, device=place).to(x.device)
        condition = self.condition(z_i, text, len(x), draws[0] < DROP_IMAGE, draws[1] < DROP_TEXT)
        return diffusion_loss(
            lambda noised, t: self.unet(noised, t, *condition),
            x,
            self.config.schedule,
            self.config.predicts,
            generator,
            weighting,
            extra,
        )
