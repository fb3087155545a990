"""The data folder: files of candles in the layout that freqtrade users have, checked, mended, fetched (DESIGN A8)."""
