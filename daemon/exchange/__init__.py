"""The simulated exchange: an HTTP and websocket server in Binance's protocol, with markets and books of its own."""
