"""The soak test: mixed readers on a real mount under random faults; every byte is compared."""
