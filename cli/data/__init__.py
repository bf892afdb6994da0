"""`farm data`: the tokens that runs train on, made, shown and shared."""
