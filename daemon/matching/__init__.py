"""The one matching model: fees, spread, latency, partial fills and impact, as pure functions."""
