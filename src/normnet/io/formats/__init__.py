"""Image formats, one file per format."""
