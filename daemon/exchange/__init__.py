"""The simulated exchange: a loopback server in Binance's protocol with books of its own."""
