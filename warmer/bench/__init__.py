"""The bench client: what feedback is worth, measured on a dataset through the SDK against live services.

`datasets` reads and prepares data, `users` simulate people, `protocols` and `hunts` play hunts, `runner` runs many of
them and can be interrupted, `records` is what it writes, `metrics` and `report` make figures of it. Needs the extra
`warmer[bench]`.
"""
