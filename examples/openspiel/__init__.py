"""A player for Backbeat's jobs: self-play on OpenSpiel's games and on a connection game for more seats.

Nothing here imports Backbeat. A job is a command with a few environment variables (`job.py`), so any
other player, in any language, can stand in its place.
"""
