"""Pure decision making: features, forecasts and the convex portfolio problem."""
