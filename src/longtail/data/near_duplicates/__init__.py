"""Images that are nearly the same: which pairs, up to which distance; no pixels are read here."""
