"""Brings the big models into one place, checks them, lists and removes them: what `python -m services.models` does.

`registry` knows the models by name, `sources` says which files there are to bring, `downloads` and `copies` bring them,
`fetch` makes a model appear whole or not at all, `lock` records what came, `inventory` says what there is.
"""
