"""Live streams: packets in, windows of kept patches with positions out."""
