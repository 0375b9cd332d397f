"""PPO beside trl 1.12.0, the last release that has it: the same case in processes of their own.

`benchmarks/ppo.py` starts both sides, lets them take turns and prints what came of it.
"""
