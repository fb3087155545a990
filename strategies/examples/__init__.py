"""Three small strategies that use nothing but the seam: the view comes in, weights go out."""
