"""What was measured on this machine, kept between starts. Everything can be deleted at any time.

machine_profile.py (how fast memory, copies and threads are) and tuned.py (which choices were fastest for a
model) feed the placement; predictions.py (what was predicted and what came) feeds likely_cause.py.
"""
