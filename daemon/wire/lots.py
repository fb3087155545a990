"""Exact decimal text → integer lots of 1e-8, without Decimal and without float."""

LOT_DECIMALS = 8
DIGITS_MAX = 40
"""Longest digit string that is read; a trade of 1e32 units is a broken frame."""

BAD = -1
"""What ``lots_of`` answers for text that is no size on the grid of 1e-8."""


def lots_of(text: str) -> int:
    """Return the size ``text`` (base units) in lots of 1e-8, exactly; ``BAD`` where it is none.

    Binance sends eight decimals always, so the dot nine characters from the end is the fast path. Signs, exponents,
    blanks, digits of other scripts and sizes off the grid are refused.
    """
    if text[-9:-8] == ".":
        digits = text.replace(".", "", 1)
        if digits.isdigit() and digits.isascii() and len(digits) <= DIGITS_MAX:
            return int(digits)
        return BAD
    return _general(text)


def _general(text: str) -> int:
    """Return lots for any plain decimal notation."""
    whole, dot, part = text.partition(".")
    digits = whole + part
    if not digits.isdigit() or not digits.isascii() or len(digits) > DIGITS_MAX:
        return BAD
    if dot and not part:
        return BAD
    if len(part) > LOT_DECIMALS:
        if part[LOT_DECIMALS:].strip("0"):
            return BAD
        part = part[:LOT_DECIMALS]
    return int((whole or "0") + part.ljust(LOT_DECIMALS, "0"))
