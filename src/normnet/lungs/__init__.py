"""Where the lungs are: the shipped segmenter, and lung models of other programs."""
