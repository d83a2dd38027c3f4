"""Adapters that fetch attention inputs from a library and put edited outputs back."""
