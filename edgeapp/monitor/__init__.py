"""Watch memory: samples of GPUs and RAM, their history, pressure, and the engines that run on this machine.

Only `samples` and `running` touch the world; the rest is arithmetic over frozen values.
"""
