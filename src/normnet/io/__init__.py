"""Reading CTs and masks, writing volumes: every file becomes a ``Scan`` or one named error.

Importing this package loads numpy only; pydicom and its decoders are loaded when a DICOM file is
read.

Error ids (the meaning of a number never changes)::

    NN-FILE, exit 3   001 not there or not readable    002 empty file
                      003 unknown format               004 header corrupt
                      005 data shorter or longer       006 compressed data corrupt
                      007 points at another file       008 nothing to read
                      009 variant not supported        010 no transfer syntax
                      011 no decoder                   012 pixels not decodable
                      013 no pixels                    014 DICOM header corrupt
                      015 multi-frame DICOM
                      031 zip: unsafe member         032 zip: encrypted
                      033 zip: a name twice
    NN-GEO, exit 4    001 several series               002 missing slice
                      003 two slices at one place      004 spacing varies
                      005 tilted or shifted            006 orientations differ
                      007 matrix sizes differ          008 pixel spacings differ
                      009 geometry missing             010 axes not orthonormal
                      011 spacing out of range         012 too few slices
                      013 not three-dimensional        014 frames of reference
                      015 orientation unknown          016 mask on another grid
                      017 no person's body             041 larger than any scanner
    NN-VAL, exit 5    001 rescale missing or unusable  002 not MONOCHROME2
                      003 not CT                       004 two patients
                      005 NaN or infinite              006 constant
                      007 not Hounsfield units         008 voxel type
                      009 labels                       010 (no longer used)
                      011 tissues not at their HU      012 grey scale inverted
                      013 slice unlike its neighbours
    NN-OUT, exit 7    001 no space                     002 not allowed
                      003 write failed                 004 read back differs
                      005 standard output lost         010 folder not writable
                      011 an input is the output       012 another process writes
                      015 a file that is not ours      016 a link or no regular file
                      021 no DICOM series as input     022 series lacks identifiers
                      023 DICOM object not possible    024 slices were averaged
    NN-RES, exit 8    001 too many voxels              002 too many files
                      003 inflates without end         004 out of memory
                      005 memory limited too low       006 too many open files
                      031 zip archive that is a trap   041 too many bytes
"""

from normnet.io.formats.nifti import write_image
from normnet.io.masks import read_labels, read_mask, write_mask
from normnet.io.read import case_id_of, read_ct

__all__ = [
    "case_id_of",
    "read_ct",
    "read_labels",
    "read_mask",
    "write_image",
    "write_mask",
]
