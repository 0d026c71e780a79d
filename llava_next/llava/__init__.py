"""A LLaVA model that sees video as a codec does: data, model, training, evaluation."""
