"""`mtad bench speed`: tokens per second beside the limit of the hardware, and beside other engines.

limits.py     what the device can do: bytes and operations per second
cost.py       what a forward needs of both, and so the least time of an iteration
marks.py      counts the forwards of a decoding, in recorded iterations too
observe.py    the memory and the energy that it took
models.py     the pair as users get it, and plain copies for transformers
prompts.py    what is asked
runs.py       one way to decode, and the methods of mtad as such ways
baseline.py   transformers' `generate`
llama_cpp.py  llama.cpp; llama_engine.py has the process that runs llama_cpp.mjs
plan.py       the experiments: the main comparison, and one per axis of scaling
rows.py       the rows of speed.jsonl
measure.py    the loop: runs alternate, every row is written at once
summary.py    rows to results; tables.py, others.py, verdicts.py, plots.py, report.py show them
"""
