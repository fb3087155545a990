"""What a finished run says: terminal tables, one self-contained page, and several runs side by side (DESIGN A8)."""
