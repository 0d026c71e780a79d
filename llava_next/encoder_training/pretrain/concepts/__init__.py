"""The bank of concepts: features, spherical k-means, nearest centres as labels, a report."""
