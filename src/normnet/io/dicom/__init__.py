"""DICOM series: headers, slices stacked by their positions, pixels decoded in a child process."""
