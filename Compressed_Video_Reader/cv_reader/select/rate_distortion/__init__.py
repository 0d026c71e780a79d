"""Rate-distortion choice of cells: small pictures, distances, exact paths, windows, budgets."""
