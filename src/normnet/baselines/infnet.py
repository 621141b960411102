"""Inf-Net: lesions from coarse to fine, where each stage looks beside what is found already.

Source: Fan et al. 2020, IEEE TMI, doi 10.1109/TMI.2020.2996645. The backbone is Res2Net-50 (Gao et
al. 2021, doi 10.1109/TPAMI.2019.2938758) in its version 1b of width 26 and scale 4. The paper
starts from weights that were trained on ImageNet; here the start is random.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    binary_cross_entropy_with_logits,
    interpolate,
    max_pool2d,
    relu,
)

STRIDE = 32
N_BLOCKS = (3, 4, 6, 3)
WIDTH, SCALE = 26 / 64, 4  # of Res2Net
N_CONTEXT = 32  # channels of the receptive field blocks
N_EDGE = 64
REVERSE = {4: (2048, 256, 5), 3: (1024, 64, 3), 2: (512, 64, 3)}  # channels in, inside, kernel
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the colours of ImageNet
NEAR_PIXELS, NEAR_WEIGHT = 31, 5.0  # pixels near a boundary count more


class Bottle(nn.Module):
    """A block of Res2Net: four groups of channels, each also sees the one before it."""

    def __init__(self, n_in: int, n: int, stride: int, is_first: bool):
        super().__init__()
        self.width, self.is_first = int(n * WIDTH), is_first
        self.first = _conv(n_in, SCALE * self.width, 1)
        self.groups = nn.ModuleList(
            _conv(self.width, self.width, 3, stride=stride) for _ in range(SCALE - 1)
        )
        self.pool = nn.AvgPool2d(3, stride, 1) if is_first else nn.Identity()
        self.last = _conv(SCALE * self.width, 4 * n, 1)
        self.shortcut = (
            nn.Sequential(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False),
                *_conv(n_in, 4 * n, 1),
            )
            if is_first
            else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Four times ``n`` channels."""
        *parts, rest = relu(self.first(features)).chunk(SCALE, 1)
        done: list[Tensor] = []
        for part, group in zip(parts, self.groups, strict=True):
            seen = part if self.is_first or not done else part + done[-1]
            done.append(relu(group(seen)))
        joined = torch.cat([*done, self.pool(rest)], 1)
        return relu(self.last(joined) + self.shortcut(features))


class Res2Net(nn.Module):
    """The features of the four stages; the first has 1/4 of the pixels per side, the last 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_conv(3, 32, 3, stride=2),
            nn.ReLU(),
            *_conv(32, 32, 3),
            nn.ReLU(),
            *_conv(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.stages = nn.ModuleDict()
        n_in = 64
        for stage, n_blocks in enumerate(N_BLOCKS, 1):
            n = 32 << stage
            self.stages[str(stage)] = nn.Sequential(
                Bottle(n_in, n, 1 if stage == 1 else 2, True),
                *(Bottle(4 * n, n, 1, False) for _ in range(n_blocks - 1)),
            )
            n_in = 4 * n
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """One per stage."""
        features, found = self.stem(images), []
        for stage in self.stages.values():
            features = stage(features)
            found.append(features)
        return found


class Context(nn.Module):
    """A receptive field block: four branches that see ever more of the surroundings."""

    def __init__(self, n_in: int, n: int = N_CONTEXT):
        super().__init__()
        self.branches = nn.ModuleList([nn.Sequential(_conv(n_in, n, 1))])
        for size in (3, 5, 7):
            self.branches.append(
                nn.Sequential(
                    _conv(n_in, n, 1),
                    _conv(n, n, (1, size)),
                    _conv(n, n, (size, 1)),
                    _conv(n, n, 3, dilation=size),
                )
            )
        self.merge, self.shortcut = _conv(4 * n, n, 3), _conv(n_in, n, 1)

    def forward(self, features: Tensor) -> Tensor:
        """32 channels."""
        joined = torch.cat([branch(features) for branch in self.branches], 1)
        return relu(self.merge(joined) + self.shortcut(features))


class PartialDecoder(nn.Module):
    """The first, coarse map from the three deep stages."""

    def __init__(self, n: int = N_CONTEXT):
        super().__init__()
        widths = {"1": n, "2": n, "3": n, "4": n, "5": 2 * n}
        self.up = nn.ModuleDict({name: _conv(width, width, 3) for name, width in widths.items()})
        self.join = nn.ModuleDict({"2": _conv(2 * n, 2 * n, 3), "3": _conv(3 * n, 3 * n, 3)})
        self.last = nn.Sequential(_conv(3 * n, 3 * n, 3), nn.Conv2d(3 * n, 1, 1))

    def forward(self, deep: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """Logits with the pixels of ``fine``."""
        deep_up = _twice(deep)
        middle_found = self.up["1"](deep_up) * middle
        fine_found = self.up["2"](_twice(deep_up)) * self.up["3"](_twice(middle)) * fine
        joined = self.join["2"](torch.cat([middle_found, self.up["4"](deep_up)], 1))
        joined = self.join["3"](torch.cat([fine_found, self.up["5"](_twice(joined))], 1))
        logits: Tensor = self.last(joined)
        return logits


class InfNet(nn.Module):
    """Slices (B, 1, y, x) in [0, 1], sides of whole 32 pixels, to logits of lesion, same shape."""

    mean: Tensor
    sd: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Res2Net()
        self.context = nn.ModuleDict({str(n): Context(REVERSE[n][0]) for n in REVERSE})
        self.decoder = PartialDecoder()
        self.reverse = nn.ModuleDict({str(n): _reverse(*REVERSE[n]) for n in REVERSE})
        self.edge = nn.ModuleDict(
            {
                "1": _conv(256, N_EDGE, 1),
                "2": _conv(N_EDGE, N_EDGE, 3),
                "3": _conv(N_EDGE, N_EDGE, 3),
                "4": _conv(N_EDGE, 1, 3),
            }
        )
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("sd", torch.tensor(SD)[:, None, None], persistent=False)

    def forward(self, slices: Tensor) -> Tensor:
        """Logits of the last stage."""
        maps, _ = self.find(slices)
        return maps[-1]

    def find(self, slices: Tensor) -> tuple[list[Tensor], Tensor]:
        """The logits of all four maps, the coarse one first, and those of the lesions' edge."""
        size = slices.shape[2:]
        first, fine, middle, deep = self.backbone((slices - self.mean) / self.sd)
        edge_features = self.edge["3"](self.edge["2"](self.edge["1"](first)))
        found = self.decoder(
            self.context["4"](deep), self.context["3"](middle), self.context["2"](fine)
        )
        maps = [found]
        for stage, features in zip(REVERSE, (deep, middle, fine), strict=True):
            before = _resize(found, features.shape[2:])
            first_layer, *layers, last_layer = self.reverse[str(stage)].children()
            beside = first_layer(features * (1 - before.sigmoid()))
            hidden = torch.cat([beside, _resize(edge_features, features.shape[2:])], 1)
            for layer in layers:
                hidden = relu(layer(hidden))
            found = last_layer(hidden) + before
            maps.append(found)
        return [_resize(one, size) for one in maps], _resize(self.edge["4"](edge_features), size)


def compute_loss(network: nn.Module, slices: Tensor, lesions: Tensor) -> Tensor:
    """Weighted cross-entropy and weighted IoU of all four maps, cross-entropy of the edge.

    The weights are those of the paper, one per pixel. In the released training code they have no
    effect on the cross-entropy, since its mean is taken before they are applied.

    Args:
        network: An Inf-Net.
        slices: (B, 1, y, x).
        lesions: The same shape, 0 or 1.
    """
    maps, edge = network.find(slices)  # type: ignore[operator]
    near = avg_pool2d(lesions, NEAR_PIXELS, 1, NEAR_PIXELS // 2)
    weights = 1 + NEAR_WEIGHT * (near - lesions).abs()
    outline = max_pool2d(lesions, 3, 1, 1) + max_pool2d(-lesions, 3, 1, 1)
    loss = binary_cross_entropy_with_logits(edge.float(), outline)
    for logits in maps:
        loss = loss + _compute_map_loss(logits.float(), lesions, weights)
    return loss


def _compute_map_loss(logits: Tensor, lesions: Tensor, weights: Tensor) -> Tensor:
    entropy = binary_cross_entropy_with_logits(logits, lesions, reduction="none")
    entropy = (weights * entropy).sum((2, 3)) / weights.sum((2, 3))
    probability = logits.sigmoid()
    both = (probability * lesions * weights).sum((2, 3))
    either = ((probability + lesions) * weights).sum((2, 3)) - both
    loss: Tensor = (entropy + 1 - (both + 1) / (either + 1)).mean()
    return loss


def _reverse(n_in: int, n: int, kernel: int) -> nn.ModuleDict:
    """The layers of a reverse-attention stage; the deepest has one more and ends in 1 x 1."""
    layers = [_conv(n_in, n, 1), _conv(n + N_EDGE, n, kernel), _conv(n, n, kernel)]
    layers += [_conv(n, n, kernel), _conv(n, 1, 1)] if kernel == 5 else [_conv(n, 1, kernel)]
    return nn.ModuleDict({str(number): layer for number, layer in enumerate(layers, 1)})


def _conv(
    n_in: int, n_out: int, kernel: int | tuple[int, int], stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution that keeps the size, and its normalisation."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (high // 2 * dilation, wide // 2 * dilation)
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, (high, wide), stride, padding, dilation, bias=False),
        nn.BatchNorm2d(n_out),
    )


def _twice(features: Tensor) -> Tensor:
    return interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)


def _resize(features: Tensor, size: torch.Size) -> Tensor:
    return interpolate(features, size, mode="bilinear", align_corners=False)
