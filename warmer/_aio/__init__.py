"""The asyncio client's parts; their public face is :mod:`warmer.aio`."""
