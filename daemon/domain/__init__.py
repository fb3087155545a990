"""The vocabulary every other package speaks: market, signals, orders, events, ports and errors."""
