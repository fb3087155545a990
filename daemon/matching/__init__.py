"""The one matching model: pure rules shared by paper trading, the backtest and the simulated exchange."""
