"""Which images come next, and batches of them; not what is done to their pixels."""
