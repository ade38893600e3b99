"""What the services share. It stays empty, because decode workers import this package and must start fast."""
