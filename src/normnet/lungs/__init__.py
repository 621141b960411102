"""Where the lungs are: a learned segmenter that ships with the package, or a mask of the user's."""
