"""Arrays in, arrays out: geometry, energy per cell, the choice of cells, mosaics."""
