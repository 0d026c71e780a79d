"""Where entries come from: JSON files, tars of samples, tables of the library ``datasets``."""
