"""From pictures, frames and mosaics to the packed patches that the model takes."""
