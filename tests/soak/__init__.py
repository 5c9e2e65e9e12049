"""The soak: mixed readers on a real mount under random faults, every byte looked at."""
