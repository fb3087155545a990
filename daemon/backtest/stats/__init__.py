"""How far a result can be believed: evidence behind a Sharpe ratio, resampling, overfitting, forecasts against what came."""
