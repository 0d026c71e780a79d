"""A proof that pretraining learns, on made images and clips and a processor of two cores."""
