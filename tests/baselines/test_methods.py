"""Every method's losses and scores, with values worked out by hand where there are any."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from normnet.baselines import methods
from normnet.baselines.methods import METHODS, Tuned, find_method
from normnet.baselines.networks import Autoencoder, FAnoGan, Latent, Mixture
from normnet.errors import ConfigError


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def slices(rng):
    return torch.rand((3, 1, 32, 32), generator=rng)


def build(network, *args, **kwargs):
    torch.manual_seed(0)
    return network(*args, **kwargs).eval()


def test_registry():
    assert len(METHODS) == 11
    assert all(method.trained_as in ("", "vae") for method in METHODS.values())
    assert [method.name for method in METHODS.values() if method.trained_as] == [
        "kl-grad",
        "vae-restoration",
    ]
    assert [method.name for method in METHODS.values() if not method.lungs_only] == ["vae-original"]
    with pytest.raises(ConfigError, match="NN-BAS-001"):
        find_method("pca")


def test_l1_is_summed_over_a_slice():
    assert methods.compute_l1(torch.ones(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)) == 64


def test_l1_counts_nothing_beyond_the_window():
    """Below 0 where a slice is 0, above 1 where it is 1; a bright pixel still pulls upwards."""
    slices = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5, 0.5]).view(1, 1, 2, 3)
    others = torch.tensor([-3.0, 0.25, 4.0, 0.5, -1.0, 2.0]).view(1, 1, 2, 3).requires_grad_()
    loss = methods.compute_l1(slices, others)
    loss.backward()
    assert float(loss.detach()) == 0.25 + 0.5 + 1.5 + 1.5
    assert others.grad.flatten().tolist() == [0, 1, 0, -1, -1, 1]


def test_kl():
    """0 for the standard normal; else (m^2 + s^2 - log s^2 - 1) / 2 per number, here 6 of them."""
    zeros = torch.zeros(2, 3, 2)
    assert not methods.compute_kl(Latent(zeros, zeros)).any()
    latent = Latent(zeros + 2, zeros + torch.tensor(4.0).log())
    expected = 6 * (4 + 4 - torch.tensor(4.0).log() - 1) / 2
    assert methods.compute_kl(latent).tolist() == pytest.approx([float(expected)] * 2)


def test_width_of_what_is_drawn(rng):
    """The standard deviation is exp(log variance / 2), once."""
    zeros = torch.zeros(1, 200_000)
    assert float(
        methods.draw(Latent(zeros, zeros + torch.tensor(9.0).log()), rng).std()
    ) == pytest.approx(3, rel=0.01)


def test_mixture_kl(rng):
    """Nine equal standard normal components are one: the divergence of z and w from it is left."""
    network = build(Mixture, 32)
    nn.init.zeros_(network.prior.weight)
    nn.init.zeros_(network.prior.bias)
    latent = Latent(torch.full((2, 128), 0.5), torch.full((2, 128), -1.0))
    place = Latent(torch.ones(2, 1), torch.zeros(2, 1))
    expected = methods.compute_kl(latent) + 0.5
    assert torch.allclose(
        methods.compute_mixture_kl(network, latent, place, rng), expected, rtol=1e-4
    )


def test_mixture_kl_of_components_apart(rng):
    """A z that fits one of nine: its divergence from that one is 0, of c from uniform log 9."""
    network = build(Mixture, 32)
    nn.init.zeros_(network.prior.weight)
    with torch.no_grad():
        bias = network.prior.bias.view(2, 9, 128)
        bias[0] = torch.arange(9.0)[:, None] * 100
        bias[1] = 0
    latent, standard = (
        Latent(torch.full((1, 128), 300.0), torch.zeros(1, 128)),
        Latent(*torch.zeros(2, 1, 1)),
    )
    divergence = methods.compute_mixture_kl(network, latent, standard, rng)
    assert float(divergence.detach()) == pytest.approx(float(torch.tensor(9.0).log()), rel=1e-4)


def test_gradient_penalty_covers_all_axes():
    """A linear critic with the weights 0.5 on a 6 x 8 slice: |gradient| = 0.5 sqrt(48)."""
    slices = torch.zeros(5, 1, 6, 8)
    penalty = methods.compute_gradient_penalty(lambda x: 0.5 * x.sum(dim=(1, 2, 3)), slices)
    assert float(penalty) == pytest.approx((0.5 * 48**0.5 - 1) ** 2, rel=1e-5)


def test_hidden_boxes(rng):
    slices = torch.ones(16, 1, 64, 64)
    before = slices.clone()
    hidden = methods.hide_boxes(slices, rng)
    assert slices.equal(before)
    n_hidden = (hidden == 0).flatten(1).sum(1)
    assert ((hidden == 0) | (hidden == 1)).all()
    assert n_hidden.min() >= 25  # a box of 10 pixels a side may lie in a corner
    assert n_hidden.max() <= 300
    assert (
        len({tuple(place.flatten().tolist()) for place in hidden == 0}) == 16
    )  # each slice its own
    corner = torch.zeros(8, 1, 64, 64)
    corner[..., 40:, 40:] = 1
    assert (
        methods.hide_boxes(corner, rng).flatten(1).sum(1) < corner[0].sum()
    ).all()  # where there is something


def test_context_target_is_not_masked(slices, rng, monkeypatch):
    """The loss of a network that returns its input is exactly that of the hidden pixels."""
    half = slices.clone()
    half[..., 16:] = 0
    monkeypatch.setattr(methods, "hide_boxes", lambda slices, rng: half)
    still = torch.full_like(slices, -100.0)  # log variance
    mirror = SimpleNamespace(encode=lambda x, rng: Latent(x, still), decode=lambda z, rng: z)
    loss = methods._context_loss(mirror, slices, rng)
    kl = methods.ALPHA * methods.compute_kl(Latent(slices, still)).mean()
    assert float(loss) == pytest.approx(float(methods.compute_l1(slices, half) + kl), rel=1e-4)


def test_constrained_compares_the_codes(slices, rng):
    """Codes 1 of the slices and 3 of the black reconstruction; 4 numbers per slice."""
    still = torch.full((3, 4), -100.0)

    def encode(images, rng):
        return Latent(torch.full((3, 4), 1.0 if images is slices else 3.0), still)

    black = SimpleNamespace(encode=encode, decode=lambda z, rng: torch.zeros_like(slices))
    loss = methods._constrained_loss(black, slices, rng)
    kl = methods.ALPHA * methods.compute_kl(encode(slices, rng)).mean()
    assert float(loss) == pytest.approx(float(slices.flatten(1).sum(1).mean() + kl + 4), rel=1e-5)


def test_dropout_is_active_when_scoring(slices, rng):
    """Two samples differ in the decoder too, and their mean is what is shown."""
    network = build(Autoencoder, 32, dropout=methods.DROPOUT)
    nn.init.constant_(network.decode.decoder.last.bias, 0.5)
    code = torch.ones(3, 128)
    assert not network.decode(code, rng).equal(network.decode(code, rng))
    assert not network.encode(slices, rng).mean.equal(network.encode(slices, rng).mean)
    shown, _ = METHODS["bayesian-vae"].score(network, slices, rng.manual_seed(1), Tuned())
    rng.manual_seed(1)
    samples = [
        network.decode(network.encode(slices, rng).mean, rng) for _ in range(methods.N_SAMPLES)
    ]
    assert len(shown[(shown > 0) & (shown < 1)].unique()) > 100
    assert torch.allclose(shown, (sum(samples) / methods.N_SAMPLES).clamp(0, 1), atol=1e-5)
    plain = METHODS["vae"].score(build(Autoencoder, 32), slices, rng, Tuned())[0]
    assert plain.equal(METHODS["vae"].score(build(Autoencoder, 32), slices, rng, Tuned())[0])


def test_only_what_is_brighter_counts(rng):
    mirror = SimpleNamespace(
        encode=lambda x, rng: Latent(x, x), decode=lambda z, rng: torch.full_like(z, 0.4)
    )
    slices = torch.tensor([0.0, 0.3, 0.5, 1.0]).view(1, 1, 2, 2)
    shown, score = METHODS["ae"].score(mirror, slices, rng, Tuned())
    assert shown.eq(0.4).all()
    assert score.flatten().tolist() == pytest.approx([0, 0, 0.1, 0.6])
    mirror.decode = lambda z, rng: torch.full_like(z, -0.4)
    assert (
        METHODS["ae"].score(mirror, slices, rng, Tuned())[1].equal(slices)
    )  # what is black stays black


def test_kl_gradient(rng):
    """The code is the slice, so the gradient of the KL is the slice; the score is half of it."""
    network = SimpleNamespace(encode=lambda x, rng: Latent(x, torch.zeros_like(x)))
    slices = torch.zeros(1, 1, 16, 16)
    slices[0, 0, 8, 8] = -0.5
    shown, score = METHODS["kl-grad"].score(network, slices, rng, Tuned(1.0))
    assert shown[0, 0, 8, 8] == 0.5
    assert shown.count_nonzero() == 1
    assert score.count_nonzero() == 49
    assert float(score.sum()) == pytest.approx(0.25, rel=1e-5)
    assert float(METHODS["kl-grad"].score(network, slices, rng, Tuned(1e-3))[1].max()) == 1


def test_kl_tuning_leaves_a_thousandth_above(slices, rng):
    network = build(Autoencoder, 32)
    value = METHODS["kl-grad"].tune(network, slices, rng, 1)
    score = METHODS["kl-grad"].score(network, slices, rng, Tuned(value))[1]
    assert 0 < float((score >= 0.5).float().mean()) < 0.003


def test_restoration(rng):
    """Towards the reconstruction, 0.15 at most where only the L1 pulls; what is explained stays."""
    grey = SimpleNamespace(
        encode=lambda x, rng: Latent(x * 0, x * 0), decode=lambda z, rng: torch.full_like(z, 0.5)
    )
    slices = torch.full((1, 1, 8, 8), 0.5)
    assert methods.restore(grey, slices, 1.0, 5, rng).equal(slices)
    lifted = methods.restore(grey, slices + 0.4, 1.0, 30, rng)
    assert torch.allclose(lifted, torch.tensor(0.75), atol=1e-4)
    slices[..., 4, 4] = 0.9  # a pixel that differs: the total variation pulls it too, four times
    assert float(methods.restore(grey, slices, 1.0, 150, rng)[0, 0, 4, 4]) == pytest.approx(
        0.5, abs=0.01
    )
    assert float(methods.restore(grey, slices, 0.0, 150, rng)[0, 0, 4, 4]) == pytest.approx(
        0.75, abs=0.01
    )


def test_restoration_weight_is_the_one_that_changes_least(slices, rng, monkeypatch):
    changes = {0.5: 0.2, 1.0: 0.1, 1.5: 0.3}
    monkeypatch.setattr(
        methods, "restore", lambda network, slices, weight, n, rng: slices + changes[weight]
    )
    assert METHODS["vae-restoration"].tune(None, slices, rng, 3) == 1.0


def test_anogan_stages(slices, rng):
    """Five steps of the critic, one of the generator; then the encoder with a fixed generator."""
    network = build(FAnoGan, 32).train()
    parts = [part for part, _ in METHODS["f-anogan"].updates(network, lambda: slices, rng, 0.49)]
    assert parts == [network.critic] * 5 + [network.decode]
    before = {name: value.clone() for name, value in network.decode.state_dict().items()}
    ((part, loss),) = METHODS["f-anogan"].updates(network, lambda: slices, rng, 0.5)
    assert part is network.encode
    assert loss.isfinite()
    assert all(value.equal(before[name]) for name, value in network.decode.state_dict().items())
