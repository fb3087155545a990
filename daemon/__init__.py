"""Ballast's daemon: one straight line from exchange websocket to acknowledged order."""
