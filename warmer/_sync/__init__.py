"""The blocking client's parts; their public face is :mod:`warmer.client`."""
