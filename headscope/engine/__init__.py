"""Pure functions on attention inputs: rows, group mass, edits."""
