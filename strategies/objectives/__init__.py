"""Portfolio objectives beside mean-variance: one fixed program each, the same limits, the same ladder."""
