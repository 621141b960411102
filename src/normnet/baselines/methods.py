"""The eleven methods by name: network, loss, and score of a slice.

Slices are (B, 1, size, size) in [0, 1]. Unless a method says otherwise, the score of a pixel is how
much brighter it is than its reconstruction: lesions are brighter than healthy lung.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, mse_loss

from normnet.baselines.networks import N_COMPONENTS, N_LATENT, Autoencoder, FAnoGan, Latent, Mixture
from normnet.errors import ConfigError

ALPHA = 1e-6  # weight of the KL divergence (Sec. IV-C)
RHO = 1.0  # constrained: weight of the distance in the latent space
BOX = 20 / 128  # context: side of a hidden box over the slice's
MOST_BOXES = 3
DROPOUT, N_SAMPLES = 0.2, 4  # Bayesian; the number of samples is not published
KL_KERNEL, KL_SIGMA = 7, 3.0
KL_QUANTILE = 0.999  # of the gradients in healthy lungs; this one scores 0.5
LAMBDAS = (0.5, 1.0, 1.5)  # restoration: weights of the total variation to choose from
RESTORE_PATH = 0.15  # 150 steps of 1e-3
PENALTY, N_CRITIC, KAPPA = 10.0, 5, 1.0  # f-AnoGAN
FIELD_MM, ANOGAN_FIELD_MM = 409.6, 307.2  # 512 and 384 pixels of 0.8 mm

Rng = torch.Generator
Sample = Callable[[], Tensor]
Updates = Iterator[tuple[nn.Module, Tensor]]


class Tuned(NamedTuple):
    """Values that a method needs besides its network.

    Attributes:
        value: Chosen by ``Method.tune`` on healthy slices.
        n_steps: Steps of a restoration.
    """

    value: float = 0.0
    n_steps: int = 150


@dataclass(frozen=True)
class Method:
    """One baseline.

    Attributes:
        name: In the registry.
        label: In figures and tables.
        build: From pixels per side to an untrained network.
        updates: From (network, sample, rng, finished share of the training) to parts of the
            network, each with the loss that its next step lowers; ``sample()`` gives a new batch.
        score: From (network, slices, rng, tuned) to an image that shows how the score is found
            (reconstruction, restoration or gradient), and the score in [0, 1]; both have the
            slices' shape.
        tune: From (network, healthy slices, rng, steps) to ``Tuned.value``, if it needs one.
        trained_as: The method whose network is used, if it has no own one.
        lungs_only: Slices are 0 outside the lungs; else they show all tissue in the box of the
            lungs, and air beyond it.
        field_mm: Side of the square that is seen, around the middle of the lungs.
        max_size: Largest number of pixels per side.
        n_stages: Number of trainings of ``BaselineSettings.iterations``, one after the other.
        betas: Of Adam.
        mixed: Whether it is trained in bfloat16 where the device is a GPU.
        misses: Why it does not find even a bright disk on a simple texture, if it does not.
        image_title, score_title: Titles of both results of ``score`` in Fig. 7.
    """

    name: str
    label: str
    build: Callable[[int], nn.Module]
    updates: Callable[[Any, Sample, Rng, float], Updates]
    score: Callable[[Any, Tensor, Rng, Tuned], tuple[Tensor, Tensor]]
    tune: Callable[[Any, Tensor, Rng, int], float] | None = None
    trained_as: str = ""
    lungs_only: bool = True
    field_mm: float = FIELD_MM
    max_size: int = 512
    n_stages: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    mixed: bool = True
    misses: str = ""
    image_title: str = "reconstruction"
    score_title: str = "difference map"


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ConfigError: NN-BAS-001 if there is none.
    """
    if name not in METHODS:
        raise ConfigError(
            "NN-BAS-001", f"no baseline '{name}'", "baselines", f"there are {', '.join(METHODS)}"
        )
    return METHODS[name]


def compute_l1(slices: Tensor, others: Tensor) -> Tensor:
    """Sum of the absolute differences of a slice, mean over the batch.

    The window cuts HU off: where a slice is 0, everything below 0 is right, and where it is 1,
    everything above 1. Most pixels are 0, and a network that has to hit them exactly spends its
    steps on them; it then learns black long before it learns vessels.

    Args:
        slices: (B, 1, h, w) in [0, 1].
        others: Same shape, not bounded.
    """
    beyond = ((slices <= 0) & (others < 0)) | ((slices >= 1) & (others > 1))
    return (slices - others).abs().masked_fill(beyond, 0).flatten(1).sum(1).mean()


def compute_kl(latent: Latent) -> Tensor:
    """(B,) KL divergence from the standard normal distribution, summed over the latent space."""
    mean, log_variance = (part.flatten(1) for part in latent)
    return 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1)


def draw(latent: Latent, rng: Rng) -> Tensor:
    """A point of every Gaussian."""
    noise = torch.randn(latent.mean.shape, generator=rng, device=latent.mean.device)
    return latent.mean + (latent.log_variance / 2).exp() * noise


def hide_boxes(slices: Tensor, rng: Rng) -> Tensor:
    """A copy in which one to three boxes of every slice are 0, around pixels that are not 0."""
    n, width = len(slices), slices.shape[3]
    side = max(1, round(BOX * width))
    weights = (slices.flatten(1) > 0).float() + 1e-6  # an empty slice has boxes too
    noise = torch.empty_like(weights).exponential_(generator=rng)
    centres = (weights / noise).topk(MOST_BOXES).indices  # (n, 3), drawn without replacement
    n_boxes = torch.randint(1, MOST_BOXES + 1, (n, 1), generator=rng, device=slices.device)
    pixels, boxes = (torch.arange(end, device=slices.device) for end in (width, MOST_BOXES))
    rows, columns = (
        (pixels >= start[..., None]) & (pixels < start[..., None] + side)  # (n, 3, width)
        for start in ((at - side // 2).clamp(min=0) for at in (centres // width, centres % width))
    )
    rows = rows & (boxes < n_boxes)[..., None]
    inside = (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)
    return slices.masked_fill(inside, 0)


def compute_mixture_kl(network: Mixture, latent: Latent, place: Latent, rng: Rng) -> Tensor:
    """(B,) the three divergences of a Gaussian mixture prior.

    They are those of z from its component, of w from the standard normal distribution, and of c
    from the uniform distribution.
    """
    z = draw(latent, rng)[:, None]  # (B, 1, 128)
    prior = network.components(draw(place, rng))  # (B, 9, 128)
    precision = (-prior.log_variance).exp()
    log_likelihood = -0.5 * (prior.log_variance + (z - prior.mean) ** 2 * precision).sum(2)
    log_share = log_likelihood.log_softmax(1)  # (B, 9) q(c | z, w)
    mean, log_variance = (part[:, None] for part in latent)
    ratio = log_variance - prior.log_variance
    to_component = 0.5 * (ratio.exp() + (mean - prior.mean) ** 2 * precision - 1 - ratio).sum(2)
    to_uniform = log_share + math.log(N_COMPONENTS)
    return (log_share.exp() * (to_component + to_uniform)).sum(1) + compute_kl(place)


def compute_gradient_penalty(critic: Callable[[Tensor], Tensor], slices: Tensor) -> Tensor:
    """Mean of (|gradient| - 1)^2; the norm is over all axes of a slice (Gulrajani et al. 2017)."""
    slices = slices.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(slices).sum(), slices, create_graph=True)
    penalty: Tensor = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    return penalty


def _ae_loss(network: Autoencoder, slices: Tensor, rng: Rng) -> Tensor:
    return compute_l1(slices, network.decode(network.encode(slices, rng).mean, rng))


def _vae_loss(network: Autoencoder, slices: Tensor, rng: Rng) -> Tensor:
    latent = network.encode(slices, rng)
    return (
        compute_l1(slices, network.decode(draw(latent, rng), rng))
        + ALPHA * compute_kl(latent).mean()
    )


def _context_loss(network: Autoencoder, slices: Tensor, rng: Rng) -> Tensor:
    filled = network.decode(network.encode(hide_boxes(slices, rng), rng).mean, rng)
    return _vae_loss(network, slices, rng) + compute_l1(slices, filled)


def _constrained_loss(network: Autoencoder, slices: Tensor, rng: Rng) -> Tensor:
    latent = network.encode(slices, rng)
    rebuilt = network.decode(draw(latent, rng), rng)
    distance = mse_loss(network.encode(rebuilt.clamp(0, 1), rng).mean, latent.mean)
    return compute_l1(slices, rebuilt) + ALPHA * compute_kl(latent).mean() + RHO * distance


def _mixture_loss(network: Mixture, slices: Tensor, rng: Rng) -> Tensor:
    latent, place = network.encode_both(slices, rng)
    divergence = compute_mixture_kl(network, latent, place, rng).mean()
    return compute_l1(slices, network.decode(draw(latent, rng), rng)) + ALPHA * divergence


def _lower(
    loss: Callable[[Any, Tensor, Rng], Tensor],
) -> Callable[[Any, Sample, Rng, float], Updates]:
    """The updates of a network that lowers one loss."""

    def updates(network: nn.Module, sample: Sample, rng: Rng, done: float) -> Updates:
        yield network, loss(network, sample(), rng)

    return updates


def _anogan_updates(network: FAnoGan, sample: Sample, rng: Rng, done: float) -> Updates:
    """First half: five steps of the critic (WGAN-GP), one of the generator; then the encoder."""
    critic, decode = network.critic, network.decode
    if done < 0.5:
        for _ in range(N_CRITIC):
            real = sample()
            with torch.no_grad():
                fake = decode(_noise(real, rng), rng)
            share = torch.rand((len(real), 1, 1, 1), generator=rng, device=real.device)
            penalty = compute_gradient_penalty(
                lambda x: critic(x, rng), share * real + (1 - share) * fake
            )
            yield critic, critic(fake, rng).mean() - critic(real, rng).mean() + PENALTY * penalty
        yield decode, -critic(decode(_noise(real, rng), rng), rng).mean()
    else:
        decode.eval()  # neither its weights nor its statistics change any more
        real = sample()
        rebuilt = decode(network.encode(real, rng).mean, rng)
        distance = mse_loss(critic.features(rebuilt, rng), critic.features(real, rng))
        yield network.encode, mse_loss(rebuilt, real) + KAPPA * distance


def _noise(slices: Tensor, rng: Rng) -> Tensor:
    return torch.randn((len(slices), N_LATENT), generator=rng, device=slices.device)


def _score_rebuilt(network: Any, slices: Tensor, rng: Rng, tuned: Tuned) -> tuple[Tensor, Tensor]:
    return _brighter(slices, network.decode(network.encode(slices, rng).mean, rng))


def _score_sampled(
    network: Autoencoder, slices: Tensor, rng: Rng, tuned: Tuned
) -> tuple[Tensor, Tensor]:
    """The mean over Monte-Carlo dropout."""
    rebuilt = [network.decode(network.encode(slices, rng).mean, rng) for _ in range(N_SAMPLES)]
    return _brighter(slices, torch.stack(rebuilt).mean(0))


def _brighter(slices: Tensor, rebuilt: Tensor) -> tuple[Tensor, Tensor]:
    """The reconstruction in [0, 1], and how much brighter the slices are."""
    rebuilt = rebuilt.clamp(0, 1)  # below 0 it would make black pixels bright
    return rebuilt, (slices - rebuilt).clamp(min=0)


def _kl_gradient(network: Autoencoder, slices: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """|d KL / d x|, as it is and smoothed (Zimmerer et al. 2019)."""
    with torch.enable_grad():
        slices = slices.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(compute_kl(network.encode(slices, rng)).sum(), slices)
    at = torch.arange(KL_KERNEL, device=slices.device) - KL_KERNEL // 2
    row = torch.exp(-(at**2) / (2 * KL_SIGMA**2))
    row = row / row.sum()
    gradient = gradient.abs()
    return gradient, conv2d(gradient, (row[:, None] * row)[None, None], padding=KL_KERNEL // 2)


def _tune_kl(network: Autoencoder, slices: Tensor, rng: Rng, n_steps: int) -> float:
    """The gradient that only a thousandth of the pixels of healthy lungs exceed."""
    smooth = _kl_gradient(network, slices, rng)[1][slices > 0].cpu().sort().values
    return float(smooth[int(KL_QUANTILE * (len(smooth) - 1))])


def _score_kl(
    network: Autoencoder, slices: Tensor, rng: Rng, tuned: Tuned
) -> tuple[Tensor, Tensor]:
    shown, smooth = (part / max(tuned.value, 1e-12) for part in _kl_gradient(network, slices, rng))
    return shown, (smooth / 2).clamp(0, 1)


def restore(network: Autoencoder, slices: Tensor, weight: float, n_steps: int, rng: Rng) -> Tensor:
    """Restore slices by gradient descent (You et al. 2019).

    It lowers the loss of the VAE plus ``weight`` times the total variation of the difference
    between slice and reconstruction.

    Args:
        network: Trained as ``vae``.
        slices: (B, 1, h, w).
        weight: Lambda.
        n_steps: Number of steps; together they are as long as 150 steps of 1e-3.
        rng: Not used without dropout.
    """
    restored = slices.detach().clone()
    for _ in range(n_steps):
        with torch.enable_grad():
            restored.requires_grad_()
            latent = network.encode(restored, rng)
            rest = restored - network.decode(latent.mean, rng).clamp(0, 1)
            variation = rest.diff(dim=2).abs().sum() + rest.diff(dim=3).abs().sum()
            energy = rest.abs().sum() + ALPHA * compute_kl(latent).sum() + weight * variation
            (gradient,) = torch.autograd.grad(energy, restored)
        restored = restored.detach() - RESTORE_PATH / n_steps * gradient
    return restored


def _tune_restoration(network: Autoencoder, slices: Tensor, rng: Rng, n_steps: int) -> float:
    """The weight that changes healthy slices least."""
    changes = {
        weight: compute_l1(slices, restore(network, slices, weight, n_steps, rng))
        for weight in LAMBDAS
    }
    return min(LAMBDAS, key=lambda weight: float(changes[weight]))


def _score_restored(
    network: Autoencoder, slices: Tensor, rng: Rng, tuned: Tuned
) -> tuple[Tensor, Tensor]:
    return _brighter(slices, restore(network, slices, tuned.value, tuned.n_steps, rng))


METHODS = {
    method.name: method
    for method in (
        Method(
            "ae",
            "AE",
            lambda size: Autoencoder(size, variational=False),
            _lower(_ae_loss),
            _score_rebuilt,
        ),
        Method("vae", "VAE", Autoencoder, _lower(_vae_loss), _score_rebuilt),
        Method(
            "vae-spatial",
            "VAE Spatial",
            lambda size: Autoencoder(size, spatial=True),
            _lower(_vae_loss),
            _score_rebuilt,
        ),
        Method(
            "vae-original",
            "VAE Original",
            Autoencoder,
            _lower(_vae_loss),
            _score_rebuilt,
            lungs_only=False,
        ),
        Method("context-vae", "Context VAE", Autoencoder, _lower(_context_loss), _score_rebuilt),
        Method(
            "constrained-vae",
            "Constrained VAE",
            Autoencoder,
            _lower(_constrained_loss),
            _score_rebuilt,
        ),
        Method("gmvae", "GMVAE", Mixture, _lower(_mixture_loss), _score_rebuilt),
        Method(
            "bayesian-vae",
            "Bayesian VAE",
            lambda size: Autoencoder(size, dropout=DROPOUT),
            _lower(_vae_loss),
            _score_sampled,
        ),
        Method(
            "kl-grad",
            "KL Grad",
            Autoencoder,
            _lower(_vae_loss),
            _score_kl,
            _tune_kl,
            trained_as="vae",
            misses=(
                "with a weight of 1e-6 training hardly lowers the divergence; its gradient shows"
                " where the encoder looks, not what is abnormal (AUC 0.60; 0.89 with a weight of 1)"
            ),
            image_title="gradient of the KL loss",
            score_title="smoothed",
        ),
        Method(
            "vae-restoration",
            "VAE Restoration",
            Autoencoder,
            _lower(_vae_loss),
            _score_restored,
            _tune_restoration,
            trained_as="vae",
            image_title="restoration",
        ),
        Method(
            "f-anogan",
            "f-AnoGAN",
            FAnoGan,
            _anogan_updates,
            _score_rebuilt,
            field_mm=ANOGAN_FIELD_MM,
            max_size=64,
            n_stages=2,
            betas=(0.5, 0.9),
            mixed=False,  # the gradient penalty is a derivative of a derivative
        ),
    )
}
