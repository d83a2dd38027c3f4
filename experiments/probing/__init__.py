"""Probes of many places, kept cell by cell."""
