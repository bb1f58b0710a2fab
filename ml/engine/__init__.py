"""Many tasks, one frozen model, one batch: rows of different adapters share every step of one model.

A request's life: submit → fair queue → adapter loaded → slot (prefix copied in, LoRA row set) → prompt read in chunks →
one token a step, sampled, turned into text → done, and the slot is free. See ml/engine/engine.py.
"""
