"""The opt-out store, what fills it, and what asks it."""
