"""Makers of odd and bad inputs: each writes one input into a folder and returns its path.

They build on ``tests/phantoms.py``. A maker that takes an edit returns a maker.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from normnet.io.fingerprint import sha256_of
from normnet.scan import Scan
from tests import phantoms

SHAPE, SPACING_MM = (20, 24, 28), (2.5, 2.0, 1.5)  # of phantoms.NRRD and phantoms.MHA
NAN, INF = float("nan"), float("inf")
DEFLATED, JPEG_2000 = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.90"

Maker = Callable[[Path], Path]
Bytes = Callable[[bytes], bytes]


@cache
def scan() -> Scan:
    """The phantom that all inputs show, spoiled or not."""
    return phantoms.thorax_phantom(SHAPE, SPACING_MM, vessels=False).scan


@cache
def wide_scan() -> Scan:
    """A phantom of as many columns as are needed to compare a slice with its neighbours."""
    return phantoms.thorax_phantom((24, 112, 128), (5.0, 3.0, 2.7), vessels=False).scan


@cache
def _gzipped_nifti() -> bytes:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        return phantoms.write_nifti(scan(), Path(folder) / "ct.nii.gz").read_bytes()


def nifti_bytes() -> bytes:
    """The phantom as an uncompressed NIfTI file."""
    return gzip.decompress(_gzipped_nifti())


# --- image files


def file(name: str, content: bytes) -> Maker:
    """A file of these bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def nifti(*pokes: tuple, edit: Bytes = bytes, name: str = "ct.nii") -> Maker:
    """An uncompressed NIfTI file with other numbers (offset, code, values...) in its header."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(edit(nifti_bytes()))
        for poke in pokes:
            phantoms.poke(folder / name, *poke)
        return folder / name

    return make


def gzipped(edit: Bytes) -> Maker:
    """A ``.nii.gz`` file whose compressed bytes are changed."""

    def make(folder: Path) -> Path:
        (folder / "ct.nii.gz").write_bytes(edit(_gzipped_nifti()))
        return folder / "ct.nii.gz"

    return make


def gzip_bomb(folder: Path) -> Path:
    """A small ``.nii.gz`` file that inflates to far more than its header says."""
    (folder / "ct.nii.gz").write_bytes(_gzipped_nifti() + gzip.compress(bytes(60_000_000), 6))
    return folder / "ct.nii.gz"


def claim_4_gib(folder: Path) -> Path:
    """A small ``.nii.gz`` file whose header claims 1024 x 1024 x 512 voxels of 8 bytes."""
    half_mm = ((80, "3f", 0.5, 0.5, 0.5), (280, "f", -0.5), (300, "f", -0.5), (320, "f", 0.5))
    size = (40, "8h", 3, 1024, 1024, 512, 1, 1, 1, 1)
    path = nifti(size, (70, "2h", 64, 64), *half_mm)(folder)
    header = path.read_bytes()[:352]
    path.unlink()
    zeros = zlib.compressobj(9, wbits=31)
    with (folder / "ct.nii.gz").open("wb") as file:
        file.write(zeros.compress(header))
        for _ in range(16):  # as much as is needed to see that no more is read
            file.write(zeros.compress(bytes(2**22)))
        file.write(zeros.flush())
    return folder / "ct.nii.gz"


def text_image(
    name: str, old: str = "", new: str = "", local: str = "ElementDataFile = LOCAL\n"
) -> Maker:
    """An NRRD or MetaImage file with one part of its header replaced."""
    header = phantoms.NRRD if name.endswith(("nrrd", "nhdr")) else phantoms.MHA
    assert old in header

    def make(folder: Path) -> Path:
        return phantoms.write_text(folder / name, header.replace(old, new), scan(), local)

    return make


def deflated_mha(edit: Bytes) -> Maker:
    """A compressed ``.mha`` file whose compressed bytes are changed."""

    def make(folder: Path) -> Path:
        header = phantoms.MHA.replace("CompressedData = False", "CompressedData = True")
        data = edit(zlib.compress(scan().volume_hu.tobytes()))
        (folder / "ct.mha").write_bytes(f"{header}ElementDataFile = LOCAL\n".encode() + data)
        return folder / "ct.mha"

    return make


def detached(name: str, target: str) -> Maker:
    """A header that names a data file; the voxels lie beside it, above it and below it."""

    def make(folder: Path) -> Path:
        inner = folder / "ct"
        (inner / "sub").mkdir(parents=True)
        for place in (folder, inner, inner / "sub"):
            (place / "voxels.raw").write_bytes(scan().volume_hu.tobytes())
        (inner / "link.raw").symlink_to(folder / "voxels.raw")
        is_nrrd = name.endswith(".nhdr")
        line = f"data file: {target}\n" if is_nrrd else f"ElementDataFile = {target}\n"
        (inner / name).write_text((phantoms.NRRD if is_nrrd else phantoms.MHA) + line)
        return inner / name

    return make


def values(change: Callable[[np.ndarray], np.ndarray]) -> Maker:
    """A NIfTI file of changed voxels."""

    def make(folder: Path) -> Path:
        from normnet.io import write_image

        write_image(folder / "ct.nii.gz", change(scan().volume_hu), scan().geometry)
        return folder / "ct.nii.gz"

    return make


def stored(order: tuple[int, ...], flips: tuple[bool, ...], dicom: bool = False) -> Maker:
    """The phantom with its axes in another order and direction; the patient stays."""

    def make(folder: Path) -> Path:
        turned = phantoms.reorient(scan(), order, flips)
        if dicom:
            return phantoms.write_dicom(turned, folder / "ct")
        return phantoms.write_nifti(turned, folder / "ct.nii.gz")

    return make


def body_without_lungs(folder: Path) -> Path:
    """Soft tissue in air: a CT, but not of the chest."""
    volume = np.full((24, 64, 64), -1000, np.int16)
    volume[:, 8:56, 6:58] = 40
    geometry = replace(scan().geometry, spacing_mm=(5.0, 5.0, 5.0))
    return phantoms.write_nifti(Scan(volume, geometry), folder / "ct.nii.gz")


def coarse(folder: Path) -> Path:
    """Centimetres taken for millimetres: a patient of more than a metre."""
    small = phantoms.thorax_phantom((48, 96, 96), (15.0, 15.0, 15.0), vessels=False)
    return phantoms.write_nifti(small.scan, folder / "ct.nii.gz")


# --- DICOM


def series(edit: Callable[[list], None] | None = None, shown: Callable[[], Scan] = scan) -> Maker:
    """A DICOM series; ``edit`` changes its datasets."""
    return lambda folder: phantoms.write_dicom(shown(), folder / "ct", edit)


def spoiled_slice(edit: Bytes, name: str = "0003.dcm") -> Maker:
    """A DICOM series in which the bytes of one file are changed."""

    def make(folder: Path) -> Path:
        path = phantoms.write_dicom(scan(), folder / "ct") / name
        path.write_bytes(edit(path.read_bytes()))
        return folder / "ct"

    return make


def beside_series(add: Callable[[Path], None]) -> Maker:
    """A DICOM series with something else in its folder."""

    def make(folder: Path) -> Path:
        add(phantoms.write_dicom(scan(), folder / "ct"))
        return folder / "ct"

    return make


def without_preamble(data: bytes) -> bytes:
    """A DICOM file that begins with its first tag: no preamble, no group 2."""
    return data[data.index(b"\x08\x00") :]


def without_meta(data: bytes) -> bytes:
    """A DICOM file without group 2, which tells how the rest is encoded."""
    return bytes(128) + b"DICM" + without_preamble(data)


def nest(data: bytes, depth: int = 2000) -> bytes:
    """Put a sequence in a sequence in a sequence ... before the pixels."""
    body = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + len(body).to_bytes(4, "little") + body
        body = b"\x40\x00\x30\xa7SQ\x00\x00" + len(item).to_bytes(4, "little") + item
    at = data.index(b"\xe0\x7f\x10\x00OW")
    return data[:at] + body + data[at:]


def jpeg_2000(spoil: Bytes = bytes, shown: Callable[[], Scan] = scan) -> Maker:
    """A series compressed with JPEG 2000, without loss; ``spoil`` changes one code stream."""

    def edit(datasets: list) -> None:
        from PIL import Image
        from pydicom.encaps import encapsulate

        for index, data in enumerate(datasets):
            pixels = np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns)
            stream = BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
            code = stream.getvalue()
            data.file_meta.TransferSyntaxUID = JPEG_2000
            data.PixelData = encapsulate([spoil(code) if index == 5 else code])
            data["PixelData"].VR = "OB"
            data["PixelData"].is_undefined_length = True

    return series(edit, shown)


def deflate_bomb(datasets: list) -> None:
    """Every file stays small and inflates to more than the limit."""
    from normnet.io.limits import MAX_INFLATED_DICOM_BYTES

    del datasets[1:]
    for data in datasets:
        data.file_meta.TransferSyntaxUID = DEFLATED
        data.add_new(0x00091001, "UN", bytes(MAX_INFLATED_DICOM_BYTES))


def add_dicomdir(folder: Path) -> None:
    """A DICOMDIR whose entry leads out of the folder."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    record = Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["..", "..", "secret"]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.FileSetID, data.DirectoryRecordSequence = "SET", [record]
    data.preamble = bytes(128)
    data.save_as(folder / "DICOMDIR", enforce_file_format=False)


def dicomdir_alone(folder: Path) -> Path:
    """A folder with a DICOMDIR and no series."""
    (folder / "ct").mkdir()
    add_dicomdir(folder / "ct")
    return folder / "ct"


def multi_frame(folder: Path) -> Path:
    """The phantom as one enhanced CT object: position and scale stand in functional groups."""
    from pydicom.dataset import Dataset
    from pydicom.uid import EnhancedCTImageStorage

    slices = phantoms.dicom_datasets(scan())
    data = slices[0]
    frames = []
    for item in slices:
        frame, position, orientation, pixels, rescale = (Dataset() for _ in range(5))
        position.ImagePositionPatient = item.ImagePositionPatient
        orientation.ImageOrientationPatient = item.ImageOrientationPatient
        pixels.PixelSpacing, pixels.SliceThickness = item.PixelSpacing, item.SliceThickness
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
        frame.PlanePositionSequence = [position]
        frame.PlaneOrientationSequence = [orientation]
        frame.PixelMeasuresSequence = [pixels]
        frame.PixelValueTransformationSequence = [rescale]
        frames.append(frame)
    shared = Dataset()
    data.PerFrameFunctionalGroupsSequence, data.SharedFunctionalGroupsSequence = frames, [shared]
    data.NumberOfFrames = len(slices)
    data.PixelData = b"".join(item.PixelData for item in slices)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = EnhancedCTImageStorage
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
        "RescaleSlope", "RescaleIntercept", "RescaleType",
    ):  # fmt: skip
        delattr(data, keyword)
    data.preamble = bytes(128)
    (folder / "ct").mkdir()
    data.save_as(folder / "ct" / "0.dcm", enforce_file_format=False)
    return folder / "ct"


# Edits of the datasets of a series.


def all_slices(edit: Callable[[object], None]) -> Callable[[list], None]:
    """An edit of every dataset."""

    def apply(datasets: list) -> None:
        for data in datasets:
            edit(data)

    return apply


def pixels_of(data: object) -> np.ndarray:
    """Stored values of a dataset, (rows, columns)."""
    return np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns).copy()


def invert_grey(data: object) -> None:
    """Bright becomes dark, and no tag says so: tissue gets the HU of air, air those of tissue."""
    data.PixelData = (1048 - pixels_of(data).clip(0, 1048)).astype("<u2").tobytes()


def scale_twice(data: object) -> None:
    """Stored values were HU already; the intercept is subtracted a second time."""
    hu = pixels_of(data).astype(np.int32) - 1024
    data.PixelData, data.PixelRepresentation = hu.astype("<i2").tobytes(), 1


def double_pixels(data: object) -> None:
    """PixelData of twice the size that Rows and Columns say."""
    data.PixelData = data.PixelData * 2


def drop_column(data: object) -> None:
    """Columns is one less than the rows are long: every row is skewed."""
    data.Columns -= 1


def unsigned_slice(datasets: list) -> None:
    """All slices hold signed HU; one of them says that it is unsigned."""
    for index, data in enumerate(datasets):
        hu = pixels_of(data).astype(np.int32) - 1024
        data.PixelData, data.RescaleIntercept = hu.astype("<i2").tobytes(), 0
        data.PixelRepresentation = 0 if index == 6 else 1


def overlay_bits(data: object) -> None:
    """12 bits are stored; an overlay lies in the bits above them."""
    data.BitsStored, data.HighBit = 12, 11
    overlay = np.uint16(0x8000)
    data.PixelData = (pixels_of(data) | overlay).astype("<u2").tobytes()


def round_positions(datasets: list) -> None:
    """Slices of 0.625 mm whose positions are rounded to 0.1 mm."""
    for index, data in enumerate(datasets):
        x, y, _ = data.ImagePositionPatient
        data.ImagePositionPatient = [x, y, f"{0.625 * index:.1f}"]
        data.SliceThickness = "0.625"


# --- zip archives


def _slices(folder: Path) -> dict[str, bytes]:
    series = phantoms.write_dicom(scan(), folder / "unzipped")
    found = {path.name: path.read_bytes() for path in sorted(series.iterdir())}
    for path in series.iterdir():
        path.unlink()
    series.rmdir()
    return found


def zipped(*names: str, spoil: Bytes = bytes) -> Maker:
    """A zip archive of a series with more members of these names; each is a copy of a slice."""

    def make(folder: Path) -> Path:
        slices = _slices(folder)
        with zipfile.ZipFile(folder / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in slices.items():
                archive.writestr(f"ct/{name}", data)
            for name in names:
                info = zipfile.ZipInfo("x")
                info.filename = name  # ZipInfo would change it
                archive.writestr(info, slices["0000.dcm"])
        (folder / "ct.zip").write_bytes(spoil((folder / "ct.zip").read_bytes()))
        return folder / "ct.zip"

    return make


def zip_with_link(folder: Path) -> Path:
    """A zip archive with a symbolic link among its members."""
    path = zipped()(folder)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("ct/link.dcm")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return path


def say_encrypted(data: bytes) -> bytes:
    """Set the flag of encryption at every member."""
    spoiled = bytearray(data)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            spoiled[at + offset] |= 1
            at = data.find(signature, at + 4)
    return bytes(spoiled)


def _change_directory(data: bytes, offset: int, change: Callable[[int], int]) -> bytes:
    """Change a 32-bit number of the last member in the archive's directory."""
    spoiled, at = bytearray(data), data.rfind(b"PK\x01\x02")
    (number,) = struct.unpack_from("<I", data, at + offset)
    struct.pack_into("<I", spoiled, at + offset, change(number))
    return bytes(spoiled)


def overlap(data: bytes) -> bytes:
    """The last member of an archive begins where the first one does."""
    return _change_directory(data, 42, lambda _: 0)


def forge_size(data: bytes) -> bytes:
    """The last member of an archive is said to be far smaller than it is."""
    return _change_directory(data, 24, lambda _: 10)


def zip_bomb(folder: Path) -> Path:
    """A small zip archive of members that inflate a thousandfold."""
    with zipfile.ZipFile(folder / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(3):
            archive.writestr(f"ct/{n}.dcm", bytes(128) + b"DICM" + bytes(100_000_000))
    return folder / "ct.zip"


# --- folders


def empty_folder(folder: Path) -> Path:
    """A folder without files."""
    (folder / "ct").mkdir()
    return folder / "ct"


def fifo_in(name: str) -> Maker:
    """A named pipe where a CT is expected; to read it waits for ever."""

    def make(folder: Path) -> Path:
        (folder / "ct").mkdir()
        os.mkfifo(folder / "ct" / name)
        return folder / "ct"

    return make


def lost_slices(spoil: Callable[[Path], None]) -> Maker:
    """A series under names without a suffix, in which two files at one end cannot be read."""

    def make(folder: Path) -> Path:
        series = phantoms.write_dicom(scan(), folder / "ct")
        order = np.random.default_rng(0).permutation(SHAPE[0])  # of the names, see write_dicom
        for path in sorted(series.iterdir()):
            path.rename(series / f"IM{path.stem}")
        for number in order[:2]:
            spoil(series / f"IM{number:04d}")
        return series

    return make


def empty(path: Path) -> None:
    """Leave nothing of a file but its name."""
    path.write_bytes(b"")


def break_link(path: Path) -> None:
    """Put a link in place of a file that leads nowhere."""
    path.unlink()
    path.symlink_to("moved away")


def organ_masks(folder: Path) -> Path:
    """A CT with the masks of a segmentation program in a folder beside it."""
    tree = folder / "tree"
    (tree / "segmentations").mkdir(parents=True)
    phantoms.write_nifti(scan(), tree / "ct.nii.gz")
    mask = scan().volume_hu > 0
    from normnet.io import write_image

    for name in ("heart", "aorta", "vertebrae_T4", "lung_upper_lobe_left"):
        write_image(tree / "segmentations" / f"{name}.nii.gz", mask, scan().geometry)
    return tree


def other_series(folder: Path) -> Path:
    """A tree with a CT and with objects of other modalities in folders of their own."""
    tree = folder / "tree"
    phantoms.write_dicom(scan(), tree / "ct")
    for modality in ("DX", "SR"):

        def edit(datasets: list, modality: str = modality) -> None:
            del datasets[1:]
            datasets[0].Modality = modality
            if modality == "SR":
                del datasets[0].PixelData, datasets[0].Rows, datasets[0].Columns

        phantoms.write_dicom(scan(), tree / modality, edit)
    return tree


# --- models


def _save_model(folder: Path) -> Path:
    import torch

    from normnet.config import Config, NetworkConfig
    from normnet.network.unet import build_unet
    from normnet.network.weights import save_model, split_settings

    network = NetworkConfig(channels=(2, 4), n_res_units=0)
    torch.manual_seed(0)
    members = {f"member-{n}": build_unet(network).state_dict() for n in (1, 2)}
    card = {"name": "tiny", **split_settings(Config(network=network).model_dump())}
    save_model(folder / "model", members, "normnet", network, card)
    return folder / "model"


def model(edit: Callable[[Path], None]) -> Maker:
    """A model folder of two members, changed."""

    def make(folder: Path) -> Path:
        path = _save_model(folder)
        edit(path)
        return path

    return make


def manifest(**changes: object) -> Maker:
    """A model folder whose manifest says something else."""

    def edit(path: Path) -> None:
        file = path / "manifest.json"
        content = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return model(edit)


def network(**changes: object) -> Maker:
    """A model folder whose manifest describes another network."""

    def edit(path: Path) -> None:
        file = path / "manifest.json"
        content = json.loads(file.read_text())
        content["network"].update(changes)
        file.write_text(json.dumps(content))

    return model(edit)


def member(change: Callable[[dict], dict]) -> Maker:
    """A model folder with other tensors in its first member; the manifest agrees with the file."""

    def edit(path: Path) -> None:
        from safetensors.torch import load, save

        file = path / "member-1.safetensors"
        store_member(path, save(change(load(file.read_bytes()))))

    return model(edit)


def store_member(path: Path, data: bytes) -> None:
    """Store bytes as the first member, and their sha256 in the manifest."""
    (path / "member-1.safetensors").write_bytes(data)
    content = json.loads((path / "manifest.json").read_text())
    content["members"][0]["sha256"] = sha256_of(data)
    (path / "manifest.json").write_text(json.dumps(content))


def pickled(path: Path) -> None:
    """A pickle in place of the weights; to load it would run a command."""
    import pickle

    class Harm:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(path / "pickle was loaded"),)

    store_member(path, pickle.dumps(Harm()))


def pickle_file(folder: Path) -> Path:
    """A ``.pt`` file where a model folder is expected."""
    pickled(_save_model(folder))
    return (folder / "model" / "member-1.safetensors").rename(folder / "model.pt")


def cut_member(path: Path) -> None:
    """Half of a safetensors file, without a word in the manifest."""
    file = path / "member-1.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def half_member(path: Path) -> None:
    """Half of a safetensors file, whose sha256 stands in the manifest."""
    data = (path / "member-1.safetensors").read_bytes()
    store_member(path, data[: len(data) // 2])


def nest_manifest(path: Path) -> None:
    """A manifest of lists in lists in lists ..."""
    (path / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)


def drop_tensor(state: dict) -> dict:
    """Leave out one tensor of weights."""
    name = min(key for key in state if key.endswith("weight"))
    return {key: tensor for key, tensor in state.items() if key != name}


def with_value(name: str, value: float) -> Callable[[dict], dict]:
    """Set the first number of the first tensor whose name ends so."""

    def change(state: dict) -> dict:
        state = {key: tensor.clone() for key, tensor in state.items()}
        key = min(key for key in state if key.endswith(name))
        state[key].view(-1)[0] = value
        return state

    return change


# --- settings, lung masks, lists of cases and output


def settings(text: str) -> Maker:
    """A TOML file of settings."""

    def make(folder: Path) -> Path:
        (folder / "mine.toml").write_text(text)
        return folder / "mine.toml"

    return make


def _write_mask(path: Path, labels: np.ndarray) -> Path:
    from normnet.io import write_image

    write_image(path, labels, scan().geometry)
    return path


def lung_mask(right: int = 0, left: int = 0, spine: int = 0) -> Maker:
    """A mask of the phantom with these labels."""

    def make(folder: Path) -> Path:
        lungs = phantoms.phantom_lungs(scan(), None, None)
        bone = (lungs == 0) & (scan().volume_hu > 300)
        labels = np.select([lungs == 1, lungs == 2, bone], [right, left, spine], 0)
        return _write_mask(folder / "lungs.nii.gz", labels.astype(np.uint8))

    return make


def mask_of_fractions(folder: Path) -> Path:
    """Probabilities in place of labels."""
    lungs = phantoms.phantom_lungs(scan(), None, None) > 0
    return _write_mask(folder / "lungs.nii.gz", np.where(lungs, np.float32(0.7), np.float32(0)))


def mask_of_another_grid(folder: Path) -> Path:
    """A lung mask of fewer slices than the CT has."""
    lungs = phantoms.phantom_lungs(scan(), None, None)
    return _write_mask(folder / "lungs.nii.gz", lungs[:-1])


def case_list(columns: str, case_id: str) -> Maker:
    """A CSV list of one case, which lies beside it."""

    def make(folder: Path) -> Path:
        phantoms.write_nifti(scan(), folder / "ct.nii.gz")
        (folder / "cases.csv").write_text(f'{columns}\n"{case_id}",ct.nii.gz\n')
        return folder / "cases.csv"

    return make


def own_file(name: str) -> Maker:
    """A CT, and a file of the user in the folder that its result would go to."""

    def make(folder: Path) -> Path:
        (folder / "out" / "ct").mkdir(parents=True)
        (folder / "out" / "ct" / name).write_bytes(b"the user's own")
        return phantoms.write_nifti(scan(), folder / "ct.nii.gz")

    return make


def ct_in_output(folder: Path) -> Path:
    """A CT that lies where its own lung mask would be written."""
    (folder / "out" / "lungs").mkdir(parents=True)
    return phantoms.write_nifti(scan(), folder / "out" / "lungs" / "lungs.nii.gz")


def linked_lock(folder: Path) -> Path:
    """The lock of the output folder is a link to a file of the user."""
    (folder / "out").mkdir()
    (folder / "precious").write_bytes(b"the user's own")
    (folder / "out" / ".lock").symlink_to(folder / "precious")
    return phantoms.write_nifti(scan(), folder / "ct.nii.gz")


def hostile_names(folder: Path) -> Path:
    """Names and tags that a browser, a spreadsheet program or a terminal would act on."""

    def edit(datasets: list) -> None:
        for data in datasets:
            data.PatientName = data.PatientID = "<script>alert(1)</script>"
            data.SeriesDescription = data.StudyDescription = "=cmd|' /C calc'!A0"

    (folder / "out").mkdir()
    return phantoms.write_dicom(scan(), folder / "=cmd|<script>\x1b[31m\n", edit)


def output_is_input(folder: Path) -> Path:
    """A series in the folder that the output is written into."""
    return phantoms.write_dicom(scan(), folder / "out")


def output_is_file(folder: Path) -> Path:
    """A CT, and a file in place of the output folder."""
    (folder / "out").write_bytes(b"")
    return phantoms.write_nifti(scan(), folder / "ct.nii.gz")
