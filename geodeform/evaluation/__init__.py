"""How well a model does, and what it costs: metrics as counts, and the evaluation of a dataset.

data (which items) → evaluate (predicts them as users do, counts) → result (figures, JSON, CSV)
"""
