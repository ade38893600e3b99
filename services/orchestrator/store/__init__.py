"""What the orchestrator keeps in Redis: sessions, rounds, the events of running rounds, and cached captions.

Nothing here knows protobuf: messages come and go as bytes.
"""
