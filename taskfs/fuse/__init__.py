"""The adapter from the tree to a mount."""
