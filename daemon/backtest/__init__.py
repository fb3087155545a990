"""The daemon's own engine on recorded history: backtest, replay, parity and report."""
