"""Image files and their pixels: read, checked, resized and kept; labels and splits are not here."""
