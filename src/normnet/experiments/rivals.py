"""The registry of the methods that NormNet is compared with.

- *simple*: a threshold of the HU, without any network.
- *unsupervised*: the paper's networks that learn what normal slices look like.
- *supervised*: networks that learn from lesion masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from normnet.baselines.methods import METHODS, Method
from normnet.baselines.simple import SIMPLE_METHODS, SimpleMethod
from normnet.config import Config
from normnet.errors import ConfigError
from normnet.experiments.thresholds import Threshold

Kind = Literal["simple", "unsupervised", "supervised"]
KINDS: tuple[Kind, ...] = ("simple", "unsupervised", "supervised")  # the quick ones run first
SUPERVISED = {
    "nnunet-2d": "nnU-Net, 2D",
    "nnunet-3d": "nnU-Net, 3D full resolution",
    "nnunet-unseen": "nnU-Net-Unseen",
    "cople-net": "COPLE-Net",
    "inf-net": "Inf-Net",
}


@dataclass(frozen=True)
class Rival:
    """A method that NormNet is compared with.

    Attributes:
        name: On the command line and in tables of experiments.
        label: In tables.
        kind: Of its way to learn.
        learns_from: In words.
        network: Of an unsupervised method.
        simple: Of a simple one.
    """

    name: str
    label: str
    kind: Kind
    learns_from: str
    network: Method | None = None
    simple: SimpleMethod | None = None

    @property
    def band(self) -> bool:
        """Whether lesions lie between two thresholds."""
        return self.simple is not None and self.simple.band

    def shown(self, threshold: Threshold, config: Config) -> Threshold:
        """A threshold as tables show it: in HU if the method's scores are HU."""
        if self.simple is None:
            return threshold
        return Threshold(*(self.simple.to_hu(end, config) for end in threshold))


@cache
def rivals() -> dict[str, Rival]:
    """All methods by name."""
    found = [
        *(
            Rival(name, simple.label, "simple", "nothing", simple=simple)
            for name, simple in SIMPLE_METHODS.items()
        ),
        *(
            Rival(name, method.label, "unsupervised", "slices of normal CTs", method)
            for name, method in METHODS.items()
        ),
        *(
            Rival(name, label, "supervised", "CTs with lesion masks")
            for name, label in SUPERVISED.items()
        ),
    ]
    return {rival.name: rival for rival in found}


def find_rival(name: str) -> Rival:
    """The method of that name.

    Raises:
        ConfigError: NN-BAS-001 if there is none.
    """
    if name not in rivals():
        raise ConfigError(
            "NN-BAS-001", f"no baseline '{name}'", "baselines", f"there are {', '.join(rivals())}"
        )
    return rivals()[name]
