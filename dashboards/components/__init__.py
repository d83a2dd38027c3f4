"""Widgets, one file each; a widget owns its key in the session, and what it chooses stands in the address."""
