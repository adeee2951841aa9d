"""Runs on this machine's disk until the tracking store has them.

All that a run logs is written here first, and sent at once where the store answers. What a store
that is down, full or refusing did not take waits, and is sent exactly once by ``sync``, by the
next command or as soon as the store answers again:

- `entry`: a run's folder: what it is, what it logged in order, and how much of it was sent.
- `sender`: puts one operation after another into the store; safe to repeat.
- `connection`: whether a store answers, and what it refused.
- `delivery`: decides when to send, and says what waits.
- `pending`: finished runs and adapters that the store has not got yet.
"""
