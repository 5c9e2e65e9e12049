"""File managers on a real mount: what opening, showing and copying cost at the store."""
