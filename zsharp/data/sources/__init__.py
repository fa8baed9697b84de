"""The data sets, one file each: where its files are and how to read them."""
