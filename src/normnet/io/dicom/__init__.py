"""DICOM: one CT series from a folder of files."""
