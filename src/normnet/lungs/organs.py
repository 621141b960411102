"""The labels of TotalSegmentator 2, task ``total`` (doi:10.1148/ryai.230024): number and organ."""

from __future__ import annotations

LOBES = range(10, 15)  # upper and lower lobe of the left lung, then the three of the right lung
_BEFORE_SPINE = (
    "spleen, right kidney, left kidney, gallbladder, liver, stomach, pancreas, "
    "right adrenal gland, left adrenal gland, left upper lobe, left lower lobe, "
    "right upper lobe, right middle lobe, right lower lobe, oesophagus, trachea, thyroid gland, "
    "small bowel, duodenum, colon, urinary bladder, prostate, "
    "left kidney cyst, right kidney cyst, sacrum"
)
_AFTER_SPINE = (
    "heart, aorta, pulmonary vein, brachiocephalic trunk, right subclavian artery, "
    "left subclavian artery, right common carotid artery, left common carotid artery, "
    "left brachiocephalic vein, right brachiocephalic vein, left atrial appendage, "
    "superior vena cava, inferior vena cava, portal and splenic vein, left iliac artery, "
    "right iliac artery, left iliac vein, right iliac vein, left humerus, right humerus, "
    "left scapula, right scapula, left clavicle, right clavicle, left femur, right femur, "
    "left hip, right hip, spinal cord, left gluteus maximus, right gluteus maximus, "
    "left gluteus medius, right gluteus medius, left gluteus minimus, right gluteus minimus, "
    "left autochthon, right autochthon, left iliopsoas, right iliopsoas, brain, skull"
)
_SPINE = ["S1"] + [f"{part}{n}" for part, most in (("L", 5), ("T", 12), ("C", 7))
                   for n in range(most, 0, -1)]  # fmt: skip
ORGANS: dict[int, str] = dict(
    enumerate(
        [
            *_BEFORE_SPINE.split(", "),
            *(f"vertebra {name}" for name in _SPINE),
            *_AFTER_SPINE.split(", "),
            *(f"{side} rib {n}" for side in ("left", "right") for n in range(1, 13)),
            "sternum",
            "costal cartilages",
        ],
        start=1,
    )
)
