"""The textbook pipeline that `benchmarks/segment.py --rival` compares with normnet.

    python benchmarks/textbook_monai.py CT --lungs LUNGS --out FOLDER

It is what a user would write with MONAI: the transforms of its spleen tutorial, the volume padded
to 512 x 512, `SlidingWindowInferer` with windows of 32 x 512 x 512, half overlap and Gaussian
weights in float32, the same networks, then the same threshold, vote and post-processing. It gets
the lung mask, has no lesion networks, and writes the lesion mask alone. The last line that it
prints holds the seconds of its stages.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

START = time.perf_counter()


class Laps:
    """Seconds of each stage since the start of the process."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.last = START

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self.last = now - self.last, now


def run(ct: Path, out: Path, model_folder: Path | None, lungs: Path, laps: Laps) -> None:
    import torch
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        Compose,
        CopyItemsd,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        MaskIntensityd,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
        SpatialPadd,
        ThresholdIntensityd,
    )

    from normnet.models import settings_of, shipped
    from normnet.network.weights import load_members
    from normnet.postprocessing import postprocess

    laps.lap("imports")
    networks, manifest = load_members(
        model_folder or shipped("normnet"), "normnet", for_training=True
    )  # as MONAI made them
    config, _ = settings_of(manifest, Path("manifest"))
    window = config.window
    laps.lap("model")
    keys = ["image", "lungs"]
    prepare = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            CopyItemsd("image", names="hu"),
            ScaleIntensityRanged("image", window.low_hu, window.high_hu, 0.0, 1.0, clip=True),
            ThresholdIntensityd("lungs", 0.5, above=False, cval=1.0),  # right and left alike
            Orientationd([*keys, "hu"], "LPS", labels=None),
            Spacingd([*keys, "hu"], config.preparation.spacing_mm[::-1], mode="bilinear"),
            ThresholdIntensityd("lungs", 0.5, above=True),
            MaskIntensityd("image", mask_key="lungs"),
            SpatialPadd([*keys, "hu"], (512, 512, 32), method="end"),
        ]
    )
    data = prepare({"image": str(ct), "lungs": str(lungs)})
    laps.lap("reading and preparation")

    inferer = SlidingWindowInferer((512, 512, 32), sw_batch_size=1, overlap=0.5, mode="gaussian")
    n_normal = torch.zeros(data["image"].shape[1:], dtype=torch.uint8)
    with torch.inference_mode():
        for network in networks:  # trained on (z, y, x), MONAI holds (x, y, z)
            logits = inferer(
                torch.as_tensor(data["image"])[None],
                lambda part, network=network: network(part.transpose(2, 4)).transpose(2, 4),
            )
            n_normal += torch.sigmoid(logits[0, 0]) > config.inference.prob_normal
    laps.lap("inference")

    thorax, lung_mask, hu = (data[key][0].numpy().T for key in [*keys, "hu"])  # (z, y, x)
    needed = config.inference.votes_needed(len(networks))
    n_votes = n_normal.numpy().T
    steps = postprocess(
        thorax, hu, lung_mask >= 0.5, n_votes >= needed, window.tau, config.postprocessing
    )
    laps.lap("postprocessing")

    lesions = torch.from_numpy(steps.lesions.T.astype("float32"))[None]
    data["lesions"] = MetaTensor(
        lesions, meta=data["image"].meta, applied_operations=data["image"].applied_operations
    )
    data = Invertd("lesions", prepare, orig_keys="image", nearest_interp=False)(data)
    data["lesions"] = (data["lesions"] >= 0.5).to(torch.uint8)
    laps.lap("restoring")
    save = SaveImaged(
        "lesions",
        output_dir=out,
        output_postfix="",
        output_name_formatter=None,
        separate_folder=False,
        output_dtype="uint8",
        print_log=False,
        resample=False,
    )
    save(data)
    laps.lap("writing")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ct", type=Path)
    parser.add_argument("--lungs", type=Path, required=True, help="lung mask, 0 outside")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="model folder (default: the shipped one)")
    args = parser.parse_args()
    laps = Laps()
    run(args.ct, args.out, args.model, args.lungs, laps)
    print(json.dumps(laps.seconds))


if __name__ == "__main__":
    main()
