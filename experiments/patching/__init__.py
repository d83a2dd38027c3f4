"""Activations of one prompt put into another: whole heads, and paths between them."""
