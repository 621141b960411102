"""Where the images and masks of a data set lie, one file each; ``registry`` knows them by name."""
