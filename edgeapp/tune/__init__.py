"""Find out what is fastest here: measure the machine, then load a model with one choice after the other.

machine.py (speeds of memory and copies) · candidates.py (what is worth a try) → trials.py (load, read, write)
→ tuning.py (until the time is over; the fastest is kept)
"""
