"""Where the images and masks of a data set lie."""
