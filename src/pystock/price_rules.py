"""The rules for a single row of prices, shared by the price files (pystock.data) and the inference API."""

import numpy as np

COLUMNS = ["Open", "High", "Low", "Close", "Adj Close", "Volume"]
PRICES = COLUMNS[:-1]
LONGEST_GAP = 7  # days: the New York exchanges were closed from 11 to 14 September 2001, seven days from close to close

# The reason why a row is bad, and a test that returns True for good rows. If a row breaks several rules, the first one
# in this order is reported.
ROW_RULES = {
    "a value is missing or not a number": lambda prices: np.isfinite(prices[COLUMNS]).all(axis=1),
    "a price is not positive": lambda prices: (prices[PRICES] > 0).all(axis=1),
    "the high is below the open or the close": lambda prices: (
        prices["High"] >= np.maximum(prices["Open"], prices["Close"])
    ),
    "the low is above the open or the close": lambda prices: (
        prices["Low"] <= np.minimum(prices["Open"], prices["Close"])
    ),
    "the volume is negative or not whole": lambda prices: (prices["Volume"] >= 0) & (prices["Volume"] % 1 == 0),
}
