"""What only watches the line: metrics, API, bus and recorder; nothing here can stop trading."""
