"""Heads chosen by what an operator does to held-out answers."""
