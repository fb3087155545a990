"""The rim where bytes, clocks, files, processes and venues are touched."""
