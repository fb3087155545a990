"""Pure decoders, one module per venue: bytes in, typed values out."""
