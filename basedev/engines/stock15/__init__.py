"""The engine for an unmodified Julia 1.5.x binary, as distributions ship it."""
